"""What the operator's commands share: they find a running broker in the data folder, and call its /admin/v1."""

import argparse
import asyncio
import json
import os
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from broker.commands.running import UsageError
from broker.config import default_data, from_environment
from broker.data_folder import read_json

WHERE = "Its URL and admin token are found in the data folder, or given with --url and BROKER_ADMIN_TOKEN."


def add_where(parser: argparse.ArgumentParser) -> None:
    """Before the action and behind it; what is not given at one place leaves the other as it is."""
    url = "the broker's URL (default: of the broker that runs on the data folder)"
    parser.add_argument("--url", default=argparse.SUPPRESS, help=url)
    data = f"the broker's data folder [{default_data()}]"
    parser.add_argument("--data", type=Path, default=argparse.SUPPRESS, help=data)


def add_action(actions: Any, name: str, help_: str) -> argparse.ArgumentParser:
    """One of a command's actions, which says where the broker is."""
    action: argparse.ArgumentParser = actions.add_parser(name, help=help_, description=help_)
    add_where(action)
    return action


def call(
    options: argparse.Namespace, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float = 10
) -> int:
    """Call the operator's API, print the answer, and return the exit code."""
    broker = _broker(options)
    status, answer = asyncio.run(_call(broker, method, path, body, timeout_s))
    print(json.dumps(answer, indent=2), file=sys.stdout if status < 400 else sys.stderr)
    return 0 if status < 400 else 1


@dataclass(frozen=True, slots=True)
class _Broker:
    """A running broker, and how to make sure that it is the one."""

    url: str
    token: str
    tls: ssl.SSLContext | bool


def _broker(options: argparse.Namespace) -> _Broker:
    folder = options.data or Path(os.environ.get("BROKER_DATA") or default_data())
    given = options.url or os.environ.get("BROKER_URL")
    running = read_json(folder / "running.json")
    url = given or running.get("adminUrl") or running.get("url")
    token = from_environment("BROKER_ADMIN_TOKEN", os.environ) or read_json(folder / "secrets.json").get("adminToken")
    if not url or not token:
        missing = "URL (--url)" if not url else "admin token (BROKER_ADMIN_TOKEN)"
        why = "may not be read by you" if _is_closed(folder) else "has no running broker"
        raise UsageError(
            f"The folder {folder} {why}, so the broker's {missing} is not known. Give it, or another --data."
        )
    certificate = None if given else running.get("certificate")
    return _Broker(str(url), str(token), _only(certificate) if certificate else True)


def _only(certificate: str) -> ssl.SSLContext:
    """Trust this very certificate, whatever name it is for: the broker's own folder says that it is the broker's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # it need not be an authority's
    try:
        context.load_verify_locations(certificate)
    except (OSError, ssl.SSLError) as error:
        sentence = f"The broker's certificate {certificate} cannot be read. Give the broker's URL with --url."
        raise UsageError(sentence) from error
    return context


def _is_closed(folder: Path) -> bool:
    return folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK)


async def _call(
    broker: _Broker, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float
) -> tuple[int, Any]:
    url, headers = broker.url, {"Authorization": f"Bearer {broker.token}"}
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
            session.request(method, f"{url.rstrip('/')}/admin/v1/{path}", json=body, ssl=broker.tls) as response,
        ):
            return response.status, await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise UsageError(f"The broker at {url} does not answer ({type(error).__name__}).") from error
    except ValueError as error:
        raise UsageError(f"What answers at {url} is no stockbroker: it sends no JSON.") from error
