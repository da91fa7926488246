"""The ledger beside its effects: each command is settled once, and did what its outcome says."""

from collections.abc import Iterator

from tests.chaos.database import POISON
from tests.chaos.judge import erasures
from tests.chaos.judge.evidence import Command, EventEvidence
from tests.chaos.judge.replay import Replay
from tests.simulation import auditor


def check(event: EventEvidence, replay: Replay) -> Iterator[str]:
    """Yield a sentence for each command that is not settled, or of which the effects are not as told."""
    for command in event.commands:
        if command.outcome is None:
            yield f"unanswered: {_about(command)} has no outcome"
        elif command.pending:
            yield f"answered twice: {_about(command)} is settled and pending"
        effects = replay.effects.pop(command.id, [])
        outcome = command.outcome or {"outcome": "pending"}
        erased = outcome["outcome"] == "erased"
        as_told = erasures.is_told(command, effects) if erased else effects == auditor.promised(outcome)
        if not as_told:
            refused = outcome["outcome"] in {"refused", "failed"}
            rule = "effect of a refusal" if refused else "doubled" if len(effects) > 1 else "altered"
            yield f"{rule}: {_about(command)} was answered {outcome}, and did {effects}"
        promotions = auditor.promotions_promised(outcome)
        if promotions is not None and promotions != replay.promotions[command.id]:
            promoted = replay.promotions[command.id]
            yield f"altered: {_about(command)} was answered {outcome}, and promoted {promoted}"
        if command.keyed and outcome["outcome"] in auditor.RELEASES_KEY:
            yield f"key: {_about(command)} was answered {outcome}, and keeps its idempotency key"
        if outcome["outcome"] == "failed" and not _mark(command).startswith(POISON):
            yield f"failed: {_about(command)} could not be decided (incident {outcome['incidentId']})"
        if outcome["outcome"] == "counter_healed" and outcome["drift"]:
            yield f"counter drift: {_about(command)} found a drift of {outcome['drift']}"
    for id_ in replay.effects:
        yield f"effect without a command: {id_} has effects"


def _about(command: Command) -> str:
    return f"{command.kind} {command.id} ({_mark(command)})"


def _mark(command: Command) -> str:
    return str(command.payload.get("name") or command.payload.get("reason"))
