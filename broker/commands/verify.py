"""`broker verify`: are the books right?"""

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

import asyncpg
import structlog
import uvloop

from broker import log
from broker.audit import CHAINS
from broker.commands.running import UsageError
from broker.config import default_data, from_environment
from broker.data_folder import DataFolder, DataFolderError
from broker.embedded import EmbeddedPostgres, EmbeddedPostgresError, running_dsn
from broker.verify import Heads, verify

_CANNOT_TELL = 2
"""The exit code where no rule was found broken, and none was found kept either."""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        help="check every rule of the books; exit code 1 if one is broken, 2 if that cannot be told",
        description="Check the books: nothing overdrawn, every transfer balanced, every fill settled once, every "
        "trade's history whole. Works beside a running broker and on a stopped one.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--data", type=Path, help=f"data folder of the broker [{default_data()}]")
    where.add_argument("--database", help="DSN of its PostgreSQL")
    parser.add_argument(
        "--heads", type=Path, help="a file that `broker audit heads` wrote: the audit log must still have them"
    )
    parser.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    log.configure("error")
    dsn = options.database or (None if options.data else from_environment("BROKER_DATABASE", os.environ))
    folder = options.data or Path(os.environ.get("BROKER_DATA") or default_data())
    heads = _read_heads(options.heads) if options.heads else None
    try:
        if dsn is None and not (folder / "postgres").exists():
            raise UsageError(f"There is no broker's database in {folder}. Name its folder with --data.", _CANNOT_TELL)
        return uvloop.run(_verify_dsn(dsn, heads) if dsn else _verify_folder(folder.absolute(), heads))
    except PermissionError as error:
        sentence = f"The folder {folder} may not be read by you; run it as the broker's user."
        raise UsageError(sentence, _CANNOT_TELL) from error
    except (DataFolderError, EmbeddedPostgresError) as error:
        raise UsageError(str(error), _CANNOT_TELL) from error


async def _verify_folder(folder: Path, heads: Heads | None) -> int:
    """Beside a running broker through its server; on a stopped one through a server of our own."""
    try:
        with DataFolder(folder):
            embedded = await EmbeddedPostgres.start(folder, structlog.get_logger())
            try:
                return await _verify_dsn(embedded.dsn, heads)
            finally:
                await embedded.stop()
    except DataFolderError:
        dsn = running_dsn(folder)
        if dsn is None:
            raise
        return await _verify_dsn(dsn, heads)


def _read_heads(path: Path) -> Heads:
    """One of each chain: what checks nothing must not say that all is well."""
    try:
        heads = dict(json.loads(path.read_text("utf-8"))["heads"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        sentence = f"{path} has no heads as `broker audit heads` writes them ({type(error).__name__})."
        raise UsageError(sentence, _CANNOT_TELL) from error
    chains = [str(chain) for chain in range(CHAINS)]
    wrong = [f"chain {chain} is missing" for chain in chains if chain not in heads]
    wrong += [f"there is no chain {chain[:20]!r}" for chain in heads if chain not in chains]
    wrong += [f"chain {chain} has {what}" for chain, head in heads.items() if (what := _wrong_head(head))]
    if wrong:
        sentence = f"{path} has no heads as `broker audit heads` writes them: {wrong[0]}."
        raise UsageError(sentence, _CANNOT_TELL)
    return {chain: (number, hash_.lower()) for chain, (number, hash_) in heads.items()}


def _wrong_head(head: object) -> str | None:
    match head:
        case [int(number), str(hash_)]:
            if isinstance(number, bool) or not 0 <= number < 2**63:
                return f"no number from 0 to {2**63 - 1}"
            return None if re.fullmatch("[0-9a-fA-F]{64}", hash_) else "no hash of 64 hex digits"
    return "not one number and one hash"


async def _verify_dsn(dsn: str, heads: Heads | None) -> int:
    try:
        findings = await verify(dsn, heads)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
        raise UsageError(f"The database cannot be verified: {error}.", _CANNOT_TELL) from error
    for finding in findings:
        if finding.row is None:
            print(f"ok      {finding.rule}")
        else:
            row = ", ".join(f"{name}={value}" for name, value in finding.row.items())
            print(f"BROKEN  {finding.rule}: first row {row}")
    broken = sum(finding.row is not None for finding in findings)
    print(
        f"{len(findings)} rules checked, {broken} broken." if broken else f"{len(findings)} rules checked: all is well."
    )
    return 1 if broken else 0
