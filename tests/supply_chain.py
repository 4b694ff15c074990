"""What is installed: locked by hash, and above the floor of every advisory we know. `make audit` asks pip-audit too.

pip-audit without its database says that all is well: what it has really looked at is counted.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
OURS = ("run", "dev", "tools/audit", "tools/fuzz")
"""The locks whose packages must be above the floors. Those of clients and peers are old on purpose."""


@dataclass(frozen=True, slots=True)
class Locked:
    """A line of a lock."""

    name: str
    version: Version
    hashes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Floor:
    """From which version on an advisory is answered."""

    requirement: Requirement
    advisory: str

    def is_below(self, locked: Locked) -> bool:
        """Whether this package is one that the advisory is about."""
        name = canonicalize_name(self.requirement.name)
        return locked.name == name and not self.requirement.specifier.contains(locked.version, prereleases=True)


def locks() -> list[Path]:
    """All of them."""
    return sorted((ROOT / "requirements").rglob("*.lock"))


def read_lock(path: Path) -> list[Locked]:
    """What it installs."""
    return [*_read(path.read_text())]


def _read(text: str) -> Iterator[Locked]:
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            wanted, *hashes = line.split("--hash=")
            found = re.fullmatch(r"([A-Za-z0-9._-]+)==([^ ;]+)( ;.*)?", wanted.strip())
            if found is None:
                raise ValueError(f"not an exact version: {line[:100]}")
            name = canonicalize_name(found[1])
            yield Locked(name, Version(found[2]), frozenset(each.strip() for each in hashes))


def read_floors() -> list[Floor]:
    """requirements/floors.txt."""
    floors = []
    for line in (ROOT / "requirements/floors.txt").read_text().splitlines():
        wanted, _, advisory = line.partition("#")
        if wanted.strip():
            floors.append(Floor(Requirement(wanted), advisory.strip()))
    return floors


def below_floors() -> list[str]:
    """What is locked and should not be."""
    return [
        f"{lock}.lock has {each.name} {each.version}: {floor.advisory} asks for {floor.requirement}"
        for lock in OURS
        for each in read_lock(ROOT / "requirements" / f"{lock}.lock")
        for floor in read_floors()
        if floor.is_below(each)
    ]


def _asked(pip_audit: Path, lock: Path) -> tuple[int, list[str]]:
    """How many packages of a lock pip-audit has looked up, and what it found. Raises OSError where it cannot."""
    flags = ["--disable-pip", "--require-hashes", "--timeout", "10", "--format", "json"]
    command = [pip_audit, "--requirement", lock, *flags, "--progress-spinner", "off"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if not ended.stdout.strip():
        raise OSError(ended.stderr.strip().splitlines()[-1:] or "it said nothing")
    answer = json.loads(ended.stdout)["dependencies"]
    looked_up = [each for each in answer if "vulns" in each]
    if not looked_up:
        raise OSError(answer[0].get("skip_reason", "it skipped everything"))
    found = [f"{each['name']} {each['version']}: {flaw['id']}" for each in looked_up for flaw in each["vulns"]]
    return len(looked_up), found


def main() -> int:
    """Everything, in one go; 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.supply_chain", description=__doc__)
    parser.add_argument("--pip-audit", type=Path, required=True)
    given = parser.parse_args()
    wrong = below_floors()
    packages = sum(len(read_lock(path)) for path in locks())
    print(f"{packages} packages in {len(locks())} locks, {len(read_floors())} floors")  # noqa: T201
    for lock in OURS:
        path = ROOT / "requirements" / f"{lock}.lock"
        most = len({each.name for each in read_lock(path)})
        try:
            number, found = _asked(given.pip_audit, path)
        except OSError as error:
            print(f"{lock}.lock: no advisory database can be reached, so the floors are all there is ({error})")  # noqa: T201
            continue
        print(f"{lock}.lock: pip-audit looked {number} of {most} packages up")  # noqa: T201
        wrong += found
        if number < most * 0.7:  # those of other systems and other versions of Python are not looked up
            wrong.append(f"pip-audit looked up {number} of the {most} packages in {lock}.lock")
    print("\n".join(wrong) or "no known flaw")  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
