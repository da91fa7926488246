"""A crowd of probes or pages is answered in turns, one alone at once."""

import asyncio
from collections import Counter

from api.edge.problems import ProblemError
from api.edge.turns import TURN_SECONDS, Turns


def test_a_crowd_shares_the_next_turn() -> None:
    now = 100.0
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    async def probes() -> None:
        nonlocal now
        turns = Turns(lambda: now, sleep)
        for moment, crowd in ((100.0, 1), (100.0, 200), (100 + TURN_SECONDS, 50), (200.0, 1)):
            now = moment
            await asyncio.gather(*(turns.wait() for _ in range(crowd)))

    asyncio.run(probes())

    assert [round(seconds, 6) for seconds in slept] == [TURN_SECONDS] * 250


def test_a_turn_has_no_more_than_its_answers() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))
        await asyncio.sleep(0)

    async def crowd() -> list[BaseException | None]:
        turns = Turns(lambda: 100.0, sleep, answers_max=10)
        return await asyncio.gather(*(turns.wait() for _ in range(300)), return_exceptions=True)

    answers = asyncio.run(crowd())

    assert set(Counter(slept).values()) == {10}
    assert max(slept) == 2
    refused = [answer for answer in answers if isinstance(answer, ProblemError)]
    assert len(refused) == 300 - len(slept) - 1
    assert {problem.code for problem in refused} == {"TOO_MANY_REQUESTS"}
