"""What is installed is what was locked, above every floor, and is what sbom.json says."""

import json
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.supply_chain import OURS, ROOT, Floor, Locked, below_floors, locks, read_floors, read_lock

RUN = ROOT / "requirements/run.lock"


@pytest.mark.parametrize("path", locks(), ids=lambda path: path.stem)
def test_every_requirement_is_exact_and_hashed(path) -> None:
    locked = read_lock(path)
    assert locked
    for each in locked:
        assert each.hashes, each.name
        assert all(value.startswith("sha256:") and len(value) == 71 for value in each.hashes), each.name


def test_nothing_is_locked_below_the_floor_of_an_advisory() -> None:
    assert below_floors() == []


def test_a_version_below_its_floor_would_be_found() -> None:
    floor = Floor(Requirement("aiohttp>=3.14.3"), "GHSA-cq5v-8q36-5273")
    for name, version, is_below in (("aiohttp", "3.14.2", True), ("aiohttp", "3.14.3", False), ("yarl", "1.0", False)):
        assert floor.is_below(Locked(name, Version(version), frozenset())) is is_below


def test_every_floor_names_its_advisory_and_something_that_is_installed() -> None:
    names = {each.name for lock in OURS for each in read_lock(ROOT / "requirements" / f"{lock}.lock")}
    floors = read_floors()
    assert len(floors) >= 15
    for each in floors:
        assert each.advisory.startswith(("GHSA-", "CVE-")), each.requirement
        assert each.requirement.name in names, f"{each.requirement} can go: nothing locks it"


def test_all_that_the_broker_needs_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    versions = {each.name: each.version for each in read_lock(RUN)}
    for text in project["project"]["dependencies"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(versions[wanted.name]), text


def test_the_bill_of_materials_is_of_this_lock() -> None:
    bill = json.loads((ROOT / "sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    said = {
        (each["name"], each["version"], digest["content"])
        for each in bill["components"]
        for reference in each["externalReferences"]
        for digest in reference["hashes"]
    }
    locked = {
        (each.name, str(each.version), value.removeprefix("sha256:"))
        for each in read_lock(RUN)
        for value in each.hashes
    }
    assert said == locked, "make sbom"
