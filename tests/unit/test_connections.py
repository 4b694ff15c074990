"""How many connections a port has: nobody fills another's part, and who is gone makes room."""

import resource
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from broker import connections
from broker.config import Config
from broker.connections import Connections
from broker.metrics import Metrics


def a_port(part: float = 1.0, address_max: int | None = None, **settings: Any) -> Connections:
    return Connections("main", part, address_max, Config(**settings), Metrics())


def test_a_port_has_its_part_and_who_is_gone_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_056, 1_056))  # 800 for connections
    port = a_port(1 / 8)
    came = [port.enter(number, "127.0.0.1") for number in range(102)]
    assert came == [True] * 100 + [False] * 2
    port.leave(7)
    port.leave(7)  # a connection that was lost in its handshake says so twice
    assert len(port) == 99
    assert port.enter(200, "127.0.0.1")
    assert not port.enter(201, "127.0.0.1")


def test_there_are_never_more_than_the_setting_says() -> None:
    port = a_port(connections_max=3)
    assert [port.enter(number, "192.0.2.1") for number in range(4)] == [True] * 3 + [False]


def test_one_address_leaves_room_for_others() -> None:
    port = a_port(address_max=2)
    assert [port.enter(number, "192.0.2.1") for number in range(4)] == [True, True, False, False]
    assert port.enter(10, "192.0.2.2")
    port.leave(2)  # which never came in
    port.leave(0)
    assert port.enter(11, "192.0.2.1")
    assert not port.enter(12, "192.0.2.1")


def test_of_ipv6_the_network_counts_as_one_and_ipv4_within_it_as_ipv4() -> None:
    port = a_port(address_max=1)
    assert port.enter(1, "2001:db8::1")
    assert not port.enter(2, "2001:db8::2")
    assert port.enter(3, "2001:db8:0:1::1")
    assert port.enter(4, "192.0.2.1")
    assert not port.enter(5, "::ffff:192.0.2.1")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.1.2.3"])
def test_this_machine_and_trusted_proxies_bring_as_many_as_the_port_has(address: str) -> None:
    port = a_port(address_max=1, trusted_proxies="10.0.0.0/8")
    assert all(port.enter(number, address) for number in range(100))


def test_the_alarm_does_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "log", structlog.wrap_logger(None, wrapper_class=structlog.BoundLogger))
    port = a_port(address_max=1, connections_max=2)
    with capture_logs() as lines:
        for number in range(100):
            port.enter(number, "192.0.2.1")
        port.enter(200, "192.0.2.2")
        for number in range(300, 400):
            port.enter(number, "192.0.2.3")
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("connections.address_at_limit", "warning"),
        ("connections.at_limit", "error"),
    ]
