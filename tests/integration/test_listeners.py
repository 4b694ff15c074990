"""Ports of their own for operators and the exchange, TLS, and the sentences where that cannot be."""

import asyncio
import errno
import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.config import Config, ConfigError
from broker.data_folder import read_json
from broker.listeners import ListenError, Place, hear_no_more, open_listeners, places, routes_at, urls_of
from tests import documented
from tests.conftest import Broker, Client, eventually, run_broker

BROKER = Path(sys.executable).with_name("broker")
PLAIN = Config(port=0)
APART = {Place.MAIN, Place.ADMIN, Place.CALLBACK}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two certificates and their keys: first.pem, first.key, second.pem, second.key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("first", "second"):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-days", "2", "-subj", f"/CN={name}.example.com", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    locked = ["openssl", "pkey", "-in", "first.key", "-aes256", "-passout", "pass:x", "-out", "locked.key"]
    subprocess.run(locked, cwd=folder, check=True, capture_output=True)
    return folder


def with_tls(config: Config, certificates: Path, name: str = "first") -> Config:
    return replace(config, tls_cert=certificates / f"{name}.pem", tls_key=certificates / f"{name}.key")


async def status_of(http: aiohttp.ClientSession, method: str, url: str, **kwargs: Any) -> int:
    async with http.request(method, url, **kwargs) as response:
        return response.status


# ------------------------------------------------------------------ ports of their own


def test_every_route_is_on_one_port_and_health_on_each() -> None:
    """Of all routes there are: a new one of operators cannot end up on the customers' port."""
    routes = documented.routes()
    at = {place: [(each.method, each.path) for each in routes_at(place, routes, APART)] for place in APART}
    found = Counter(route for place in APART for route in at[place])
    health = {("GET", "/healthz"), ("GET", "/readyz")}
    assert {route for route, count in found.items() if count != 1} == health
    assert found.keys() == {(each.method, each.path) for each in routes}
    assert {path for _, path in at[Place.ADMIN]} - {"/healthz", "/readyz", "/metrics"} == {
        each.path for each in routes if each.path.startswith("/admin/")
    }
    assert set(at[Place.CALLBACK]) - health == {("POST", "/webhooks/exchange")}
    assert not any(path.startswith(("/admin", "/webhooks", "/metrics")) for _, path in at[Place.MAIN])


def test_one_port_has_everything_unless_told_otherwise() -> None:
    routes = documented.routes()
    assert places(Config()) == [Place.MAIN]
    assert routes_at(Place.MAIN, routes, places(Config())) == routes


async def test_operators_and_the_exchange_have_their_own_ports(config: Config) -> None:
    apart = replace(config, admin_listen="127.0.0.1:0", callback_listen="127.0.0.1:0", look_after_s=60.0)
    async with run_broker(apart) as broker:
        running = broker.running
        assert running.admin_url != running.url
        operator = Client(broker.http, running.admin_url, running.admin_token)
        status, created = await operator.call("POST", "/admin/v1/customers", {"cash": "100000.00"})
        assert status == 201
        customer = Client(broker.http, running.url, created["token"], created["customerId"])
        _, trade = await customer.place("BUY", "AAPL", 1)
        # By its callback: nobody asks for a minute.
        assert (await customer.ended(trade["tradeId"]))["status"] == "FILLED"
        for method, path in (("GET", "/admin/v1/controls"), ("GET", "/metrics"), ("POST", "/webhooks/exchange")):
            async with broker.http.request(method, running.url + path, headers={"X": "y"}) as response:
                assert (response.status, (await response.json())["code"]) == (404, "no_such_route"), path
        headers = {"Authorization": f"Bearer {running.admin_token}"}
        assert await status_of(broker.http, "GET", f"{running.url}/admin/v1/controls", headers=headers) == 404
        assert await status_of(broker.http, "GET", f"{running.admin_url}/metrics") == 200
        assert await status_of(broker.http, "GET", f"{running.admin_url}/api/v1/trades") == 404
        assert await status_of(broker.http, "POST", f"{running.admin_url}/webhooks/exchange") == 404
        for url in (running.url, running.admin_url):
            assert await status_of(broker.http, "GET", f"{url}/healthz") == 200
            assert await status_of(broker.http, "GET", f"{url}/readyz") == 200
            async with broker.http.get(f"{url}/openapi.json") as response:
                described = (await response.json())["paths"]
            assert any(path.startswith("/admin/") for path in described) == (url == running.admin_url)
            assert any(path.startswith("/api/") for path in described) == (url == running.url)
        assert read_json(config.data / "running.json")["adminUrl"] == running.admin_url


@pytest.mark.parametrize("flag", ["port", "admin_listen", "callback_listen"])
def test_a_port_that_is_taken_is_named_with_its_flag(flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        value = port if flag == "port" else f"127.0.0.1:{port}"
        sentence = rf"^Cannot listen on 127.0.0.1:{port}: Address already in use. Name another port with --{flag}"
        with (
            pytest.raises(ListenError, match=sentence.replace("_", "-")),
            open_listeners(replace(PLAIN, **{flag: value})),
        ):
            pass


@pytest.mark.parametrize("text", ["9090", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", ":9090", "::1:9090", "[::1]"])
def test_an_address_is_a_host_and_a_port(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^admin_listen must be HOST:PORT, like 127.0.0.1:9090"):
        Config(admin_listen=text)


def test_an_address_may_be_of_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("there is no IPv6")
    try:
        with open_listeners(replace(PLAIN, admin_listen="[::1]:0")) as listeners:
            assert urls_of(listeners).admin.startswith("http://[::1]:")
    except ListenError as error:
        pytest.skip(str(error))


def test_ports_are_shared_only_on_purpose() -> None:
    shared = replace(PLAIN, reuse_port=True, database="postgresql:///books", exchange="http://127.0.0.1:1")
    with open_listeners(shared) as first:
        port = first[0].socket.getsockname()[1]
        with open_listeners(replace(shared, port=port)) as second:
            assert second[0].url == first[0].url
        first[0].socket.listen()
        with pytest.raises(ListenError, match="Address already in use"), open_listeners(replace(PLAIN, port=port)):
            pass


def test_sharing_ports_needs_a_shared_database_and_exchange() -> None:
    with pytest.raises(ConfigError, match=r"^reuse_port is for several brokers on one database and one exchange"):
        Config(reuse_port=True, database="postgresql:///books")


@pytest.mark.skipif(sys.platform != "linux", reason="what drops connections, and what helps, is Linux's")
def test_26_who_leaves_a_shared_port_takes_no_connection_along() -> None:
    """At the sockets: what waits at the one that leaves is accepted, and what comes meanwhile ends up at the other.

    Without `hear_no_more` half of the second lot would wait at a socket that is closed under them: a reset.
    """
    shared = replace(PLAIN, reuse_port=True, database="postgresql:///books", exchange="http://127.0.0.1:1")
    with open_listeners(shared) as first:
        leaving = first[0].socket
        with open_listeners(replace(shared, port=leaving.getsockname()[1])) as second, ExitStack() as stack:
            staying = second[0].socket
            for each in (leaving, staying):
                each.listen(128)
                each.setblocking(False)
            address = leaving.getsockname()
            clients = [stack.enter_context(connecting(address)) for _ in range(30)]
            waiting, others = all_accepted(leaving, staying, stack, 30)
            assert 0 < len(waiting) < 30  # the kernel has spread them
            clients += [stack.enter_context(connecting(address)) for _ in range(3)]
            hear_no_more(leaving)
            waiting += accepted(leaving, stack)
            clients += [stack.enter_context(connecting(address)) for _ in range(30)]
            leaving.close()
            for each in clients:  # those that were not heard try again after a second
                assert select.select([], [each], [], 10) == ([], [each], [])
                assert each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            _, more = all_accepted(None, staying, stack, len(clients) - len(waiting) - len(others))
            everywhere = [*waiting, *others, *more]
            assert sorted(each.getpeername() for each in everywhere) == sorted(each.getsockname() for each in clients)


def connecting(address: object) -> socket.socket:
    """A connection that is being made."""
    client = socket.socket()
    client.setblocking(False)
    assert client.connect_ex(address) in {0, errno.EINPROGRESS}
    return client


def all_accepted(
    leaving: socket.socket | None, staying: socket.socket, stack: ExitStack, count: int
) -> tuple[list[socket.socket], list[socket.socket]]:
    """What comes to each of the two until it is so many together: the kernel may take a moment for it."""
    until = time.monotonic() + 5
    at_leaving: list[socket.socket] = []
    at_staying: list[socket.socket] = []
    while True:
        at_leaving += accepted(leaving, stack) if leaving is not None else []
        at_staying += accepted(staying, stack)
        if len(at_leaving) + len(at_staying) >= count or time.monotonic() > until:
            return at_leaving, at_staying
        time.sleep(0.01)


def accepted(listener: socket.socket, stack: ExitStack) -> list[socket.socket]:
    """All that waits there now."""
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(stack.enter_context(listener.accept()[0]))
    return found


# ------------------------------------------------------------------ TLS


def tls_client(oldest: ssl.TLSVersion, newest: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = oldest, newest
    return context


async def certificate_at(url: str) -> str:
    """The certificate that a new connection is shown, as PEM."""
    host, port = url.rpartition("//")[2].split(":")
    return await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # it is there to be refused
async def test_with_a_certificate_all_ports_speak_tls_and_trades_still_settle(
    config: Config, certificates: Path
) -> None:
    """The exchange inside has a port of its own: it could not check a certificate for another name."""
    config = replace(with_tls(config, certificates), admin_listen="127.0.0.1:0", look_after_s=60.0)
    trusting = ssl.create_default_context(cafile=str(certificates / "first.pem"))
    trusting.check_hostname = False
    async with (
        run_broker(config) as plain,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as http,
    ):
        broker = Broker(plain.running, http, plain.dsn, config)
        assert broker.running.url.startswith("https://")
        assert broker.running.admin_url.startswith("https://")
        operator = Client(http, broker.running.admin_url, broker.running.admin_token)
        _, created = await operator.call("POST", "/admin/v1/customers", {"cash": "100000.00"})
        customer = Client(http, broker.running.url, created["token"])
        _, trade = await customer.place("BUY", "AAPL", 1)
        assert (await customer.ended(trade["tradeId"]))["status"] == "FILLED"
        async with http.get(f"{broker.running.url}/healthz") as response:
            assert response.headers["Strict-Transport-Security"] == "max-age=31536000"
        async with http.ws_connect(
            f"{broker.running.url}/api/v1/stream", headers={"Authorization": f"Bearer {created['token']}"}
        ):
            pass
        with pytest.raises(aiohttp.ClientError):
            await status_of(http, "GET", broker.running.url.replace("https", "http") + "/healthz")
        for version, is_taken in (
            (ssl.TLSVersion.TLSv1_1, False),
            (ssl.TLSVersion.TLSv1_2, True),
            (ssl.TLSVersion.TLSv1_3, True),
        ):
            attempt = asyncio.open_connection(
                "127.0.0.1", int(broker.running.url.rpartition(":")[2]), ssl=tls_client(version, version)
            )
            if is_taken:
                (await attempt)[1].close()
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await attempt


async def test_33_connections_that_begin_no_handshake_count_and_go_away(
    config: Config, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event loop says nothing of a connection until its handshake is done: silent ones would be without bound."""
    monkeypatch.setattr("broker.connections._HANDSHAKE_S", 10.0)
    config = replace(with_tls(config, certificates), connections_max=3)
    async with run_broker(config) as broker:
        host, port = broker.running.url.rpartition("//")[2].split(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
        async with asyncio.timeout(8.0):
            for reader, _ in silent[3:]:
                with suppress(ConnectionError):
                    assert await reader.read() == b""
        assert not silent[0][0].at_eof()
        silent[0][1].write(b"this is no TLS")  # one fails, one hangs up, and one takes too long
        silent[1][1].close()
        context = tls_client(ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)

        async def comes() -> bool:
            with suppress(OSError):
                silent.append(await asyncio.open_connection(host, int(port), ssl=context))
                return True
            return False

        for _ in range(3):
            await eventually(comes, 30)
        assert not await comes()
        for _, writer in silent:
            writer.close()


async def test_without_a_certificate_nobody_is_told_to_come_by_tls_for_ever(config: Config) -> None:
    async with run_broker(config) as broker, broker.http.get(f"{broker.running.url}/healthz") as response:
        assert "Strict-Transport-Security" not in response.headers


@pytest.mark.parametrize(
    ("cert", "key", "sentence"),
    [
        ("none.pem", "first.key", "The TLS certificate FOLDER/none.pem cannot be read: No such file or directory."),
        ("first.pem", "none.key", "The TLS key FOLDER/none.key cannot be read: No such file or directory."),
        (
            "first.pem",
            "second.key",
            "The TLS key FOLDER/second.key does not belong to the certificate FOLDER/first.pem.",
        ),
        ("first.pem", "locked.key", "The TLS key FOLDER/locked.key is encrypted."),
        ("first.key", "first.key", "The TLS certificate FOLDER/first.key and key FOLDER/first.key cannot be used: "),
        ("first.pem", "first.pem", "The TLS certificate FOLDER/first.pem and key FOLDER/first.pem cannot be used: "),
    ],
)
def test_files_that_cannot_be_used_are_named(certificates: Path, cert: str, key: str, sentence: str) -> None:
    unusable = replace(PLAIN, tls_cert=certificates / cert, tls_key=certificates / key)
    with pytest.raises(ListenError) as caught, open_listeners(unusable):
        pass
    assert str(caught.value).startswith(sentence.replace("FOLDER", str(certificates)))


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(ConfigError, match=r"^tls_cert and tls_key belong together"):
        Config(tls_cert=Path("cert.pem"))


async def test_a_new_certificate_is_read_at_sighup_and_the_commands_find_their_way(
    dsn: str, certificates: Path, tmp_path: Path
) -> None:
    """As processes: a certificate for another name than 127.0.0.1 keeps no command of the same machine out."""
    cert, key, data = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "data"

    def put(certificate: str, private: str) -> None:
        shutil.copy(certificates / certificate, cert)
        shutil.copy(certificates / private, key)

    put("first.pem", "first.key")
    flags = ["--port", "0", "--data", data, "--database", dsn, "--tls-cert", cert, "--tls-key", key, "--json"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            BROKER, "serve", *flags, stdout=asyncio.subprocess.PIPE, stderr=log, env=variables
        )
    try:
        assert process.stdout is not None
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        assert await certificate_at(ready["url"]) == (certificates / "first.pem").read_text()
        for certificate, private, shown, event in (
            ("second.pem", "second.key", "second.pem", "tls.reloaded"),
            ("first.pem", "second.key", "second.pem", "tls.not_reloaded"),  # halfway through its renewal
            ("first.pem", "first.key", "first.pem", "tls.reloaded"),
        ):
            put(certificate, private)
            seen = (tmp_path / "log").read_text().count(f'"{event}"')
            process.send_signal(signal.SIGHUP)

            async def said(event: str = event, seen: int = seen) -> bool:
                return (tmp_path / "log").read_text().count(f'"{event}"') > seen

            await eventually(said)
            assert await certificate_at(ready["url"]) == (certificates / shown).read_text()
        command = await asyncio.create_subprocess_exec(
            BROKER, "customer", "create", "--cash", "5.00", "--data", data,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=variables,
        )  # fmt: skip
        out, err = await asyncio.wait_for(command.communicate(), 30)
        assert command.returncode == 0, err.decode()
        assert json.loads(out)["customerId"]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
