"""Decides an event's commands again, by the independent model of the simulation, in the order of the ledger.

The model is plain and slow, so it takes events of a bounded size, and a run as many as its time allows.
"""

from datetime import UTC, datetime
from uuid import UUID

from shared.domain import ids
from tests.chaos.judge.evidence import Command, EventEvidence
from tests.chaos.judge.replay import PROMOTED_SPOTS_MAX
from tests.simulation.model import Model, Told

SECONDS_MAX = 15.0
COMMANDS_MAX = 600
DIFFERENCES_MAX = 3
_NEVER = datetime.max.replace(tzinfo=UTC)


def is_possible(event: EventEvidence) -> bool:
    """Return True if the event is small enough, and the order of its decisions is known.

    Commands of one transaction are decided by their places, transactions one after the other. A command that
    another owner decided may have a time out of order, which the audit trail then shows.
    """
    order = {command.id: place for place, command in enumerate(_in_order(event))}
    places = [order[entry.command_id] for entry in event.entries]
    return len(event.commands) <= COMMANDS_MAX and places == sorted(places)


def differences(event: EventEvidence) -> list[str]:
    """Return the first outcomes that the model does not agree with."""
    model = Model(event.first, PROMOTED_SPOTS_MAX)
    found: list[str] = []
    for command in _in_order(event):
        outcome = {name: value for name, value in (command.outcome or {}).items() if name != "detail"}
        if outcome.get("outcome") == "failed":
            continue
        told = Told(
            id=command.id,
            seq=command.seq,
            kind=command.kind,
            payload=command.payload,
            accepted_at=command.accepted_at,
            registration_id=str(ids.registration_id(UUID(command.id))),
            follow_up_id=str(ids.follow_up_id(UUID(command.id))),
            actor=command.actor,
        )
        try:
            expected = model.decide(told)
        except AssertionError as error:
            return [*found, f"decision: {command.kind} {command.id} is {outcome}: {error}"]
        # A position may be too high by a few (see ARCHITECTURE.md), so the replay judges it.
        for answer in (expected, outcome):
            answer.pop("position", None)
        if expected != outcome:
            found.append(f"decision: {command.kind} {command.id} is {outcome}, by the model {expected}")
            if len(found) >= DIFFERENCES_MAX:
                break
    return found


def _in_order(event: EventEvidence) -> list[Command]:
    return sorted(event.commands, key=lambda command: (command.settled_at or _NEVER, command.seq))
