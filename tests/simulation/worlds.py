"""Drives the service through a history, wherever that happens, and returns what anybody objects to."""

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol
from unittest.mock import patch
from uuid import UUID

from shared.domain import ids, rules
from tests.simulation import auditor, histories
from tests.simulation.histories import History
from tests.simulation.model import Json, Model, Told
from tests.simulation.snapshot import Entry, Snapshot


class World(Protocol):
    """Where a history happens."""

    def accept(self, asked: Sequence[Told]) -> None:
        """Write commands into the ledger."""

    def apply(self, limit: int) -> int:
        """Let the owner decide one batch; return of how many commands."""

    def snapshot(self) -> Snapshot:
        """Return all there is."""


def run(world: World, history: History) -> list[str]:
    """Let a history happen until somebody objects, and return every objection."""
    with bounded(history):
        return _run(world, history)


def bounded(history: History) -> AbstractContextManager[object]:
    """Let the service promote in portions of the history's size."""
    return patch.object(rules, "PROMOTED_SPOTS_MAX", history.promoted_spots_max)


def _run(world: World, history: History) -> list[str]:
    witness = Witness(world, history.settings, history.promoted_spots_max)
    coming = asked(history)
    for batch in history.batches:
        world.accept([next(coming) for _ in batch.requests])
        witness.look()
        while world.apply(batch.limit):
            witness.look()
            if batch.waits or witness.objections:
                break
    if not witness.objections:
        witness.drain()
    return witness.objections


@dataclass
class Witness:
    """Looks at a world after every step, and holds what it sees against the model and the auditor."""

    world: World
    settings: Json
    promoted_spots_max: int = 2_000
    objections: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = Model(self.settings, self.promoted_spots_max)
        self.before: Snapshot | None = None
        self.decided: set[str] = set()

    def drain(self) -> None:
        """See everything decided, and then that delivering it again does nothing."""
        while self.world.apply(100) and not self.objections:
            self.look()
        self.look()
        assert self.before is not None
        pending = [told.id for told in self.before.commands if told.outcome is None]
        if pending:
            self.objections.append(f"3: {pending} never got an outcome")
        if self.world.apply(100) or self.world.snapshot() != self.before:
            self.objections.append("4: delivering the commands again changed something")

    def look(self) -> None:
        """Compare the world as it is with what the model makes of the commands decided since."""
        now = self.world.snapshot()
        self.objections += auditor.check(self.settings, self.before, now, self.promoted_spots_max)
        for told in now.commands:
            if told.outcome is not None and told.id not in self.decided:
                self.decided.add(told.id)
                self.model.slug_fixed = any(one.kind != "change_event" for one in now.commands)
                self._compare(f"answer to {told}", self.model.decide(told), told.outcome)
        model = self.model
        rows = {p.id: (p.place, p.receipt, p.name, p.email, p.spots, p.status) for p in model.parties}
        found = {
            row.id: (row.seq, row.command_id, row.name, row.email, row.spots_count, row.status)
            for row in now.rows
        }
        self._compare("registrations", rows, found)
        follow_ups = [
            (told.id, told.accepted_at)
            for told in now.commands
            if told.kind == "promote_waitlist" and told.outcome is None
        ]
        self._compare("follow-ups", [model.follow_up] if model.follow_up else [], follow_ups)
        counters = model.confirmed_spots(), len(model.waiting()), model.overbooked
        self._compare("counters", counters, (now.spots_reserved, now.waitlist_length, now.overbooked_spots))
        self._compare("settings", model.settings, now.settings)
        self._compare("trail", model.trail, [_essence(entry) for entry in now.entries])
        self.before = now

    def _compare(self, what: str, expected: object, found: object) -> None:
        if expected != found:
            self.objections.append(f"model: {what}: expected {expected}, found {found}")


def asked(history: History) -> Iterator[Told]:
    """Yield the commands that a history asks for, a minute apart."""
    registrations: list[str] = []
    for number, request in enumerate(request for batch in history.batches for request in batch.requests):
        payload = request.payload
        if request.back is not None:
            known = request.back <= len(registrations)
            named = registrations[-request.back] if known else str(histories.NOBODY)
            naming = {"registrationIds": [named]} if request.kind == "erase" else {"registrationId": named}
            payload = {**payload, **naming}
        id_ = command_id(number)
        registration_id = str(ids.registration_id(id_))
        if request.kind in ("register", "add_registration"):
            registrations.append(registration_id)
        yield Told(
            id=str(id_),
            seq=0,
            kind=request.kind,
            payload=payload,
            accepted_at=histories.minute(number),
            registration_id=registration_id,
            follow_up_id=str(ids.follow_up_id(id_)),
            actor=request.actor,
        )


def command_id(number: int) -> UUID:
    """Return the id of a history's command by its number from 0."""
    return UUID(int=(number + 1) << 80 | 0x7 << 76 | 0x2 << 62 | number)


def _essence(entry: Entry) -> Json:
    return {
        "commandId": entry.command_id,
        "kind": entry.kind,
        "registrationId": entry.registration_id,
        "fromStatus": entry.from_status,
        "toStatus": entry.to_status,
        "spotsDelta": entry.spots_delta,
        "spotsReserved": entry.spots_reserved,
        "beforeAfter": entry.before_after,
    }


def as_read(outcome: Json) -> Json:
    """Return an outcome as a program reads it: a refusal's sentence is for people."""
    return {name: value for name, value in outcome.items() if name != "detail"}


def column(name: str) -> str:
    """Return the database's name of a setting."""
    return re.sub("[A-Z]", lambda letter: f"_{letter.group().lower()}", name)
