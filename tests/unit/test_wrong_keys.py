"""Wrong keys: the turns of their answers, by client, with bounds."""

import asyncio
from dataclasses import dataclass, field

import pytest

from api.edge.problems import ProblemError
from api.protection import wrong_keys
from api.protection.wrong_keys import WrongKeys


@dataclass
class World:
    """A clock that stands still, and the waits for it."""

    now: float = 1_000.0
    waits: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def turns(world: World) -> WrongKeys:
    return WrongKeys(world.clock, world.sleep)


def send(turns: WrongKeys, address: str, count: int = 1) -> list[str]:
    """Send wrong keys; return the `Retry-After` of each, empty for one that was answered 401."""

    async def one() -> str:
        try:
            await turns.wait_turn(address)
        except ProblemError as problem:
            return problem.headers["retry-after"]
        return ""

    async def all_of_them() -> list[str]:
        return [await one() for _ in range(count)]

    return asyncio.run(all_of_them())


def test_the_first_wrong_keys_do_not_wait(turns: WrongKeys, world: World) -> None:
    assert send(turns, "192.0.2.1", 10) == [""] * 10
    assert world.waits == []


def test_later_ones_wait_for_their_turns(turns: WrongKeys, world: World) -> None:
    assert send(turns, "192.0.2.1", 16) == [""] * 14 + ["3"] * 2
    assert world.waits == [0.5, 1.0, 1.5, 2.0]
    world.now += 0.5
    assert send(turns, "192.0.2.1", 2) == ["", "3"]
    world.now += 60
    assert send(turns, "192.0.2.1", 10) == [""] * 10
    assert world.waits == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_addresses_wait_apart(turns: WrongKeys) -> None:
    send(turns, "192.0.2.1", 30)
    assert send(turns, "192.0.2.2") == send(turns, "") == [""]


def test_the_memory_is_bounded(turns: WrongKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrong_keys, "_ADDRESSES_MAX", 100)
    for number in range(1_000):
        send(turns, f"192.0.{number // 256}.{number % 256}")
    assert len(turns._turns) == 100  # noqa: SLF001 - what it remembers


def test_the_address_quiet_longest_is_forgotten(
    turns: WrongKeys, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrong_keys, "_ADDRESSES_MAX", 2)
    for address, count in (("192.0.2.1", 10), ("192.0.2.2", 10), ("192.0.2.1", 1), ("192.0.2.3", 1)):
        send(turns, address, count)
    send(turns, "192.0.2.1")  # sent one after the second address had
    assert world.waits == [0.5, 1.0]
    send(turns, "192.0.2.2")
    assert world.waits == [0.5, 1.0]
