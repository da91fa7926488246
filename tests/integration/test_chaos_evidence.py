"""The judge of the fault harness reads from the tables what is in them."""

from datetime import timedelta

import msgspec
from sqlalchemy import Connection

from tests.chaos.database import TRIGGERS
from tests.chaos.judge import evidence, faithful, judge, tables
from tests.chaos.judge.evidence import EventEvidence
from tests.chaos.judge.faithful import change, command_id, erase, move, register
from tests.databases import session_of

_WISHES = (
    register(email="zoë@example.org"),
    register(),
    erase(0),
    change(capacity=3, paused=True),
    move(1, "CANCELLED"),
    register(9),
)


def _altered(event: EventEvidence) -> EventEvidence:
    """Return an event with commands that are pending, set aside, or erased in part."""
    first, *others, last = event.commands
    at = last.accepted_at + timedelta(microseconds=1)
    return msgspec.structs.replace(
        event,
        commands=[
            msgspec.structs.replace(first, keyed=True),
            *others,
            msgspec.structs.replace(last, accepted_at=at, outcome=None, settled_at=None, pending=True),
        ],
        set_aside=frozenset((last.id, command_id(0))),
    )


def test_the_judge_reads_what_is_in_the_tables(connection: Connection) -> None:
    session = session_of(connection)
    session.execute(TRIGGERS.encode())
    written = [_altered(faithful.faithful(*_WISHES)), *faithful.events(2 * faithful.TEMPLATE_OPERATIONS)]
    written = sorted(written, key=lambda event: event.id)

    history = tables.write(session, written)
    read = list(evidence.read(session, history))

    for event, found in zip(written, read, strict=True):
        now = {name: value for name, value in found.now.items() if name in event.now}
        assert event.commands[0].erased == (event.id == faithful.EVENT)
        assert msgspec.structs.replace(found, now=now) == event
    assert {event.id for event in written if judge.check(event)} == {faithful.EVENT}
