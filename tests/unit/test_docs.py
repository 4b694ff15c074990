"""The documentation says what the code does: nothing is missing from it, and nothing that it names is gone.

    python -m tests.unit.test_docs

prints the tables of docs/configuration.md as they have to be.
"""

import argparse
import ast
import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

import broker
from broker import api, assembly
from broker.cli import parser
from broker.config import Config
from broker.core import risk
from broker.core.fees import DEFAULT_FEES, format_fees, parse_fees
from broker.core.messages import Anomaly, Refusal
from broker.core.types import Status
from broker.http import convert, parse_json
from broker.metrics import Metrics
from broker.openapi import operation_of
from broker.verify import rules
from tests import documented

ROOT = Path(__file__).parents[2]
CODE = Path(broker.__file__).parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def everything() -> str:
    return "\n".join(text(name) for name in NAMES)


# ------------------------------------------------------------------ settings


def settings_table(group: str) -> str:
    """The settings of a group ("main", "secret", "risk" or "limits") as Markdown."""
    lines = ["| flag | variable | default | why |", "|---|---|---|---|"]
    for each in dataclasses.fields(Config):
        if group == ("secret" if each.metadata["secret"] else each.metadata["group"]):
            flag = "none" if group == "secret" else f"`--{each.name.replace('_', '-')}`"
            why = each.metadata["why"].replace("|", r"\|")
            lines.append(f"| {flag} | `BROKER_{each.name.upper()}` | {_default(each)} | {why} |")
    return "\n".join(lines)


def _default(each: dataclasses.Field[Any]) -> str:
    if each.name == "data":  # it depends on who asks
        return "`/var/lib/stockbroker` for root, else `~/.local/share/stockbroker`"
    if each.name == "fees":  # a table in itself
        return "[this table](fees.md#the-default-table)"
    return "none" if each.default in (None, "") else f"`{each.default}`"


GROUPS = ("main", "secret", "risk", "limits")


def test_no_setting_is_in_a_group_that_is_not_documented() -> None:
    groups = {"secret" if each.metadata["secret"] else each.metadata["group"] for each in dataclasses.fields(Config)}
    assert groups == set(GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_every_setting_is_documented_as_it_is(group: str) -> None:
    table = settings_table(group)
    assert table in text("docs/configuration.md"), f"put this into docs/configuration.md:\n{table}"


def test_the_default_fees_are_documented_row_by_row() -> None:
    rows = format_fees(DEFAULT_FEES).split("; ")
    assert re.findall(r"^    ([A-Z]+ \d{4}-\d\d-\d\d .*?);?$", text("docs/fees.md"), re.MULTILINE)[: len(rows)] == rows


@pytest.mark.parametrize("command", re.findall(r"^    BROKER_FEES='(.*)'", text("docs/fees.md"), re.MULTILINE))
def test_every_table_of_fees_that_is_shown_can_be_read(command: str) -> None:
    assert parse_fees(command)


def test_every_variable_that_is_named_exists() -> None:
    known = {f"BROKER_{each.name.upper()}" for each in dataclasses.fields(Config)} | {"BROKER_URL"}
    known |= {f"{name}_FILE" for name in known}  # a file that has the value
    assert set(re.findall(r"\bBROKER_[A-Z_]+\b", everything())) <= known


# ------------------------------------------------------------------ routes and errors


@cache
def routes() -> frozenset[tuple[str, str]]:
    """Every route of the broker: those of the dialects, and those that app.py mounts itself."""
    found = webhooks()
    for module in pkgutil.iter_modules(api.__path__, "broker.api."):
        for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if cls.__module__ == module.name and hasattr(cls, "routes"):
                found |= {(route.method, route.path) for route in cls.routes(cls.__new__(cls))}
    return frozenset((method.upper(), path) for method, path in found)


def webhooks() -> set[tuple[str, str]]:
    """The callback path of the first exchange, and that of one with a name."""
    venue = SimpleNamespace(desk=SimpleNamespace(ask=None))
    router = cast(Any, SimpleNamespace(venues={assembly.VENUE: venue, "{venue}": venue}))
    nothing = cast(Any, SimpleNamespace(report=None))
    return {(route.method, route.path) for route in assembly._webhooks(Config(), [], router, nothing, nothing)}


def test_every_route_has_its_section_and_no_other_has() -> None:
    assert ("POST", "/webhooks/exchange") in routes()
    assert len(routes()) > 15
    assert set(re.findall(r"^#+ `([A-Z]+) (/\S*)`", text("docs/api.md"), re.MULTILINE)) == routes()


def error_codes() -> set[tuple[str, str]]:
    """(status, code) of every error in the code; the status is "any" where the code alone does not say it."""
    found = set()
    for file in CODE.rglob("*.py"):
        if "simulator" in file.parts:
            continue
        for function in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found |= set(_errors_of(function))
    return found


def _errors_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    for call in ast.walk(function):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name in {"ApiError", "_refuse"} and len(call.args) > 1:
            status = call.args[0].value if isinstance(call.args[0], ast.Constant) else "any"
            yield from ((str(status), code) for code in _texts(call.args[1], function))
        elif name == "_busy":
            yield from (("503", code) for code in _texts(call.args[0], function))


def _texts(argument: ast.expr, function: ast.AST) -> Iterator[str]:
    """The text of an argument, or the texts that the function gives to the variable that it is."""
    sources: list[ast.expr] = [argument]
    if isinstance(argument, ast.Name):
        assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
        sources = [node.value for node in assigned if ast.unparse(node.targets[0]) == argument.id]
    for source in sources:
        branches = [source.body, source.orelse] if isinstance(source, ast.IfExp) else [source]
        yield from (branch.value for branch in branches if isinstance(branch, ast.Constant) and branch.value)


def test_every_error_code_has_its_row_with_its_status_and_no_other_has() -> None:
    codes = error_codes()
    assert {("400", "invalid_json"), ("500", "broken_rule"), ("401", "bad_signature"), ("any", "http_error")} <= codes
    assert set(re.findall(r"^\| (\d+|any) \| `(\w+)` \|", text("docs/api.md"), re.MULTILINE)) == codes


def test_every_status_refusal_and_anomaly_is_explained() -> None:
    missing = [word for word in (*Status, *Refusal) if f"`{word}" not in text("docs/api.md")]
    missing += [cause.value for cause in Anomaly if f"`{cause.value}`" not in text("docs/api.md")]
    assert not missing


def code_of_refusal(refusal: Refusal) -> str:
    """As `OrdersApi` makes it."""
    return str(refusal).lower().replace(" ", "_")


@pytest.mark.parametrize("page", ["docs/api.md", "docs/risk.md"])
def test_the_risk_checks_are_documented_in_the_order_in_which_they_run(page: str) -> None:
    order = [
        code_of_refusal(Refusal[name])
        for check in (*risk.AT_PLACING, *risk.AT_START)
        for name in re.findall(r"\bRefusal\.([A-Z_]+)", inspect.getsource(check))
    ]
    assert set(order) == {code_of_refusal(each) for each in Refusal} - {"cannot_be_replaced", "open_orders"}
    assert [code for code in re.findall(r"^\| `(\w+)` \|", text(page), re.MULTILINE) if code in order] == order


# ------------------------------------------------------------------ commands and snippets


def code_of(name: str) -> list[str]:
    """The lines of a page's code blocks, with those that end in a backslash joined to the next."""
    blocks = re.findall(r"^(?:    |\t)([^\n]*)$|^```\w*\n(.*?)^```", text(name), re.MULTILINE | re.DOTALL)
    lines = "\n".join(indented or fenced for indented, fenced in blocks)
    return lines.replace("\\\n", " ").splitlines()


def commands() -> Iterator[str]:
    """Every line of code in the documentation that runs the command broker."""
    begins = "serve|exchange|record|customer|control|corporate|bench|verify"
    for name in NAMES:
        for line in code_of(name):
            match = re.match(rf"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?broker ((?:{begins}|--).*)", line)
            if match:
                yield match[1]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_the_command_line_takes_what_the_documentation_types(command: str) -> None:
    try:
        parser().parse_args(shlex.split(command, comments=True))
    except SystemExit as ended:
        assert ended.code == 0, command  # noqa: PT017 - argparse ends so after --help


def flags(of: argparse.ArgumentParser) -> set[str]:
    found = {flag for action in of._actions for flag in action.option_strings}
    subparsers = [action for action in of._actions if isinstance(action, argparse._SubParsersAction)]
    return found.union(*(flags(each) for action in subparsers for each in action.choices.values()))


def test_every_flag_that_is_named_exists_and_every_flag_is_named() -> None:
    spans = [span for name in NAMES for span in (*re.findall(r"`([^`\n]+)`", text(name)), *code_of(name))]
    foreign = re.compile(r"\b(curl|pytest|ruff|pip|pre-commit|git|bench\.\w+|pg_\w+|psql|python)\b")
    named = {
        flag for span in spans if not foreign.search(span) for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)
    }
    assert named <= flags(parser())
    assert {flag for flag in flags(parser()) if flag.startswith("--")} - {"--help", "--version"} <= named


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    code = [span for name in NAMES for span in (*re.findall(r"`([^`\n]+)`", text(name)), *code_of(name))]
    named = {target for span in code for target in re.findall(r"\bmake ([a-z]+)", span)}
    assert {"run", "test"} <= named <= targets


def bodies() -> dict[tuple[str, str], type[Any]]:
    declared = {(route.method, route.path): operation_of(route.handler) for route in documented.routes()}
    return {route: each.body for route, each in declared.items() if each is not None and each.body is not None}


def curls() -> Iterator[list[str]]:
    for name in NAMES:
        yield from (shlex.split(line) for line in code_of(name) if line.startswith("curl "))


@pytest.mark.parametrize("words", list(curls()), ids=" ".join)
def test_every_request_that_is_shown_is_one_that_the_broker_takes(words: list[str]) -> None:
    url = next(word for word in words if word.startswith("http"))
    path, _, _ = url.removeprefix("http://127.0.0.1:8080").partition("?")
    method = words[words.index("-X") + 1] if "-X" in words else "GET"
    patterns = {re.sub(r"\{\w+\}", "[^/]+", known): known for known_method, known in routes() if known_method == method}
    found = [known for pattern, known in patterns.items() if re.fullmatch(pattern, path)]
    assert found, f"{method} {path}"
    if "-d" in words:
        route = path if path in found else found[0]
        convert(parse_json(words[words.index("-d") + 1].encode()), bodies()[method, route])


@pytest.mark.parametrize(("name", "least"), [("README.md", 3), ("docs/api.md", 20)])
def test_every_answer_that_is_shown_is_json(name: str, least: int) -> None:
    """An answer may be broken into lines, its secrets shortened, and what was shown before left out."""
    shown = re.findall(r'^ {4}(\{"\w+":.*?\})$(?=\n\n|\n {4}[^ ])', text(name), re.MULTILINE | re.DOTALL)
    assert len(shown) >= least
    for answer in shown:
        json.loads(answer.replace(", …", ""))


# ------------------------------------------------------------------ names


def definitions() -> set[str]:
    """What the code defines, as `function`, `module.function`, `Class`, `Class.member`, and its log's events."""
    found = set()
    for file in CODE.rglob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        found |= {name for node in tree.body for name in _names(node)}
        found |= {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        found |= {f"{file.stem}.{name}" for node in tree.body for name in _names(node)}
        for cls in [node for node in tree.body if isinstance(node, ast.ClassDef)]:
            found |= {f"{cls.name}.{name}" for node in cls.body for name in _names(node)}
    return found


def _names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def spans_like(pattern: str) -> set[tuple[str, str]]:
    return {(name, span) for name in NAMES for span in re.findall(rf"`({pattern})`", text(name))}


def test_every_function_and_class_that_is_named_exists() -> None:
    known = definitions()
    modules = {file.stem for file in CODE.rglob("*.py")}
    named = spans_like(r"[A-Z]\w*[a-z]\w*\.\w+") | spans_like(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+")
    named |= {
        (page, span)
        for page, span in spans_like(r"[a-z_]+\.[a-z_]+")
        if span.split(".")[0] in modules and span.split(".")[1] not in {"py", "sql", "json", "journal", "csv"}
    }
    assert not {(page, span) for page, span in named if span not in known}


def test_every_test_that_is_named_exists() -> None:
    known = {
        name for file in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert not {(page, span) for page, span in spans_like(r"test_\w+") if span not in known}


def test_every_file_that_is_named_exists() -> None:
    named = spans_like(r"(?:broker|tests|docs|bench|requirements)/[\w./-]*\w/?")
    assert len(named) > 20
    assert not {(page, span) for page, span in named if not (ROOT / span).exists()}


def test_every_metric_that_is_named_exists() -> None:
    exposed = set(re.findall(r"^# TYPE (\w+)", Metrics().exposition().decode(), re.MULTILINE))
    of_the_database = {"broker_runtime", "broker_before"}  # the role, and the old schema during a migration
    assert {span for _, span in spans_like(r"broker_\w+")} - of_the_database <= exposed


def _anchors(name: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text(name), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text(name)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in _anchors(str(target.resolve().relative_to(ROOT))), link


@pytest.mark.parametrize("name", NAMES)
def test_no_page_names_a_folder_of_somebodys_machine(name: str) -> None:
    assert not re.findall(r"(?<![\w.~-])/(?:work|home|root|Users|tmp|private|mnt)\b\S*", text(name))


# ------------------------------------------------------------------ counts and lists


def test_the_number_of_rules_is_right() -> None:
    assert set(re.findall(r"(\d+) rules checked", everything())) == {str(len(list(rules())))}


def test_the_number_of_symbols_is_right() -> None:
    symbols = (CODE / "simulator" / "tickers.csv").read_text("utf-8").splitlines()[1:]
    assert f"lists {len(symbols)} symbols" in text("README.md")


def test_every_direct_dependency_says_what_it_is_there_for_and_no_other_does() -> None:
    project = tomllib.loads(text("pyproject.toml"))
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    wanted += [each for group in project["dependency-groups"].values() for each in group if isinstance(each, str)]
    names = {re.split(r"[<>=\[; ]", each)[0] for each in wanted}
    assert set(re.findall(r"^\| `([\w-]+)` \|", text("docs/dependencies.md"), re.MULTILINE)) == names


def test_decisions_are_numbered_and_dated() -> None:
    files = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        record = file.read_text("utf-8")
        assert re.match(rf"# {file.name[:4]}\. \S.*\n\nStatus: \w+, \d{{4}}-\d\d-\d\d\n", record), file.name
        assert all(f"\n## {part}\n" in record for part in ("Context", "Decision", "Consequences")), file.name


def test_the_routes_of_a_dialect_are_found_by_their_method() -> None:
    """`routes` above looks for a method of this name that answers with aiohttp's route definitions."""
    trades = importlib.import_module("broker.api.trades").TradesApi
    assert all(isinstance(route, web.RouteDef) for route in trades.routes(trades.__new__(trades)))


if __name__ == "__main__":
    for each_group in GROUPS:
        print(settings_table(each_group), end="\n\n")  # noqa: T201 - printing is what it does as a program


# ------------------------------------------------------------------ the fault table


def test_every_fault_has_its_row_and_every_test_that_a_row_names_exists():
    page = text("docs/reliability.md")
    assert [int(number) for number in re.findall(r"^\| (\d+) \| ", page, re.MULTILINE)] == list(range(1, 67))
    written = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))
    known = set(re.findall(r"def (test_\w+)", written))
    assert set(re.findall(r"`(test_\w+)`", page)) <= known
