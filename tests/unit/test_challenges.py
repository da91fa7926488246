"""Challenges: their end, and how hard they are."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import altcha
import pytest

from api.edge.problems import ProblemError
from api.protection import challenges
from api.protection.challenges import Challenges
from api.protection.shared_memory import SharedMemory
from shared.messaging import results

EVENT, OTHER = UUID(int=1), UUID(int=2)
AWAY = "redis://127.0.0.1:1/0"
NOW = 1_700_000_000.0


def with_challenges(
    test: Callable[[Callable[..., Challenges]], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the test with a maker of challenges, without Redis, at a time that stands still."""
    monkeypatch.setattr(challenges, "time", lambda: NOW)
    monkeypatch.setattr(challenges, "COST", 1)

    async def run() -> None:
        redis = results.connect_async(AWAY)
        shared = SharedMemory(redis, b"key")
        await test(lambda *keys, processes=1: Challenges(keys or (b"first",), processes, shared))
        await redis.aclose()

    asyncio.run(run())


def solved(given: dict[str, object]) -> str:
    challenge = altcha.Challenge.from_dict(given)
    solution = altcha.solve_challenge(challenge)
    assert solution is not None
    assert challenges.TRIES // 2 < solution.counter <= challenges.TRIES
    return altcha.Payload(challenge, solution).to_base64()


def hardness(made: Challenges, count: int, event_id: UUID = EVENT) -> float:
    """Ask for challenges; return by how much the next one is harder."""
    for _ in range(count):
        made.give(event_id)
    return made._harder(event_id)  # noqa: SLF001 - how it draws its numbers


def test_challenges_become_harder_with_load(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(make: Callable[..., Challenges]) -> None:
        easily = challenges.GIVEN_EASILY
        made = make()
        assert hardness(made, 0) == hardness(made, easily // 2) == 1
        assert hardness(made, 3 * easily // 2) == pytest.approx(2, abs=0.1)
        assert hardness(made, 0, OTHER) == 1
        monkeypatch.setattr(challenges, "time", lambda: NOW + challenges.WINDOW_SECONDS)
        assert hardness(made, 0) == pytest.approx(2, abs=0.1)
        assert hardness(made, 3 * easily // 2) == pytest.approx(2, abs=0.1)
        monkeypatch.setattr(challenges, "time", lambda: NOW + 3 * challenges.WINDOW_SECONDS)
        assert hardness(made, 0) == 1
        assert hardness(make(processes=4), easily) == pytest.approx(4, abs=0.1)
        assert hardness(make(processes=100), easily) == challenges.HARDER_MAX

    with_challenges(test, monkeypatch)


def test_a_challenge_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(make: Callable[..., Challenges]) -> None:
        made = make()
        late, early = (solved(made.give(EVENT)) for _ in range(2))
        monkeypatch.setattr(challenges, "time", lambda: NOW + challenges.SECONDS)
        assert await made.fault(EVENT, early, "a") is None
        monkeypatch.setattr(challenges, "time", lambda: NOW + challenges.SECONDS + 1)
        problem = await made.fault(EVENT, late, "b")
        assert isinstance(problem, ProblemError)
        assert "expired" in problem.detail

    # The library has a clock of its own, which is ahead of this one.
    monkeypatch.setattr("altcha.v2.time.time", lambda: NOW)
    with_challenges(test, monkeypatch)


def test_two_secret_keys_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(make: Callable[..., Challenges]) -> None:
        given = solved(make(b"old").give(EVENT))
        both = make(b"new", b"old")
        assert await both.fault(EVENT, given, "a") is None
        assert await make(b"new").fault(EVENT, solved(both.give(EVENT)), "a") is None
        assert await make(b"new").fault(EVENT, given, "b") is not None
        assert await make(b"").fault(EVENT, given, "c") is not None
        forged = solved(make(b"").give(EVENT))
        assert await make(b"").fault(EVENT, forged, "d") is not None

    monkeypatch.setattr("altcha.v2.time.time", lambda: NOW)
    with_challenges(test, monkeypatch)


def test_a_solution_is_remembered_until_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(make: Callable[..., Challenges]) -> None:
        monkeypatch.setattr(challenges, "_REMEMBERED_MAX", 2)
        made = make()
        given = solved(made.give(EVENT))
        assert [await made.fault(EVENT, given, name) is None for name in "aab"] == [True, True, False]
        for name in "cd":
            assert await made.fault(EVENT, solved(made.give(EVENT)), name) is None
        assert await made.fault(EVENT, given, "e") is not None
        assert len(made._solved) <= 2  # noqa: SLF001 - what it remembers

    monkeypatch.setattr("altcha.v2.time.time", lambda: NOW)
    with_challenges(test, monkeypatch)
