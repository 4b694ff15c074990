"""The seeds that every push lives through; any number by hand with `make sim SEED=… RUNS=…`."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.sim.__main__ import literal, live, rule_of, shrink, tell
from tests.sim.faults import NONE, Faults
from tests.sim.mutations import mutated
from tests.sim.scenario import Plan, plan_of, run

SEEDS = 5_000
BUGS_OF_BEFORE: tuple[Plan, ...] = (
    # An execution in suspense was all that was heard of an order: it was never acknowledged.
    Plan(
        seed=500148,
        clients=2,
        actions=1,
        faults=Faults(answer_lost=0.3, outages=1, restarts=1, word_lost=1.0, parts=0.9, too_dear=0.2, busts=3, kills=4),
    ),
    # One call failed, and there was nothing more to ask: the exchange counted as away for ever.
    Plan(
        seed=500182,
        clients=3,
        actions=2,
        faults=Faults(
            answer_lost=0.3,
            call_slow=0.3,
            outages=2,
            busts=3,
            before_commit=0.1,
            slow_commit=0.1,
            refused_commit=0.1,
            stops=2,
            reply_lost=0.3,
            tight=1,
        ),
    ),
    # The exchange forgot an order, took a second copy, and told the end of the first one: nobody watched the second.
    Plan(
        seed=6005284,
        clients=1,
        actions=1,
        faults=Faults(answer_lost=0.3, restarts=3, word_twice=0.2, expires=0.3),
    ),
    # A broker that stood still between its last look and its request sent what another one had withdrawn meanwhile.
    Plan(
        seed=6044472,
        clients=3,
        actions=4,
        faults=Faults(
            call_fails=0.3,
            answer_lost=0.3,
            restarts=1,
            word_late=0.1,
            strangers=3,
            busts=3,
            before_commit=0.1,
            late_commit=0.1,
            refused_commit=0.1,
            kills_at_calls=0.005,
            second_process=1,
            stops=1,
            reply_lost=0.1,
            tight=1,
        ),
    ),
    # An order ended by a word that counted less than it had executed: nobody asked for an execution before that.
    Plan(
        seed=20020786,
        clients=2,
        actions=4,
        faults=Faults(
            answer_lost=0.3,
            word_lost=0.5,
            refused=0.3,
            parts=0.9,
            no_liquidity=0.9,
            after_end=0.5,
            before_commit=0.02,
            late_commit=0.1,
            slow_commit=0.02,
            refused_commit=0.02,
            database_away=1,
            tight=1,
        ),
    ),
    # An order was placed in the batch in which another began to hold less, and was written before that one.
    Plan(seed=40001917, clients=2, actions=4, faults=Faults(slow_commit=0.02, stops=2)),
)
"""What the simulation found in the broker, as `tell` wrote it down. A change of the world makes another of a plan."""


@pytest.mark.timeout(600)
def test_whatever_goes_wrong_the_books_are_right_and_every_order_ends() -> None:
    """Rows 1-11, 13-16, 18, 21, 24, 25, 31, 32, 34, 52, 57-59 of docs/reliability.md, in 5,000 schedules."""
    tally = live(range(SEEDS))
    for seed in tally.failed[:2]:
        tell(seed)
    assert tally.failed == []
    assert tally.never == [], "states that no seed has reached"


def test_a_seed_is_the_same_every_time() -> None:
    """Also in another process, with other hashes."""
    seeds = range(40)
    here = [run(plan_of(seed)).digest for seed in seeds]
    assert [run(plan_of(seed)).digest for seed in seeds] == here
    program = (
        "from tests.sim.__main__ import quiet\nfrom tests.sim.scenario import plan_of, run\n"
        f"quiet()\nprint(*[run(plan_of(seed)).digest for seed in range({len(seeds)})])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert there.stdout.split() == here


def test_other_seeds_are_other_worlds() -> None:
    assert len({run(plan_of(seed)).digest for seed in range(20)}) == 20


@pytest.mark.parametrize("plan", BUGS_OF_BEFORE, ids=lambda plan: str(plan.seed))
def test_what_was_wrong_once_is_not_again(plan: Plan) -> None:
    assert run(plan).error is None


def test_without_faults_everything_goes_well() -> None:
    for seed in range(20):
        outcome = run(replace(plan_of(seed), faults=NONE))
        assert outcome.error is None
        assert not [name for name in outcome.sometimes if name.startswith(("503", "the database", "a kill"))]


def test_swarm_a_seed_leaves_some_faults_out_and_another_one_others() -> None:
    drawn = [plan_of(seed).faults for seed in range(200)]
    for name in Faults.__slots__:
        assert 10 < sum(name in faults.left_out for faults in drawn) < 190, name


def test_what_fails_is_shrunk_to_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with mutated("nobody_asks_the_exchange"):
        seed = next(seed for seed in range(50) if run(plan_of(seed)).error is not None)
        plan, outcome = shrink(plan_of(seed))
        assert outcome.error is not None
        first = run(plan_of(seed)).error
        assert first is not None
        assert rule_of(outcome.error) == rule_of(first), "another mistake is not the one that was found"
        assert len(plan.faults.left_out) >= len(Faults.__slots__) - 2
        tell(seed)
    assert eval(literal(plan), {"Plan": Plan, "Faults": Faults}) == plan
    said = capsys.readouterr().out
    assert f"SEED {seed} FAILED" in said
    assert f"make sim SEED={seed} RUNS=1" in said
