"""Shares: which commands the next INSERT carries when several events have some."""

import asyncio
from collections.abc import Iterator
from uuid import UUID

import pytest

from api.commands.intake import IntakeFull, Shares
from shared.postgres.ledger import NewCommand
from shared.settings import Settings

A, B, C = (UUID(int=number) for number in range(1, 4))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that makes futures and never runs."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


def limited(**limits: int) -> Shares:
    settings = Settings(
        database_url="postgresql://nowhere/none",
        broker_url="redis://127.0.0.1:9/0",
        result_url="redis://127.0.0.1:9/0",
    )
    return Shares(settings.model_copy(update=limits))


def add(
    shares: Shares, loop: asyncio.AbstractEventLoop, event_id: UUID, *numbers: int, actor: str = "public"
) -> None:
    for number in numbers:
        command = NewCommand(
            event_id=event_id, id=UUID(int=number), kind="register", payload=b"{}", actor=actor
        )
        shares.add(command, loop.create_future())


def taken(shares: Shares) -> list[tuple[UUID, int]]:
    """Return the next batch as events and command numbers."""
    return [(command.event_id, command.id.int) for command, *_ in shares.next_batch()]


def test_one_event_has_the_whole_batch(loop: asyncio.AbstractEventLoop) -> None:
    shares = limited(intake_batch_max=3)
    add(shares, loop, A, 1, 2, 3, 4)

    assert taken(shares) == [(A, 1), (A, 2), (A, 3)]
    assert list(shares.waiting) == [A]
    assert taken(shares) == [(A, 4)]
    assert not shares.waiting


def test_every_event_has_an_equal_share(loop: asyncio.AbstractEventLoop) -> None:
    shares = limited(intake_batch_max=6)
    add(shares, loop, A, *range(1, 10))
    add(shares, loop, B, 20)
    add(shares, loop, C, 31, 32, 33)

    assert taken(shares) == [(A, 1), (A, 2), (B, 20), (C, 31), (C, 32)]
    assert taken(shares) == [(A, 3), (A, 4), (A, 5), (C, 33)]


def test_the_events_left_out_come_first(loop: asyncio.AbstractEventLoop) -> None:
    shares = limited(intake_batch_max=2)
    for event_id in (A, B, C):
        add(shares, loop, event_id, 1, 2)

    assert [taken(shares) for _ in range(3)] == [
        [(A, 1), (B, 1)],
        [(C, 1), (A, 2)],
        [(B, 2), (C, 2)],
    ]


def test_a_command_that_was_given_up_is_not_written(loop: asyncio.AbstractEventLoop) -> None:
    shares = limited(intake_batch_max=3)
    add(shares, loop, A, 1, 2, 3)
    _, given_up, _ = shares.waiting[A]
    given_up[1].cancel()

    assert taken(shares) == [(A, 1), (A, 3)]


def test_commands_that_were_given_up_take_no_room(loop: asyncio.AbstractEventLoop) -> None:
    shares = limited(intake_waiting_max=2)
    add(shares, loop, A, 1, 2)
    for _, given_up, _ in shares.waiting[A]:
        given_up.cancel()
    add(shares, loop, A, 3, 4)

    with pytest.raises(IntakeFull):
        add(shares, loop, A, 5)
    assert taken(shares) == [(A, 3), (A, 4)]


def test_a_full_event_refuses_alone(loop: asyncio.AbstractEventLoop) -> None:
    shares = limited(intake_batch_max=2, intake_waiting_max=2)
    add(shares, loop, A, 1, 2)
    with pytest.raises(IntakeFull):
        add(shares, loop, A, 3)
    add(shares, loop, B, 4)

    assert taken(shares) == [(A, 1), (B, 4)]
    add(shares, loop, A, 5)
    assert taken(shares) == [(A, 2), (A, 5)]


def test_pending_commands_have_limits(loop: asyncio.AbstractEventLoop) -> None:
    shares = limited(event_pending_max=2, pending_max=3)
    add(shares, loop, A, 1, 2)
    with pytest.raises(IntakeFull):
        add(shares, loop, A, 3)
    add(shares, loop, B, 4)
    with pytest.raises(IntakeFull):
        add(shares, loop, C, 5)
    with pytest.raises(IntakeFull):
        add(shares, loop, C, 6, actor="holder")

    assert taken(shares) == [(A, 1), (A, 2), (B, 4)]
    with pytest.raises(IntakeFull):  # written, and pending all the same
        add(shares, loop, A, 7)


def test_admins_pass_the_pending_limits(loop: asyncio.AbstractEventLoop) -> None:
    shares = limited(event_pending_max=1, pending_max=1)
    add(shares, loop, A, 1)
    add(shares, loop, A, 2, actor="admin")
    add(shares, loop, B, 3, actor="ticket office")

    assert taken(shares) == [(A, 1), (A, 2), (B, 3)]
