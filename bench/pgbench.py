"""The reference for the database: pgbench writes what a settled trade writes, in one transaction a trade.

The broker's own schema with its triggers, in a database of its own on the broker's server, and pgbench.sql: the claim
of the account, the trade as it starts and as it ends, its three events, transfer, four postings and execution. No HTTP,
no exchange, no decision is in it. In its favour every account is there already, and each client has house rows of its
own.
"""

import asyncio
import re
import subprocess
import tempfile
from pathlib import Path

from bench.servers import CUSTOMERS, SYMBOLS, fetch
from broker import schema
from broker.pg_binaries import find_programs

CLIENTS = 8
_DATABASE = "pgbench"
_CASH = 1_000_000 * 10_000
_PREPARE = (
    f"""SELECT create_customer(name => 'C' || n, account_type => 'cash', key_id => 'C' || n,
        secret_hash => sha256('C'), cash => {_CASH}, transfer_id => uuidv7(), external_owner => -2, credit => 0)
        FROM generate_series(1, {CUSTOMERS}) AS n""",
    f"""INSERT INTO account (owner_id, asset)
        SELECT 1000 + n, 'T' || t FROM generate_series(1, {CUSTOMERS}) AS n, generate_series(1, {len(SYMBOLS)}) AS t""",
    f"""INSERT INTO account (owner_id, asset, floor)
        SELECT -(10 * client + 1), asset, -9000000000000000000 FROM generate_series(0, {CLIENTS - 1}) AS client,
            (SELECT '$USD' UNION ALL SELECT 'T' || t FROM generate_series(1, {len(SYMBOLS)}) AS t) AS known (asset)""",
    "ANALYZE",
)


def program() -> Path | None:
    """Where pgbench lies: beside the server's own program, or nowhere."""
    path = find_programs(None).bin / "pgbench"
    return path if path.exists() else None


def prepare(dsn: str) -> str:
    """Make the database, its schema and its accounts on the server of this DSN; returns the DSN of the new one."""
    fetch(dsn, f"CREATE DATABASE {_DATABASE}")
    made = dsn.replace("/postgres?", f"/{_DATABASE}?")
    asyncio.run(schema.install(made))
    for sql in _PREPARE:
        fetch(made, sql)
    return made


def run(dsn: str, trades: int) -> tuple[float, list[float]]:
    """So many trades by all clients together: trades a second, and what each took in seconds."""
    path = program()
    assert path is not None
    before = _settled(dsn)
    with tempfile.TemporaryDirectory() as folder:
        command = [str(path), "--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}", "--jobs=1"]
        command += [f"--transactions={trades // CLIENTS}", f"--file={Path(__file__).with_suffix('.sql')}"]
        command += [f"--define=customers={CUSTOMERS}", f"--define=symbols={len(SYMBOLS)}"]
        command += ["--log", f"--log-prefix={folder}/log", dsn]
        environment = {"PGOPTIONS": "-c search_path=broker"}
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stderr
        lines = [line for log in Path(folder).iterdir() for line in log.read_text().splitlines()]
    assert _settled(dsn) - before == len(lines) == trades // CLIENTS * CLIENTS, said.stdout
    per_s = re.findall(r"^tps = ([\d.]+)", said.stdout, re.MULTILINE)
    return float(per_s[0]), [int(line.split()[2]) / 1e6 for line in lines]


def _settled(dsn: str) -> int:
    return int(fetch(dsn, "SELECT count(*) FROM trade WHERE status = 'FILLED'")[0][0])
