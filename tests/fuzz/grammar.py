"""Requests to every operation of the OpenAPI documents: nearly right ones, in which one thing or several are hostile.

It writes the text of JSON by itself: no library writes a key twice, a NaN, or half of a surrogate pair.
"""

import json
import random
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.fuzz import values

Json = Mapping[str, Any]

TICKERS = ["AAPL", "MSFT", "NVDA", "SPY"]
_UUID = "uuid"


@dataclass(frozen=True, slots=True)
class Operation:
    """One of the documents' operations. `body` is the schema of what it takes."""

    method: str
    path: str
    parameters: Sequence[Json]
    body: Json | None
    is_alpaca: bool
    is_public: bool

    @property
    def is_admin(self) -> bool:
        """Whether the operator's token opens it."""
        return self.path.startswith("/admin/")


@dataclass(slots=True)
class Known:
    """Ids for the places of ids, by the name of the parameter: somebody else's, for who sends them may see none."""

    ids: dict[str, list[str]] = field(default_factory=dict)

    def pick(self, name: str, rng: random.Random) -> str | None:
        """One of those, where there are any."""
        found = self.ids.get(name)
        return rng.choice(found) if found else None


def operations(documents: Sequence[Json]) -> list[Operation]:
    """All of them."""
    found = []
    for number, document in enumerate(documents):
        for path, methods in document["paths"].items():
            for method, described in methods.items():
                content = described.get("requestBody", {}).get("content", {})
                body = next((each["schema"] for each in content.values()), None)
                parameters, is_public = described.get("parameters", []), not described.get("security")
                found.append(Operation(method.upper(), path, parameters, body, number == 1, is_public))
    return found


class Grammar:
    """Writes requests' parts. `hostile` is the probability, at each place, of a value that is none of the schema's."""

    def __init__(self, documents: Sequence[Json], known: Known, rng: random.Random, hostile: float = 0.06) -> None:
        self.operations = operations(documents)
        self._schemas = [document["components"]["schemas"] for document in documents]
        self._known = known
        self._rng = rng
        self._hostile = hostile
        self._texts: dict[str, list[str]] = {}

    # -------------------------------------------------------------- where to

    def target(self, operation: Operation) -> str:
        """The path and the query."""
        rng = self._rng
        path = re.sub(r"\{(\w+)\}", lambda match: self._in_path(operation, match[1]), operation.path)
        pairs = []
        for each in operation.parameters:
            if each["in"] == "query" and (each.get("required") or rng.random() < 0.3):
                pairs.append(f"{each['name']}={self._parameter(operation, each)}")
                if rng.random() < 0.03:
                    pairs.append(pairs[-1])
        if rng.random() < 0.05:
            pairs.append(f"{rng.choice(values.TEXTS)}={rng.choice(values.TEXTS)}")
        return path + "?" + "&".join(pairs) if pairs else path

    def _in_path(self, operation: Operation, name: str) -> str:
        chance = self._rng.random()
        known = self._known.pick(name, self._rng)
        if known is not None and chance < 0.5:
            return known
        if chance < 0.7:
            return self._rng.choice(values.TEXTS) or "x"
        described = next((each for each in operation.parameters if each["name"] == name), {"schema": {}, "name": name})
        return self._parameter(operation, described) or "x"

    def _parameter(self, operation: Operation, described: Json) -> str:
        if self._rng.random() < 2 * self._hostile:
            return self._rng.choice(values.TEXTS)
        known = self._known.pick(described["name"], self._rng)
        if known is not None and self._rng.random() < 0.5:
            return known
        text = self._right(described["schema"], operation)
        return quote(text.strip('"'), safe=",:")

    # -------------------------------------------------------------- what with

    def body(self, operation: Operation) -> bytes:
        """A body, or what is meant to be one."""
        rng = self._rng
        schema = operation.body or {}
        text = self.json(schema, self._schemas[operation.is_alpaca])
        data = text.encode("utf-8", "surrogatepass")
        chance = rng.random()
        if chance > 0.1 or not data:
            return data
        at = rng.randrange(len(data))
        if chance < 0.03:
            return data[:at]
        if chance < 0.07:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        if chance < 0.08:
            return data + data
        if chance < 0.09:
            return text.encode("utf-16", "surrogatepass")
        return b"\xef\xbb\xbf" + data

    def json(self, schema: Json, schemas: Json, depth: int = 0) -> str:
        """JSON by the schema, but where it is hostile."""
        rng = self._rng
        if depth > 12 or rng.random() < self._hostile / 2:
            return rng.choice(values.JSON)
        schema = self._resolved(schema, schemas)
        if isinstance(schema.get("properties"), dict):
            return self._object(schema, schemas, depth)
        if schema.get("type") == "array":
            inner = schema.get("items") or {}
            return "[" + ",".join(self.json(inner, schemas, depth + 1) for _ in range(rng.choice([0, 1, 1, 2]))) + "]"
        if rng.random() < self._hostile:
            return rng.choice(values.JSON)
        return self._leaf(schema)

    def _resolved(self, schema: Json, schemas: Json) -> Json:
        while True:
            if "$ref" in schema:
                schema = schemas[schema["$ref"].rpartition("/")[2]]
            elif "anyOf" in schema or "oneOf" in schema:
                schema = self._rng.choice(schema.get("anyOf") or schema["oneOf"])
            else:
                return schema

    def _object(self, schema: Json, schemas: Json, depth: int) -> str:
        rng = self._rng
        required = schema.get("required", ())
        pairs = []
        for name, inner in schema["properties"].items():
            if rng.random() < (0.97 if name in required else 0.3):
                pairs.append(f'"{name}":{self.json(inner, schemas, depth + 1)}')
        chance = rng.random()
        if chance < 0.03 and pairs:
            pairs.append(rng.choice(pairs))
        elif chance < 0.05:
            pairs.append(f"{rng.choice(values.JSON)}:{rng.choice(values.JSON)}")
        elif chance < 0.07:
            pairs.append(f'"customerId":"{1001 + rng.randrange(8)}"')
        return "{" + ",".join(pairs) + "}"

    def _right(self, schema: Json, operation: Operation) -> str:
        return self._leaf(self._resolved(schema, self._schemas[operation.is_alpaca]))

    def _leaf(self, schema: Json) -> str:
        rng = self._rng
        if "enum" in schema:
            return json.dumps(rng.choice(schema["enum"]))
        if "const" in schema:
            return json.dumps(schema["const"])
        match schema.get("type"):
            case "integer" | "number":
                return str(rng.choice([schema.get("minimum", 1), rng.randint(1, 30), schema.get("maximum", 100)]))
            case "boolean":
                return rng.choice(["true", "false"])
            case "null":
                return "null"
            case "string":
                return '"' + self._string(schema) + '"'
            case _:
                return rng.choice(['"AAPL"', "1", "null", '"x"'])

    def _string(self, schema: Json) -> str:
        rng = self._rng
        match schema.get("format"):
            case "uuid":
                return str(uuid.UUID(int=rng.getrandbits(128)))
            case "date":
                return f"20{rng.randint(20, 40)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
            case "date-time":
                return f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T14:30:00Z"
        pattern = schema.get("pattern")
        if pattern is None:
            return rng.choice(["x", "AAPL", "10", "1.00", "buy", "limit", "day", "https://hooks.example/x", "open"])
        return rng.choice(self._matching(pattern))

    def _matching(self, pattern: str) -> list[str]:
        """Texts that the pattern lets in, as far as there are any among the usual ones."""
        found = self._texts.get(pattern)
        if found is None:
            words = re.findall(r"[A-Za-z_]+", pattern.replace("\\ ", "_"))
            usual = [*TICKERS, *words, *(each.replace("_", " ") for each in words)]
            usual += ["10", "1.00", "240.50", "300.00", "1001", "key_0123456789abcdef", "customer:1001", "halt:AAPL"]
            usual += ["all", "1Day", "5Min", "AAPL,MSFT", "https://hooks.example/x"]
            found = self._texts[pattern] = [each for each in usual if re.search(pattern, each)] or ["x"]
        return found
