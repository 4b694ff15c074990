"""`broker backup`: a copy of a running broker's database, from which a broker can be started."""

import argparse
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from broker.commands.running import UsageError
from broker.config import default_data
from broker.embedded import running_dsn
from broker.pg_binaries import find_programs


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "backup",
        help="copy a running broker's own database into a new data folder",
        description="Copy the database of a broker that runs on its own PostgreSQL, while it works, into a new folder "
        "with the admin token. To restore is to start a broker on that folder (or on a copy of it): broker serve "
        "--data FOLDER. What was committed before the command ends is in it. The folder of a broker that is stopped "
        "can simply be copied.",
    )
    parser.add_argument("--data", type=Path, help=f"data folder of the broker [{default_data()}]")
    parser.add_argument("folder", type=Path, help="the new folder: it must not be there yet")
    parser.set_defaults(run=_backup)


def _backup(options: argparse.Namespace) -> int:
    data = options.data or Path(os.environ.get("BROKER_DATA") or default_data())
    dsn = running_dsn(data)
    if dsn is None:
        raise UsageError(
            f"No broker runs on a database of its own in {data}. Of a database that was named with --database, make "
            "the backup with its own tools."
        )
    if options.folder.exists():
        raise UsageError(f"{options.folder} is there already; name a folder that is not.")
    programs = find_programs(int((data / "postgres" / "PG_VERSION").read_text())).bin
    where = parse_qs(urlsplit(dsn).query)
    options.folder.mkdir(mode=0o700, parents=True)
    copy = options.folder.resolve() / "postgres"
    source = ["--host", where["host"][0], "--port", where["port"][0], "--username", "postgres"]
    try:
        _run([str(programs / "pg_basebackup"), *source, "--pgdata", str(copy), "--checkpoint=fast"])
        _run([str(programs / "pg_verifybackup"), str(copy)])
    except UsageError:
        shutil.rmtree(options.folder)  # nobody may take it for a backup
        raise
    if (data / "secrets.json").exists():
        shutil.copy2(data / "secrets.json", options.folder)  # with its mode, 0600
    print(f"{options.folder} has the backup, and every file of it is as the database wrote it.")
    return 0


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - PostgreSQL's own programs
    except FileNotFoundError as error:
        raise UsageError(f"{command[0]} is not installed, and the backup is made with it.") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise UsageError(f"{Path(command[0]).name} failed: {said[-1] if said else error.returncode}.") from error
