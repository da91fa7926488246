"""Explanations of a registration's status: its history, and the obstacle between it and a spot."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from api.edge.schemas_insight import Explanation, ExplanationStep
from shared.domain import audit, promotion
from shared.domain.commands import Status
from shared.domain.promotion import Policy, Waiter, Waitlist

_OTHER = UUID(int=0)

# The capacity at the time of an entry is what the next change of it has as "before".
_STEPS = text("""
    SELECT entry.number, entry.at, entry.kind, entry.actor, entry.reason, entry.from_status, entry.to_status,
           entry.spots_delta, entry.spots_reserved,
           coalesce(
               (SELECT CAST(later.before_after -> 'capacity' ->> 0 AS integer) FROM audit_entry AS later
                WHERE later.event_id = entry.event_id AND later.number > entry.number
                  AND later.before_after ? 'capacity'
                ORDER BY later.number LIMIT 1),
               (SELECT capacity FROM event WHERE id = entry.event_id)) AS capacity
    FROM audit_entry AS entry
    WHERE entry.event_id = :event_id AND entry.registration_id = :id
    ORDER BY entry.number
""")

_AHEAD = text("""
    SELECT count(*) AS registrations, coalesce(sum(spots_count), 0) AS spots,
           count(*) FILTER (WHERE spots_count <= :spots_left) AS fitting,
           (array_agg(spots_count ORDER BY seq) FILTER (WHERE spots_count <= :capacity))[1] AS head_needs,
           min(seq) FILTER (WHERE spots_count <= :capacity) AS head_seq,
           (array_agg(spots_count ORDER BY seq) FILTER (WHERE spots_count <= :spots_left))[1]
           AS fitting_needs,
           min(seq) FILTER (WHERE spots_count <= :spots_left) AS fitting_seq
    FROM registration
    WHERE event_id = :event_id AND status = 'WAITLIST' AND seq < :seq
""")


async def explain(
    connection: AsyncConnection, event: Mapping[str, Any], registration: RowMapping
) -> Explanation:
    """Return the explanation of a registration's status, from one snapshot of the tables."""
    steps = await _steps(connection, event["id"], registration["id"])
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
        sentences=[_past(registration, step) for step in steps] + _present(event, registration, ahead, steps),
        steps=steps,
    )


async def _steps(connection: AsyncConnection, event_id: UUID, id_: UUID) -> list[ExplanationStep]:
    rows = await connection.execute(_STEPS, {"event_id": event_id, "id": id_})
    return [ExplanationStep(**{**row, "at": audit.timestamp(row["at"])}) for row in rows.mappings()]


def _past(registration: RowMapping, step: ExplanationStep) -> str:
    """Return a sentence for a step: the change, its actor, and the counter at that moment."""
    needs = registration["spots_count"]
    before = step.spots_reserved - step.spots_delta
    counter = f"{before} of {step.capacity} spots were confirmed and it needs {needs}"
    if step.from_status is None:
        how = {"register": "decided", "adopt": "adopted", "migration": "taken over"}.get(step.kind, step.kind)
        return f"When it was {how}, {counter}: {step.to_status}."
    if step.kind == "promotion":
        return f"Promoted when spots became free: {counter}."
    because = f" because {step.reason!r}" if step.reason else ""
    if step.kind == "erase":
        return f"Its name and address were erased by {step.actor}{because}."
    return (
        f"Moved from {step.from_status} to {step.to_status or 'deleted'} by {step.actor}{because}: {counter}."
    )


def _present(
    event: Mapping[str, Any],
    registration: RowMapping,
    ahead: Row[Any] | None,
    steps: Sequence[ExplanationStep],
) -> list[str]:
    """Return sentences for a waiting registration: its position and its obstacle."""
    if ahead is None:
        return []
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
    if free < 0:
        return f"The event is oversold by {-free}: no registration is confirmed until it fits."
    if 0 < capacity < needs:
        return (
            f"It needs {needs}, the event has {capacity} in all: it keeps its place, and the registrations "
            "behind it are promoted before it until the capacity allows it."
        )
    if event["paused"]:
        return "The event is paused: no registration is promoted until the pause ends."
    if not event["auto_promote"]:
        return f"{free} are free; autoPromote is off, so an admin has to confirm it."
    if free == 0:
        return "No spots are free."
    if event["promoting"]:
        return f"The {free} that are free are being given to the waitlist, in its order."
    if _is_next(event, registration, ahead, free):
        moved = _moved_by(steps)
        return f"{moved} to the waitlist; the next change of the event offers it the {free} that are free."
    if policy == Policy.STRICT_FIFO and ahead.head_seq is not None:
        return (
            f"The head of the waitlist needs {ahead.head_needs}, {free} are free, policy strict_fifo: "
            "no registration behind the head is promoted before it."
        )
    if needs > free:
        subject = "It" if ahead.head_seq is not None else "The head of the waitlist"
        return f"{subject} needs {needs}, {free} are free, policy {policy}."
    return f"{ahead.fitting} ahead of it fit into the {free} that are free, policy {policy}."


def _is_next(event: Mapping[str, Any], registration: RowMapping, ahead: Row[Any], free: int) -> bool:
    """Return True if the owner would promote this registration next, by the owner's own rule."""
    itself = Waiter(registration["seq"], registration["id"], registration["spots_count"])
    before = ((ahead.head_seq, ahead.head_needs), (ahead.fitting_seq, ahead.fitting_needs))
    waiters = {Waiter(seq, _OTHER, needs) for seq, needs in before if seq is not None} | {itself}
    policy, waitlist = Policy(event["promotion_policy"]), Waitlist.of(waiters, len(waiters))
    return promotion.next_up(policy, waitlist, capacity=event["capacity"], spots_left=free) == itself


def _moved_by(steps: Sequence[ExplanationStep]) -> str:
    return f"It was moved by {steps[-1].actor}" if steps else "It was moved"
