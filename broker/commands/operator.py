"""What the operator's commands share: they find a running broker in the data folder, and call its /admin/v1."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from broker.commands.running import UsageError
from broker.config import default_data
from broker.data_folder import read_json

WHERE = "Its URL and admin token are found in the data folder, or given with --url and BROKER_ADMIN_TOKEN."


def add_where(parser: argparse.ArgumentParser) -> None:
    """Before the action and behind it; what is not given at one place leaves the other as it is."""
    url = "the broker's URL (default: of the broker that runs on the data folder)"
    parser.add_argument("--url", default=argparse.SUPPRESS, help=url)
    data = f"the broker's data folder [{default_data()}]"
    parser.add_argument("--data", type=Path, default=argparse.SUPPRESS, help=data)


def call(
    options: argparse.Namespace, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float = 10
) -> int:
    """Call the operator's API, print the answer, and return the exit code."""
    url, token = _broker(options)
    status, answer = asyncio.run(_call(url, token, method, path, body, timeout_s))
    print(json.dumps(answer, indent=2), file=sys.stdout if status < 400 else sys.stderr)
    return 0 if status < 400 else 1


def _broker(options: argparse.Namespace) -> tuple[str, str]:
    folder = options.data or Path(os.environ.get("BROKER_DATA") or default_data())
    url = options.url or os.environ.get("BROKER_URL") or read_json(folder / "running.json").get("url")
    token = os.environ.get("BROKER_ADMIN_TOKEN") or read_json(folder / "secrets.json").get("adminToken")
    if not url or not token:
        missing = "URL (--url)" if not url else "admin token (BROKER_ADMIN_TOKEN)"
        why = "may not be read by you" if _is_closed(folder) else "has no running broker"
        raise UsageError(
            f"The folder {folder} {why}, so the broker's {missing} is not known. Give it, or another --data."
        )
    return str(url), str(token)


def _is_closed(folder: Path) -> bool:
    return folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK)


async def _call(
    url: str, token: str, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float
) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
            session.request(method, f"{url.rstrip('/')}/admin/v1/{path}", json=body) as response,
        ):
            return response.status, await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise UsageError(f"The broker at {url} does not answer ({type(error).__name__}).") from error
    except ValueError as error:
        raise UsageError(f"What answers at {url} is no stockbroker: it sends no JSON.") from error
