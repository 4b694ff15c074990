"""`broker verify`: are the books right?"""

import argparse
import os
from pathlib import Path
from typing import Any

import asyncpg
import structlog
import uvloop

from broker import log
from broker.commands.running import UsageError
from broker.config import default_data
from broker.data_folder import DataFolder, DataFolderError
from broker.embedded import EmbeddedPostgres, EmbeddedPostgresError, running_dsn
from broker.verify import verify

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
    parser.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    log.configure("error")
    dsn = options.database or (None if options.data else os.environ.get("BROKER_DATABASE"))
    folder = options.data or Path(os.environ.get("BROKER_DATA") or default_data())
    try:
        if dsn is None and not (folder / "postgres").exists():
            raise UsageError(f"There is no broker's database in {folder}. Name its folder with --data.", _CANNOT_TELL)
        return uvloop.run(_verify_dsn(dsn) if dsn else _verify_folder(folder.absolute()))
    except PermissionError as error:
        sentence = f"The folder {folder} may not be read by you; run it as the broker's user."
        raise UsageError(sentence, _CANNOT_TELL) from error
    except (DataFolderError, EmbeddedPostgresError) as error:
        raise UsageError(str(error), _CANNOT_TELL) from error


async def _verify_folder(folder: Path) -> int:
    """Beside a running broker through its server; on a stopped one through a server of our own."""
    try:
        with DataFolder(folder):
            embedded = await EmbeddedPostgres.start(folder, structlog.get_logger())
            try:
                return await _verify_dsn(embedded.dsn)
            finally:
                await embedded.stop()
    except DataFolderError:
        dsn = running_dsn(folder)
        if dsn is None:
            raise
        return await _verify_dsn(dsn)


async def _verify_dsn(dsn: str) -> int:
    try:
        findings = await verify(dsn)
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
