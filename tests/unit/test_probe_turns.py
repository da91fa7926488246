"""A crowd of probes is answered in turns, a probe alone at once."""

import asyncio

from api.edge.probe_turns import TURN_SECONDS, ProbeTurns


def test_a_crowd_shares_the_next_turn() -> None:
    now = 100.0
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    async def probes() -> None:
        nonlocal now
        turns = ProbeTurns(lambda: now, sleep)
        for moment, crowd in ((100.0, 1), (100.0, 200), (100 + TURN_SECONDS, 50), (200.0, 1)):
            now = moment
            await asyncio.gather(*(turns.wait() for _ in range(crowd)))

    asyncio.run(probes())

    assert [round(seconds, 6) for seconds in slept] == [TURN_SECONDS] * 250
