"""The command `broker`. What is expected to go wrong ends in one sentence and exit code 1, never in a traceback."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from broker import log
from broker.app import StartError
from broker.commands import audit, backup, bench, control, corporate, customer, exchange, key, record, serve, verify
from broker.commands.running import UsageError
from broker.config import ConfigError
from broker.data_folder import DataFolderError
from broker.db import DatabaseUnavailable
from broker.embedded import EmbeddedPostgresError
from broker.listeners import ListenError
from broker.schema import SchemaError

_EXPECTED = (
    UsageError,
    StartError,
    ListenError,
    ConfigError,
    DataFolderError,
    SchemaError,
    EmbeddedPostgresError,
    DatabaseUnavailable,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    options = parser().parse_args(arguments)
    if not __debug__:
        print("broker: Python's -O takes out checks that guard money. Run it without.", file=sys.stderr)
        return 1
    try:
        return int(options.run(options))
    except UsageError as error:
        print(f"broker: {log.redacted(str(error))}", file=sys.stderr)
        return error.exit_code
    except _EXPECTED as error:
        print(f"broker: {log.redacted(str(error))}", file=sys.stderr)
    except BaseExceptionGroup as group:
        expected, other = group.split(_EXPECTED)
        if expected is None or other is not None:
            raise
        print(f"broker: {log.redacted(str(_first(expected)))}", file=sys.stderr)
    return 1


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="broker",
        description="A self-hosted stockbroker: customers trade over HTTP, and their money stays right.",
        epilog="broker COMMAND --help tells more. Every flag of serve can be set as BROKER_<NAME> instead; secrets "
        "only so: BROKER_ADMIN_TOKEN, BROKER_WEBHOOK_SECRETS. BROKER_<NAME>_FILE names a file that has it.",
    )
    top.add_argument("--version", action="version", version=f"stockbroker {version('stockbroker')}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (serve, exchange, record, customer, key, control, corporate, audit, backup, bench, verify):
        command.add(commands)
    return top
