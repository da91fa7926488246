"""What erasures did and left: nothing personal of their subjects, and everything of all others."""

from collections.abc import Iterator

from tests.chaos.history import Operation
from tests.chaos.judge.evidence import Command, EventEvidence

NEVER = float("inf")


def check(event: EventEvidence) -> Iterator[str]:
    """Yield a sentence for each erasure that left something, and for each payload that no command erased."""
    named = {str(id_) for c in event.commands if c.kind == "erase" for id_ in c.payload.get("commandIds", ())}
    for command in event.commands:
        if command.erased and command.id not in named:
            yield f"effect without a command: no command erased the payload of {command.kind} {command.id}"
        if command.erased and command.keyed:
            yield f"left: the payload of {command.kind} {command.id} is erased, its idempotency key is not"
    decided = {o.receipt: o.decided for o in event.operations if o.receipt and o.decided}
    for erasure in event.operations:
        if erasure.kind == "erase" and erasure.told:
            known = [c for c in event.commands if decided.get(c.id, NEVER) < erasure.begun]
            yield from _left(event, erasure, [c for c in known if _is_of(erasure, c)])


def _left(event: EventEvidence, erasure: Operation, commands: list[Command]) -> Iterator[str]:
    """Say what is left of these commands, of which clients knew the outcomes before the erasure began."""
    for command in commands:
        if not command.erased:
            yield f"left: {erasure.mark} was done, {command.kind} {command.id} has its payload"
    ids = {registration_of(command) for command in commands}
    for row in event.rows:
        personal = row.name or row.email if erasure.address is None else row.email == erasure.address
        if row.id in ids and personal:
            yield f"left: {erasure.mark} was done, registration {row.id} has {row.name!r} {row.email!r}"


def registration_of(command: Command) -> str | None:
    """Return the registration that a command made or named."""
    found = command.payload.get("registrationId") or (command.outcome or {}).get("registrationId")
    return None if found is None else str(found)


def _is_of(erasure: Operation, command: Command) -> bool:
    if command.kind == "erase":
        return False
    if erasure.address is not None:
        return bool(command.payload.get("email") == erasure.address)
    return registration_of(command) == erasure.registration_id


def is_told(command: Command, effects: list[tuple[object, ...]]) -> bool:
    """Return True if an erasure's entries are those that its outcome tells.

    Each names a registration of the command, as it stands; without one there is one entry without any.
    """
    count = (command.outcome or {}).get("registrations")
    if count == 0:
        return effects == [()]
    asked = set(command.payload.get("registrationIds", ()))
    ids = {effect[0] for effect in effects}
    standing = all(len(effect) == 4 and effect[1] == effect[2] and effect[3] is None for effect in effects)
    return standing and len(effects) == len(ids) == count and ids <= asked
