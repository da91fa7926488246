"""The clients' answers beside the ledger: nothing is lost, doubled, altered, unasked or overtaken."""

from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.history import Operation
from tests.chaos.judge.evidence import Command, EventEvidence, Json
from tests.chaos.judge.replay import Replay
from tests.chaos.wishes import by_holder
from tests.simulation import auditor

CLOCK_SECONDS = 0.1
"""By so much the clocks of the clients and the database may differ: they are of one machine."""


def check(event: EventEvidence, replay: Replay) -> Iterator[str]:
    """Yield a sentence for each promise to a client that the service broke."""
    commands = {command.id: command for command in event.commands}
    given = {str(c.payload["registrationId"]) for c in event.commands if c.kind == "give_receipt"}
    for operation in event.operations:
        yield from _times(event, operation, commands.get(operation.receipt or ""))
        if operation.receipt is not None:
            yield from _answers(event, operation, commands.get(operation.receipt), replay, given)
    yield from _marks(event)
    yield from fifo(event)


def _times(event: EventEvidence, operation: Operation, command: Command | None) -> Iterator[str]:
    """Check that no answer came before what it tells: its command's acceptance, and its decision.

    The ledger's times are those at which the transactions wrote and began, before they were committed.
    """
    if command is None:
        return
    accepted, decided = (at and at + event.epoch for at in (operation.accepted, operation.decided))
    written = command.accepted_at.timestamp()
    settled = command.settled_at and command.settled_at.timestamp()
    if accepted and accepted < written - CLOCK_SECONDS:
        yield f"told too early: {operation.mark} was accepted {written - accepted:.2f} s before its row"
    if decided and settled and decided < settled - CLOCK_SECONDS:
        yield f"told too early: {operation.mark} was told {settled - decided:.2f} s before it was settled"


def _answers(
    event: EventEvidence,
    operation: Operation,
    command: Command | None,
    replay: Replay,
    given: set[str],
) -> Iterator[str]:
    if command is None:
        yield f"lost: {_about(operation)} was accepted, and is not in the ledger"
        return
    if command.kind != operation.kind or mark_of(command) != operation.mark:
        yield f"shared answer: {_about(operation)} got the receipt of {command.kind} ({mark_of(command)})"
        return
    if not operation.told:
        yield f"unanswered: {_about(operation)} was never told its outcome"
    yield from _key(operation, command)
    outcome = command.outcome or {"outcome": "pending"}
    allowed = _tellable(outcome, replay)
    for told in operation.told:
        if told not in allowed and told not in _hidden(event, outcome, given):
            yield f"altered: {_about(operation)} was told {told}, its outcome is {outcome}"
    if len([told for told in operation.told if told.startswith(("REFUSED", "FAILED"))]) > 1:
        yield f"answered twice: {_about(operation)} was told {operation.told}"
    made = outcome.get("registrationId")
    if operation.registration_id is not None and operation.registration_id != made:
        about = f"{_about(operation)} was told registration {operation.registration_id}"
        yield f"altered: {about}, the outcome says {made}"
    if (shown := operation.read_again) is not None:
        at_rest = _at_rest(outcome, replay)
        if shown not in at_rest and shown not in _hidden(event, outcome, given):
            yield f"altered: {_about(operation)} shows {shown} at rest instead of {at_rest}"


def _key(operation: Operation, command: Command) -> Iterator[str]:
    """Check that a command is found by its key, unless its outcome or its erasure freed the key."""
    freed = command.erased or (command.outcome or {}).get("outcome") in auditor.RELEASES_KEY
    if operation.keyed and not freed and not command.keyed:
        yield f"key: {_about(operation)} has a key that names no command"


def _about(operation: Operation) -> str:
    return f"{operation.kind} {operation.number} ({operation.mark}, receipt {operation.receipt})"


def _tellable(outcome: Json, replay: Replay) -> set[str]:
    """Return all that a client may be told of an outcome at any time: statuses change, outcomes never do."""
    match outcome["outcome"]:
        case "refused":
            return {f"REFUSED {outcome['code']}"}
        case "failed":
            return {"FAILED"}
        case "event_changed" | "counter_healed":
            return {"DONE", "APPLIED"}
        case "pending":
            return set()
        case _:
            had = replay.statuses[str(outcome["registrationId"])]
            return {str(status or "DELETED") for status in had} | {"DONE"}


def _at_rest(outcome: Json, replay: Replay) -> set[str]:
    """Return what a receipt shows once all commands are decided."""
    match outcome["outcome"]:
        case "refused" | "failed":
            return _tellable(outcome, replay)
        case "event_changed" | "counter_healed":
            return {"APPLIED"}
        case "pending":
            return {"PENDING"}
        case _:
            party = replay.parties.get(str(outcome["registrationId"]))
            return {"DELETED" if party is None else str(party.status)}


def _hidden(event: EventEvidence, outcome: Json, given: set[str]) -> set[str]:
    """Return the answers that hide an outcome: the event is deleted, or the holder has a newer receipt."""
    hidden = {"404 EVENT_NOT_FOUND"} if event.now["deleted"] else set()
    return hidden | ({"404 RECEIPT_NOT_FOUND"} if outcome.get("registrationId") in given else set())


def _marks(event: EventEvidence) -> Iterator[str]:
    """Compare the wishes and the commands of each mark: no command without a wish, no wish done twice."""
    wishes: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in event.operations:
        wishes[operation.mark].append(operation)
    found: defaultdict[str, list[Command]] = defaultdict(list)
    follow_ups = sum(bool((command.outcome or {}).get("moreFollow")) for command in event.commands)
    for command in event.commands:
        if command.kind == "promote_waitlist":
            follow_ups -= 1
        else:
            found[mark_of(command)].append(command)
    if follow_ups < 0:
        yield f"unasked: event {event.id} has {-follow_ups} follow-ups without a cause"
    for mark, commands in found.items():
        asked = wishes.get(mark, [])
        if len(commands) == 1 and any(o.attempts and o.state != "rejected" for o in asked):
            continue  # one command, and a request that may have made it
        possible = sum(operation.attempts for operation in asked if operation.state != "rejected")
        # An erasure frees the key of a command: its client that asks again asks for another one.
        erased = sum(command.erased for command in commands)
        with_effect = [c.id for c in commands if (c.outcome or {}).get("outcome") not in auditor.RELEASES_KEY]
        once = erased + sum(
            1 if operation.keyed else operation.attempts
            for operation in asked
            if operation.state != "rejected"
        )
        if not asked:
            yield f"unasked: no client asked for {commands[0].kind} {commands[0].id} ({mark})"
        elif possible == 0:
            yield f"effect of a refusal: {mark} was answered {asked[0].rejected}, and is in the ledger"
        elif len(with_effect) > once or len(commands) > possible:
            yield f"doubled: {mark} was asked for {once} times, and is in the ledger as {with_effect}"


def mark_of(command: Command) -> str:
    """Return the text by which an operation of this command is found."""
    payload = command.payload
    if command.actor == "holder":
        return by_holder(command.kind, payload["registrationId"])
    return str(payload.get("name") if "name" in payload else payload.get("reason"))


def fifo(event: EventEvidence) -> Iterator[str]:
    """Check that what was accepted before an operation began has a lower place, and is decided before it.

    The witness of each step is the operation with the highest place among those that were answered by then:
    so one comparison for each operation is enough.
    """
    by_id = {command.id: command for command in event.commands}
    numbers = {entry.command_id: entry.number for entry in reversed(event.entries)}
    accepted = [o for o in event.operations if o.accepted is not None and o.receipt in by_id]
    answered = sorted(accepted, key=lambda operation: operation.accepted or 0.0)
    highest_seq = highest_number = place = 0
    for operation in sorted(accepted, key=lambda operation: operation.begun):
        while place < len(answered) and (answered[place].accepted or 0.0) < operation.begun:
            receipt = str(answered[place].receipt)
            highest_seq = max(highest_seq, by_id[receipt].seq)
            if receipt not in event.set_aside:
                highest_number = max(highest_number, numbers.get(receipt, 0))
            place += 1
        own = by_id[str(operation.receipt)]
        number = numbers.get(own.id, highest_number)
        if own.seq < highest_seq:
            yield f"overtaken: {operation.mark} has place {own.seq}, and began after place {highest_seq}"
        elif number < highest_number:
            yield f"overtaken: {operation.mark} is decided ahead of a command accepted before it began"
