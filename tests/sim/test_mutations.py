"""The simulation can fail: every deliberate mistake in the code is noticed within a thousand seeds."""

import pytest

from tests.sim.mutations import MUTATIONS, seeds_to_catch

SEEDS_MAX = 1_000


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_simulation_notices(name: str) -> None:
    caught = seeds_to_catch(name, most=SEEDS_MAX)
    assert caught is not None, f"in {SEEDS_MAX} seeds nobody said of {name} {MUTATIONS[name][3]!r}"
    print(f"{name}: seed {caught[0]}, {caught[1][:150]}")  # noqa: T201 - what -s shows


def test_there_are_enough_of_them() -> None:
    assert len(MUTATIONS) >= 20
