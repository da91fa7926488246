"""Explanations of a registration's status: its history, and the obstacle between it and a spot."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from api.edge.schemas_insight import Explanation, ExplanationStep
from shared.domain import audit, commands, rules
from shared.domain.commands import Status
from shared.domain.event import Policy, Waiter, Waitlist

_OTHER = UUID(int=0)
_MOVES = ("change_status", "add_registration")

ENTRIES_MAX = 100_000
"""An explanation looks at so many of the event's newest entries, which have no index by registration."""
_ROWS_MAX = 1_000

# The numbers have no gap, so the bound of the read follows from the newest.
_NEWEST = text("SELECT coalesce(max(number), 0) FROM audit_entry WHERE event_id = :event_id")
_STEPS = text("""
    SELECT number, at, kind, actor, CASE WHEN :reasons THEN reason END AS reason, from_status, to_status,
           spots_delta, spots_reserved, registration_id = :id AS is_step, before_after
    FROM audit_entry
    WHERE event_id = :event_id AND number >= :first AND (registration_id = :id OR before_after ? 'capacity')
    ORDER BY number DESC LIMIT :limit
""")

_AHEAD = text("""
    SELECT count(*) AS registrations, coalesce(sum(spots_count), 0) AS spots,
           count(*) FILTER (WHERE spots_count <= :spots_left) AS fitting,
           (array_agg(spots_count ORDER BY seq) FILTER (WHERE spots_count <= :capacity))[1] AS head_needs,
           min(seq) FILTER (WHERE spots_count <= :capacity) AS head_seq,
           (array_agg(spots_count ORDER BY seq) FILTER (WHERE spots_count <= :spots_left))[1]
           AS fitting_needs,
           min(seq) FILTER (WHERE spots_count <= :spots_left) AS fitting_seq,
           (SELECT promote_until <= now() FROM event WHERE id = :event_id) AS promotion_ended
    FROM registration
    WHERE event_id = :event_id AND status = 'WAITLIST' AND seq < :seq
""")


async def explain(
    connection: AsyncConnection, event: Mapping[str, Any], registration: RowMapping, *, reasons: bool
) -> Explanation:
    """Return the explanation of a registration's status, from one snapshot of the tables.

    It has admins' reasons only with `reasons`.
    """
    first, steps = await _steps(connection, event, registration, reasons=reasons)
    free = event["capacity"] - event["spots_reserved"]
    ahead: Row[Any] | None = None
    if registration["status"] == Status.WAITLIST:
        spots = {"spots_left": free, "capacity": event["capacity"]}
        parameters = {"event_id": event["id"], "seq": registration["seq"], **spots}
        ahead = (await connection.execute(_AHEAD, parameters)).one()
    return Explanation(
        registration_id=registration["id"],
        status=registration["status"],
        seq=registration["seq"],
        waitlist_position=registration["waitlist_position"],
        spots_count=registration["spots_count"],
        spots_left=max(free, 0),
        registrations_ahead=None if ahead is None else ahead.registrations,
        spots_ahead=None if ahead is None else ahead.spots,
        sentences=[
            *([f"Changes before number {first} of the audit trail were not looked at."] if first > 1 else []),
            *(_past(step) for step in steps),
            *([] if ahead is None else _present(event, registration, ahead, steps)),
        ],
        steps_from=first,
        steps=steps,
    )


async def _steps(
    connection: AsyncConnection, event: Mapping[str, Any], registration: RowMapping, *, reasons: bool
) -> tuple[int, list[ExplanationStep]]:
    """Return the number of the first entry that was looked at, and the registration's entries from there.

    Each entry has the event's capacity and the party's size after it.
    """
    newest = (await connection.execute(_NEWEST, {"event_id": event["id"]})).scalar_one()
    first = max(1, newest - ENTRIES_MAX + 1)
    asked = {"event_id": event["id"], "id": registration["id"], "first": first, "limit": _ROWS_MAX}
    rows = (await connection.execute(_STEPS, {**asked, "reasons": reasons})).mappings().all()
    capacity, size = event["capacity"], registration["spots_count"]
    steps = []
    for row in rows:  # from the newest: a change tells what was before it
        facts = dict(row)
        is_step, changed = facts.pop("is_step"), facts.pop("before_after") or {}
        if is_step:
            facts |= {"at": audit.timestamp(row["at"]), "capacity": capacity, "spots_count": size}
            steps.append(ExplanationStep(**facts, corrected=sorted(changed)))
            size = changed.get("spotsCount", [size])[0]
        else:
            capacity = changed["capacity"][0]
    return (first if len(rows) < _ROWS_MAX else rows[-1]["number"]), steps[::-1]


def _past(step: ExplanationStep) -> str:
    """Return a sentence for a step: the change, its actor, and the counter at that moment."""
    needs = step.spots_count
    because = f" because {step.reason!r}" if step.reason else ""
    if step.kind == "give_receipt":
        return f"Given a new receipt by {step.actor}{because}."
    if step.kind == "correct_registration":
        parts = " and ".join(step.corrected)
        return f"Corrected in {parts} by {step.actor}{because}: since then it needs {needs}."
    if step.kind == "erase":
        return f"Its name and address were erased by {step.actor}{because}."
    before = step.spots_reserved - step.spots_delta
    counter = f"{before} of {step.capacity} spots were confirmed and it needs {needs}"
    if step.from_status is None:
        how = {
            "register": "decided",
            "add_registration": f"added by {step.actor}{because}",
            "adopt": "adopted",
            "migration": "taken over",
        }.get(step.kind, step.kind)
        return f"When it was {how}, {counter}: {step.to_status}."
    if step.kind == "promotion":
        return f"Promoted when spots became free: {counter}."
    return (
        f"Moved from {step.from_status} to {step.to_status or 'deleted'} by {step.actor}{because}: {counter}."
    )


def _present(
    event: Mapping[str, Any],
    registration: RowMapping,
    ahead: Row[Any],
    steps: Sequence[ExplanationStep],
) -> list[str]:
    """Return sentences for a waiting registration: its position and its obstacle."""
    place = f"It is number {registration['waitlist_position']} of {event['waitlist_length']} on the waitlist."
    return [place, _obstacle(event, registration, ahead, steps)]


def _obstacle(
    event: Mapping[str, Any],
    registration: RowMapping,
    ahead: Row[Any],
    steps: Sequence[ExplanationStep],
) -> str:
    free, needs = event["capacity"] - event["spots_reserved"], registration["spots_count"]
    policy, capacity = event["promotion_policy"], event["capacity"]
    if 0 < capacity < needs:
        return (
            f"It needs {needs}, the event has {capacity} in all: it keeps its place, and the registrations "
            "behind it are promoted before it until the capacity allows it."
        )
    if free < 0:
        return f"The event is oversold by {-free}: no registration is confirmed until it fits."
    if halt := _halt(event, ahead, free):
        return halt
    if free == 0:
        return "No spots are free."
    if event["promoting"]:
        return f"The {free} that are free are being given to the waitlist, in its order."
    if _is_next(event, registration, ahead, free):
        reason = _placed_by(steps)
        return f"{reason}; the next change of the event offers it the {free} that are free."
    if policy == Policy.STRICT_FIFO and ahead.head_seq is not None:
        return (
            f"The head of the waitlist needs {ahead.head_needs}, {free} are free, policy strict_fifo: "
            "no registration behind the head is promoted before it."
        )
    if needs > free:
        subject = "It" if ahead.head_seq is not None else "The head of the waitlist"
        return f"{subject} needs {needs}, {free} are free, policy {policy}."
    return f"{ahead.fitting} ahead of it fit into the {free} that are free, policy {policy}."


def _halt(event: Mapping[str, Any], ahead: Row[Any], free: int) -> str | None:
    """Return the reason for which no registration of the event is promoted, None if there is none."""
    if event["archived"]:
        return "The event is archived: no registration is promoted until it is taken out."
    if event["paused"]:
        return "The event is paused: no registration is promoted until the pause ends."
    if ahead.promotion_ended:
        ended = commands.rfc3339(event["promote_until"])
        return f"Promotion ended at {ended}: {free} are free, and an admin can confirm it."
    if not event["auto_promote"]:
        return f"{free} are free; autoPromote is off, so an admin has to confirm it."
    return None


def _is_next(event: Mapping[str, Any], registration: RowMapping, ahead: Row[Any], free: int) -> bool:
    """Return True if the owner would promote this registration next, by the owner's own rule."""
    itself = Waiter(registration["seq"], registration["id"], registration["spots_count"])
    before = ((ahead.head_seq, ahead.head_needs), (ahead.fitting_seq, ahead.fitting_needs))
    waiters = {Waiter(seq, _OTHER, needs) for seq, needs in before if seq is not None} | {itself}
    policy, waitlist = Policy(event["promotion_policy"]), Waitlist.of(waiters, len(waiters))
    return rules.next_up(policy, waitlist, capacity=event["capacity"], spots_left=free) == itself


def _placed_by(steps: Sequence[ExplanationStep]) -> str:
    moved = next((step for step in reversed(steps) if step.kind in _MOVES), None)
    return "It is next" if moved is None else f"It was moved by {moved.actor} to the waitlist"
