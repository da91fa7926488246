"""The ledger beside its effects: each command is settled once, and did what its outcome says."""

from collections.abc import Iterator
from unittest.mock import ANY

from tests.chaos.judge.evidence import Command, EventEvidence, Json
from tests.chaos.judge.replay import Replay
from tests.chaos.service import POISON


def check(event: EventEvidence, replay: Replay) -> Iterator[str]:
    """Yield a sentence for each command that is not settled, or of which the effects are not as told."""
    for command in event.commands:
        about = f"{command.kind} {command.id} ({_mark(command)})"
        if command.outcome is None:
            yield f"unanswered: {about} has no outcome"
        elif command.pending:
            yield f"answered twice: {about} is settled and pending"
        effects = replay.effects.pop(command.id, [])
        outcome = command.outcome or {"outcome": "pending"}
        promised = _promised(outcome)
        if effects != promised:
            refused = outcome["outcome"] in {"refused", "failed"}
            rule = "effect of a refusal" if refused else "doubled" if len(effects) > 1 else "altered"
            yield f"{rule}: {about} was answered {outcome}, and did {effects}"
        promotions = _promotions_promised(outcome)
        if promotions is not None and promotions != replay.promotions[command.id]:
            yield f"altered: {about} was answered {outcome}, and promoted {replay.promotions[command.id]}"
        if outcome["outcome"] == "failed" and not _mark(command).startswith(POISON):
            yield f"failed: {about} could not be decided (incident {outcome['incidentId']})"
        if outcome["outcome"] == "counter_healed" and outcome["drift"]:
            yield f"counter drift: {about} found a drift of {outcome['drift']}"
    for id_ in replay.effects:
        yield f"effect without a command: {id_} has effects"


def _mark(command: Command) -> str:
    return str(command.payload.get("name") or command.payload.get("reason"))


def _promised(outcome: Json) -> list[tuple[object, ...]]:
    """Return the effects that the outcome says that the command itself had, promotions left out."""
    id_ = outcome.get("registrationId")
    match outcome["outcome"]:
        case "confirmed":
            return [(id_, None, "CONFIRMED", None)]
        case "waitlisted":
            return [(id_, None, "WAITLIST", None)]
        case "status_changed":
            before, after = outcome["fromStatus"], outcome["toStatus"]
            return [(id_, before, after, None)] if before != after or "moved" in outcome else []
        case "registration_corrected":
            changed = tuple(sorted(outcome["changed"]))
            return [(id_, ANY, ANY, changed)] if changed else []
        case "receipt_given":
            return [(id_, ANY, ANY, None)]
        case "deleted":
            return [(id_, outcome["fromStatus"], None, None)]
        case "event_changed":
            return [tuple(sorted(outcome["changed"]))] if outcome["changed"] else []
        case _:
            return []


def _promotions_promised(outcome: Json) -> int | None:
    """Return how many promotions the outcome tells; None if it tells none."""
    match outcome["outcome"]:
        case "event_changed" | "waitlist_promoted":
            return int(outcome["promoted"])
        case "pending" | "refused" | "failed":
            return 0
        case _:
            return None
