"""Holds the invariants of an event against plain data: its rows, counters, audit trail and outcomes.

The auditor knows nothing of how decisions are made. It replays the audit trail from the event's first
settings, and says of everything that does not follow which invariant it breaks, by its number:

 1. After any step that raises it, the counter is at most the capacity.
 2. The counter is the sum of the confirmed spots, and the waitlist's length the number of those waiting.
 3. Every command has one outcome, which never changes.
 4. A command has at most one effect, the one that its outcome tells.
 5. No effect without a command.
 7. The waitlist is in order of its places, promotion takes whom the policy says, and nobody barges.
 8. At rest nobody waits whom the policy would promote, unless an admin put them there; at most one follow-up
    is pending.
 9. A refusal, or a failure, changes nothing.
10. The trail is gapless and chained, and replays to the rows, the counter and the settings.
11. Spots are taken and released once: every delta is what the registration held after less what before.
12. One active registration per email address.
14. No command promotes more than a bounded number of spots.
15. Nothing personal is left of a registration that was erased.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC
from unittest.mock import ANY

from tests.simulation.model import Json, Told, spelling
from tests.simulation.replay import Replay
from tests.simulation.snapshot import Entry, Snapshot

RELEASES_KEY = frozenset(("refused", "failed"))
"""A command with one of these outcomes frees its idempotency key."""
_JSON = json.JSONEncoder(separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def check(first_settings: Json, before: Snapshot | None, now: Snapshot, promoted_spots_max: int) -> list[str]:
    """Return a sentence for every broken invariant, each beginning with its number and a colon."""
    violations = [*_counters(now), *_outcomes(before, now), *_effects(now), *_chain(now), *_holders(now)]
    replay = Replay(first_settings, {told.id: told for told in now.commands}, promoted_spots_max)
    for entry in now.entries:
        replay.step(entry)
    return violations + replay.violations + list(replay.differences(now)) + list(_unserved(now))


def _counters(now: Snapshot) -> Iterator[str]:
    confirmed = sum(row.spots_count for row in now.rows if row.status == "CONFIRMED")
    waiting = sum(row.status == "WAITLIST" for row in now.rows)
    if now.spots_reserved > now.settings["capacity"] + now.overbooked_spots:
        yield f"1: {now.spots_reserved} spots are reserved of {now.settings['capacity']}"
    if now.spots_reserved != confirmed:
        yield f"2: the counter says {now.spots_reserved}, {confirmed} are confirmed"
    if now.waitlist_length != waiting:
        yield f"2: the waitlist's length is said to be {now.waitlist_length}, {waiting} wait"


def _outcomes(before: Snapshot | None, now: Snapshot) -> Iterator[str]:
    outcomes = {told.id: told.outcome for told in now.commands}
    if len(outcomes) != len(now.commands):
        yield "3: a command is in the ledger twice"
    for told in before.commands if before else ():
        if told.id not in outcomes:
            yield f"3: command {told.id} is gone"
        elif told.outcome is not None and outcomes[told.id] != told.outcome:
            yield f"3: the outcome {told.outcome} became {outcomes[told.id]}"


def _effects(now: Snapshot) -> Iterator[str]:
    known = {told.id for told in now.commands}
    for entry in now.entries:
        if entry.command_id not in known:
            yield f"5: no command made entry {entry.number}"
    for row in now.rows:
        if row.command_id not in known:
            yield f"5: no command made registration {row.id}"
    for told in now.commands:
        entries = [entry for entry in now.entries if entry.command_id == told.id]
        effects = [_told_by(entry) for entry in entries if entry.kind != "promotion"]
        if told.kind == "erase":
            yield from _erased(now, told, entries)
        elif effects != promised(told.outcome):
            number = 9 if told.outcome and told.outcome["outcome"] in ("refused", "failed") else 4
            yield f"{number}: {told.kind} was answered {told.outcome}, and did {effects}"
        elif promotions_promised(told.outcome) not in (None, len(entries) - len(effects)):
            yield f"4: {told.kind} was answered {told.outcome}, and promoted {len(entries) - len(effects)}"
    made_by = Counter(row.command_id for row in now.rows)
    keys = Counter(told.idempotency_key for told in now.commands if told.idempotency_key is not None)
    yield from (
        f"4: command {command_id} made {n} registrations" for command_id, n in made_by.items() if n > 1
    )
    yield from (f"4: idempotency key {key!r} names {n} commands" for key, n in keys.items() if n > 1)


def _erased(now: Snapshot, told: Told, entries: list[Entry]) -> Iterator[str]:
    """Say where an erasure did anything but name the registrations that it erased, each as it stood."""
    if told.outcome is None:
        return
    named = [entry for entry in entries if entry.registration_id is not None]
    counted = len(named) == told.outcome["registrations"] and len(entries) == max(len(named), 1)
    if not counted or any(entry.from_status != entry.to_status for entry in entries):
        yield f"4: {told.kind} was answered {told.outcome}, and did {[_told_by(entry) for entry in entries]}"
    again = {entry.registration_id for entry in now.entries if entry.kind == "correct_registration"}
    erased = {entry.registration_id for entry in named} - again
    yield from (
        f"15: {row.id} was erased and has {row.name} {row.email}"
        for row in now.rows
        if row.id in erased and (row.name or row.email)
    )


def _told_by(entry: Entry) -> tuple[object, ...]:
    if entry.registration_id is None:
        return tuple(sorted(entry.before_after or ()))
    corrected = tuple(sorted(entry.before_after)) if entry.before_after else None
    return entry.registration_id, entry.from_status, entry.to_status, corrected


def promised(outcome: Json | None) -> list[tuple[object, ...]]:
    """Return the effects that an outcome tells of its command: promotions and erasures left out.

    An effect is a registration with its statuses and its corrected parts, or the changed settings.
    """
    outcome = outcome or {"outcome": "pending"}
    registration_id = outcome.get("registrationId")
    match outcome["outcome"]:
        case "confirmed":
            return [(registration_id, None, "CONFIRMED", None)]
        case "waitlisted":
            return [(registration_id, None, "WAITLIST", None)]
        case "status_changed":
            before, after = outcome["fromStatus"], outcome["toStatus"]
            changed = before != after or "moved" in outcome
            return [(registration_id, before, after, None)] if changed else []
        case "registration_corrected":
            corrected = tuple(sorted(outcome["changed"]))
            return [(registration_id, ANY, ANY, corrected)] if corrected else []
        case "receipt_given":
            return [(registration_id, ANY, ANY, None)]
        case "deleted":
            return [(registration_id, outcome["fromStatus"], None, None)]
        case "event_changed":
            return [tuple(sorted(outcome["changed"]))] if outcome["changed"] else []
        case _:
            return []


def promotions_promised(outcome: Json | None) -> int | None:
    """Return how many promotions an outcome tells; None if it tells none."""
    outcome = outcome or {"outcome": "pending"}
    match outcome["outcome"]:
        case "event_changed" | "waitlist_promoted":
            return int(outcome["promoted"])
        case "pending" | "refused" | "failed":
            return 0
        case _:
            return None


def _chain(now: Snapshot) -> Iterator[str]:
    numbers = [entry.number for entry in now.entries]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"10: the entries are numbered {numbers}"
    if now.audit_seq != len(numbers):
        yield f"10: the event counts {now.audit_seq} entries, there are {len(numbers)}"
    last = bytes(32)
    for entry in now.entries:
        if entry.hash != digest(last, entry):
            yield f"10: entry {entry.number} is not chained to the one before"
        last = entry.hash


def command_digest(command_id: str) -> str:
    """Return the digest that names a command in logs and in the audit trail."""
    return hashlib.sha256(bytes.fromhex(command_id.replace("-", ""))).hexdigest()


def digest(last: bytes, entry: Entry) -> bytes:
    """Return what the entry's hash must be: written from the published description, not from the code."""
    facts = [
        entry.event_id,
        entry.number,
        command_digest(entry.command_id),
        entry.kind,
        entry.actor,
        entry.reason,
        entry.registration_id,
        entry.from_status,
        entry.to_status,
        entry.before_after,
        entry.spots_delta,
        entry.spots_reserved,
        f"{entry.at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z",
    ]
    return hashlib.sha256(last + _JSON.encode(facts).encode()).digest()


def _holders(now: Snapshot) -> Iterator[str]:
    keys = Counter(spelling(row.email) for row in now.rows if row.email and row.status != "CANCELLED")
    yield from (f"12: {email} holds {n} active registrations" for email, n in keys.items() if n > 1)


def _unserved(now: Snapshot) -> Iterator[str]:
    follow_ups = sum(told.kind == "promote_waitlist" and told.outcome is None for told in now.commands)
    if follow_ups > 1:
        yield f"8: {follow_ups} follow-ups are pending"
    stopped = any(now.settings[name] for name in ("paused", "archived", "deleted"))
    if follow_ups or not now.settings["autoPromote"] or stopped:
        return
    added = {told.id for told in now.commands if told.kind == "add_registration" and "status" in told.payload}
    put_there = {
        entry.registration_id: entry.kind == "change_status" or entry.command_id in added
        for entry in now.entries
        if entry.to_status == "WAITLIST"
        and entry.kind not in ("correct_registration", "give_receipt", "erase")
    }
    until = now.settings["promoteUntil"]
    if until and any(told.accepted_at >= until for told in now.commands):
        return  # what one of these commands freed is owed to nobody
    waiting = sorted((row for row in now.rows if row.status == "WAITLIST"), key=lambda row: row.seq)
    free = now.settings["capacity"] - now.spots_reserved
    waiting = [row for row in waiting if row.spots_count <= now.settings["capacity"]]
    reach = waiting[:1] if now.settings["promotionPolicy"] == "strict_fifo" else waiting
    owed = next((row for row in reach if row.spots_count <= free), None)
    if owed is not None and not put_there.get(owed.id):
        yield f"8: {owed.id} waits for {owed.spots_count} spots with {free} free"
