"""Appends to the audit trail; nothing ever changes or removes an entry."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from shared.domain import audit
from shared.domain.event import Change
from shared.postgres import rows
from shared.postgres.rows import Given, Rows
from worker.load import Held

_NOTED = Rows(
    "noted",
    event_id=rows.ID,
    number=rows.BIGINT,
    command_id=rows.ID,
    kind=rows.TEXT,
    actor=rows.TEXT,
    reason=rows.TEXT,
    registration_id=rows.ID,
    from_status=rows.TEXT,
    to_status=rows.TEXT,
    before_after=rows.JSON,
    spots_delta=rows.INTEGER,
    spots_reserved=rows.INTEGER,
    hash=rows.DIGEST,
)
APPEND = """
    INSERT INTO audit_entry (event_id, number, command_id, kind, actor, reason, registration_id, from_status,
                             to_status, before_after, spots_delta, spots_reserved, at, hash)
    SELECT event_id, number, command_id, kind, actor, reason, registration_id, from_status,
           to_status, nullif(before_after, 'null'), spots_delta, spots_reserved, now(), hash
    FROM {noted}
"""
"""Writes the entries of `appending`; to be `rows.stated` in the transaction that holds their events."""


class Chained(NamedTuple):
    """An entry with its hash, which the next one is chained to."""

    entry: audit.Entry
    digest: bytes


def entries(event: Held, changes: Sequence[Change]) -> list[Chained]:
    """Return one entry a change, numbered on from the event's last, each chained to the one before."""
    last = bytes.fromhex(event.last_hash) if event.last_hash else audit.BEFORE_THE_FIRST
    chained = []
    for number, change in enumerate(changes, event.audit_seq + 1):
        entry = _entry(event, number, change)
        last = audit.chain(last, entry)
        chained.append(Chained(entry, last))
    return chained


def appending(noted: Iterable[Sequence[Chained]]) -> Given:
    """Return what `APPEND` is given to write these entries."""
    chained = [one for entries in noted for one in entries]
    return _NOTED.of([one.entry for one in chained], hash=(one.digest for one in chained))


def _entry(event: Held, number: int, change: Change) -> audit.Entry:
    return audit.Entry(
        event_id=event.id,
        number=number,
        command_id=change.command_id,
        kind=change.kind,
        actor=change.actor,
        reason=change.reason,
        registration_id=change.registration_id,
        from_status=change.from_status,
        to_status=change.to_status,
        before_after=change.before_after,
        spots_delta=change.spots_delta,
        spots_reserved=change.spots_reserved,
        at=event.now,
    )
