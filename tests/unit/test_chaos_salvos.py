"""Faults that strike at once: apart from each other, and none longer held up than by those of its parts."""

import random
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count
from typing import Any, cast

import pytest

from tests.chaos import campaign
from tests.chaos.faults.fault import Fault, Missed
from tests.chaos.recovery import Struck

LONG_SECONDS = 0.3
NOWHERE = cast("Any", None)


class Timed(Fault):
    """A fault of these parts that lasts so many seconds."""

    name = "timed"

    def __init__(self, *parts: str, seconds: float = 0.0) -> None:
        self.draw = lambda: set(parts)  # type: ignore[method-assign]
        super().__init__(NOWHERE, NOWHERE, random.Random(1))  # noqa: S311 - repeatable, not secret
        self.seconds = seconds

    def draw(self) -> set[str]:
        raise NotImplementedError

    def strike(self) -> None:
        pass


class Missing(Timed):
    """A fault that finds nothing to break."""

    def strike(self) -> None:
        raise Missed


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as made:
        yield made


def struck(threads: ThreadPoolExecutor, *faults: Fault) -> list[Struck]:
    """Return what struck of a salvo of these faults, in the order of their strikes; a deck has no end."""
    of_all = sorted({part for fault in faults for part in fault.parts})
    deck = chain(faults, (Timed(*of_all) for _ in count()))
    found = campaign._strike(threads, deck, deque(), len(faults), time.monotonic() + 60)  # noqa: SLF001
    return sorted(found, key=lambda fault: fault.began)


def test_a_long_fault_holds_up_no_other(threads: ThreadPoolExecutor) -> None:
    long, short = struck(threads, Timed("worker-1", seconds=LONG_SECONDS), Timed("worker-2"))

    assert short.ended < long.ended


def test_two_faults_of_one_part_strike_in_turn(threads: ThreadPoolExecutor) -> None:
    long, other, later = struck(
        threads, Timed("redis", seconds=LONG_SECONDS), Timed("redis", "worker-1"), Timed("worker-1")
    )

    assert (long.target, other.target, later.target) == ("redis", "worker-1", "redis, worker-1")
    assert later.began >= long.ended


def test_a_fault_that_missed_is_not_counted(threads: ThreadPoolExecutor) -> None:
    assert [fault.target for fault in struck(threads, Missing("redis"), Timed("api-1"))] == ["api-1"]


def test_only_a_single_fault_is_alone(threads: ThreadPoolExecutor) -> None:
    assert [fault.alone for fault in struck(threads, Timed("redis"))] == [True]
    assert [fault.alone for fault in struck(threads, Timed("redis"), Timed("api-1"))] == [False, False]


class Pending:
    """A service of which all commands are decided; `read_at` are the times at which it was asked for them."""

    def __init__(self) -> None:
        self.read_at: list[float] = []

    def last_seq(self) -> int:
        self.read_at.append(time.time())
        return 0

    def wait_settled(self, *_: object) -> int:
        return 0

    def drifting(self) -> list[str]:
        return []

    def wait_joined(self, **_: object) -> None:
        """All workers have joined."""

    def wait_ready(self) -> None:
        """The service is ready."""


def test_commands_count_that_a_round_waits_for(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are accepted before the next faults, and meet those."""
    monkeypatch.setattr(
        "tests.chaos.faults.table.deck", lambda *_: (Timed(f"part-{number}") for number in count())
    )
    service, found, salvos = Pending(), [], []  # type: ignore[var-annotated]
    plan = campaign.Plan(seed=1, faults=20)

    campaign.strike_all(plan, cast("Any", service), NOWHERE, threads=threads, struck=found, salvos=salvos)

    for fault in (*found, *salvos):
        assert fault.until <= min(at for at in service.read_at if at >= fault.ended)


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ("postgres", "postgres", False),
        ("postgres", "worker-1/postgres", False),
        ("worker-1/postgres", "postgres", False),
        ("worker-1/postgres", "worker-1/postgres", False),
        ("worker-1/postgres", "worker-2/postgres", True),
        ("worker-1/postgres", "worker-1/redis", True),
        ("worker-1", "worker-1/redis", True),
        ("redis", "postgres", True),
    ],
)
def test_a_server_has_all_its_ways(one: str, other: str, *, apart: bool) -> None:
    assert Timed(one).is_apart_from([Timed(other)]) is apart


def test_a_salvo_is_judged_by_its_longest_bar() -> None:
    faults = [
        Struck(name=f"{bar}", target="", began=1, ended=2, since=2, bar_seconds=bar, alone=False)
        for bar in (1.0, 3.0, 11.0)
    ]
    end = campaign._end_of(faults)  # noqa: SLF001

    assert (end.name, end.bar_seconds, end.alone) == ("several at once, within 3 s", 3.0, True)
