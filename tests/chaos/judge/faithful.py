"""Events as a faithful service leaves them, decided by the independent model of the simulation.

The judge must be content with each. Tests plant violations into them, and `python -m tests.chaos.judge` takes
the time of the judge on a million operations.
"""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from shared.domain import ids
from tests.chaos.history import Operation
from tests.chaos.judge import erasures, replay
from tests.chaos.judge.evidence import Command, EventEvidence
from tests.chaos.wishes import SETTINGS
from tests.simulation import auditor
from tests.simulation.model import Json, Model, Told
from tests.simulation.snapshot import Entry, Row

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
EVENT = "00000000-0000-7000-8000-000000000001"
SHOWN = {"event_changed": "DONE", "status_changed": "DONE", "deleted": "DONE", "erased": "DONE"}
Wish = tuple[str, Json]
TEMPLATES, TEMPLATE_OPERATIONS = 40, 250
"""The model is slow, so many events are made of few."""


def register(spots: int = 1, **more: Any) -> Wish:
    return "register", {"spotsCount": spots, **more}


def change(**settings: Any) -> Wish:
    return "change_event", settings


def move(number: int, status: str) -> Wish:
    return "change_status", {"registrationId": registration(number), "status": status}


def erase(*numbers: int) -> Wish:
    """Erase these registrations, and the payloads of their commands."""
    return "erase", {"registrationIds": [registration(number) for number in numbers]}


def command_id(number: int) -> str:
    return str(UUID(int=(number + 1) << 80 | 0x7 << 76 | 0x2 << 62 | number))


def registration(number: int) -> str:
    return str(ids.registration_id(UUID(command_id(number))))


def faithful(*wishes: Wish, **settings: Any) -> EventEvidence:
    """Return an event as a faithful service leaves it, after one wish a second from one client each."""
    first = {**SETTINGS, "slug": "a-drop", "title": "A drop", "capacity": 2, **settings}
    model = Model(first, replay.PROMOTED_SPOTS_MAX)
    commands: list[Command] = []
    operations: list[Operation] = []
    entries: list[Entry] = []
    for number, (kind, asked) in enumerate(wishes):
        mark = f"chaos {number}"
        payload = {**asked, "name" if kind == "register" else "reason": mark}
        if kind == "erase":
            of_these = {c.id for c in commands if erasures.registration_of(c) in asked["registrationIds"]}
            commands = [
                msgspec.structs.replace(c, erased=True, keyed=False) if c.id in of_these else c
                for c in commands
            ]
            payload["commandIds"] = sorted(of_these)
        at, id_ = START + timedelta(seconds=number), command_id(number)
        told = Told(
            id=id_,
            seq=10 * number + 10,
            kind=kind,
            payload=payload,
            accepted_at=at,
            registration_id=registration(number),
            follow_up_id=str(ids.follow_up_id(UUID(id_))),
        )
        before, written = dict(model.settings), len(model.trail)
        outcome = model.decide(told)
        if kind == "change_event":
            after = {name: [before[name], model.settings[name]] for name in outcome.get("changed", ())}
            model.trail[written:] = [
                fact | ({"beforeAfter": after} if fact["kind"] == kind else {})
                for fact in model.trail[written:]
            ]
        entries += [_entry(fact, len(entries) + n, at) for n, fact in enumerate(model.trail[written:], 1)]
        commands.append(
            Command(
                id=id_,
                seq=told.seq,
                kind=kind,
                payload=payload,
                actor="public",
                accepted_at=at,
                outcome=outcome,
                settled_at=at,
                keyed=kind != "erase" and outcome["outcome"] not in auditor.RELEASES_KEY,
            )
        )
        operations.append(_operation(number, kind, payload, outcome))
    rows = [
        Row(
            id=party.id,
            seq=party.place,
            command_id=party.receipt,
            name=party.name,
            email=party.email,
            spots_count=party.spots,
            status=party.status,
        )
        for party in sorted(model.parties, key=lambda party: party.place)
    ]
    columns = {
        "".join(f"_{c.lower()}" if c.isupper() else c for c in n): v for n, v in model.settings.items()
    }
    counters = {
        "spots_reserved": model.confirmed_spots(),
        "waitlist_length": len(model.waiting()),
        "overbooked_spots": model.overbooked,
        "audit_seq": len(entries),
    }
    made = EventEvidence(
        id=EVENT,
        first=first,
        now=columns | counters,
        commands=commands,
        rows=rows,
        operations=operations,
        epoch=START.timestamp(),
    )
    return chained(made, entries)


def _entry(fact: Json, number: int, at: datetime) -> Entry:
    return Entry(
        event_id=EVENT,
        number=number,
        command_id=fact["commandId"],
        kind=fact["kind"],
        actor="public",
        reason=None,
        registration_id=fact["registrationId"],
        from_status=fact["fromStatus"],
        to_status=fact["toStatus"],
        before_after=fact["beforeAfter"],
        spots_delta=fact["spotsDelta"],
        spots_reserved=fact["spotsReserved"],
        at=at,
        hash=b"",
    )


def _operation(number: int, kind: str, payload: Json, outcome: Json) -> Operation:
    """Return the client's view; an operator has no receipt of an erasure."""
    named = payload["registrationIds"][0] if kind == "erase" else None
    status = {"confirmed": "CONFIRMED", "waitlisted": "WAITLIST"}.get(outcome["outcome"])
    told = f"REFUSED {outcome['code']}" if "code" in outcome else status or SHOWN[outcome["outcome"]]
    return Operation(
        number=number,
        kind=kind,
        event_id=EVENT,
        mark=payload["name" if kind == "register" else "reason"],
        keyed=True,
        begun=float(number),
        accepted=None if named else number + 0.5,
        decided=number + 0.5,
        attempts=1,
        receipt=None if named else command_id(number),
        registration_id=named or outcome.get("registrationId"),
        told=[told],
    )


def chained(event: EventEvidence, entries: Sequence[Entry]) -> EventEvidence:
    """Return the event with these audit entries, each chained to the one before."""
    last, linked = bytes(32), []
    for entry in entries:
        last = auditor.digest(last, entry)
        linked.append(msgspec.structs.replace(entry, hash=last))
    return msgspec.structs.replace(event, entries=linked)


def events(operations: int, seed: int = 1) -> Iterator[EventEvidence]:
    """Yield events with so many operations in all, each with its own id and its own chain."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    templates = [faithful(*_wishes(chance), capacity=20, maxSpotsPerRegistration=4) for _ in range(TEMPLATES)]
    for number in range(operations // TEMPLATE_OPERATIONS):
        template = templates[number % TEMPLATES]
        id_ = str(UUID(int=number))
        event = msgspec.structs.replace(
            template,
            id=id_,
            first=template.first | {"slug": id_},
            now=template.now | {"slug": id_},
            operations=[msgspec.structs.replace(o, event_id=id_) for o in template.operations],
        )
        yield chained(event, [msgspec.structs.replace(e, event_id=id_) for e in template.entries])


def _wishes(chance: random.Random) -> Iterator[Wish]:
    """Yield wishes of all kinds; each change is of one of the first registrations, or of a refused one."""
    for number in range(TEMPLATE_OPERATIONS):
        match chance.choices(("register", "move", "change", "erase"), (60, 30, 8, 2)):
            case ["move"] if number:
                yield move(chance.randrange(number), chance.choice(("CONFIRMED", "WAITLIST", "CANCELLED")))
            case ["change"]:
                yield change(capacity=chance.randint(10, 60), allowOverbooked=True)
            case ["erase"] if number:
                yield erase(chance.randrange(number))
            case _:
                yield register(chance.randint(1, 4))
