"""The wishes of the clients: everything that can be asked of an event, each drawn by chance.

Each wish puts a text of its own into its command, its `mark`, by which the judge finds the command again. A
holder's change has no text, so all changes of one kind to one registration share a mark.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from tests.chaos.database import POISON
from tests.chaos.history import History, Made, Operation

Json = dict[str, Any]

DRAWN = {
    "register": 44,
    "register without a key": 12,
    "cancel": 10,
    "shrink": 3,
    "change status": 9,
    "correct": 5,
    "add": 4,
    "delete": 3,
    "give a receipt": 2,
    "change capacity": 4,
    "change settings": 3,
    "heal": 1,
}
"""How often each wish is drawn."""
DELETE_EVENT = "delete event"
OF_PARTY = frozenset(("cancel", "shrink", "change status", "correct", "delete", "give a receipt"))
SHAPES: list[Json] = [
    {"capacity": 20},
    {"capacity": 40, "promotionPolicy": "skip_unfit"},
    {"capacity": 15, "waitlistLimit": 10},
    {"capacity": 30, "waitlistEnabled": False},
    {"capacity": 25, "promotionPolicy": "skip_unfit", "autoPromote": False},
    {"capacity": 0},
    {"capacity": 1_500, "maxSpotsPerRegistration": 1_000},
]
"""The settings of events; the last one has parties of hundreds, so that a change needs follow-ups."""
SETTINGS: Json = {
    "waitlistEnabled": True,
    "waitlistLimit": None,
    "promotionPolicy": "strict_fifo",
    "autoPromote": True,
    "maxSpotsPerRegistration": 10,
    "opensAt": None,
    "closesAt": None,
    "promoteUntil": None,
    "cancelUntil": None,
    "paused": False,
    "archived": False,
    "deleted": False,
}
"""The settings that a new event has where its maker says nothing else."""
EMAIL_SHARE, EMAILS = 0.15, 20
CLOSES_SECONDS_MAX = 3.0
LARGE_PARTY, LARGE_CHANGES_SHARE = 150, 0.1
TRUSTING_SHARE = 0.3
_JSON = {"content-type": "application/json"}


@dataclass
class Event:
    """An event, how many operations it still gets, and its parties as far as the clients know them."""

    made: Made
    left: int
    parties: list[tuple[str, str]] = field(default_factory=list)
    """Receipt and registration of each party."""

    @property
    def is_large(self) -> bool:
        return bool(self.made.settings["maxSpotsPerRegistration"] > SETTINGS["maxSpotsPerRegistration"])


class Wish(NamedTuple):
    """A request, and the operation that it is; one that is `trusting` believes a 503 and ends there."""

    operation: Operation
    event: Event
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    trusting: bool


class Drawn(NamedTuple):
    """A request without its headers; `kind` is its command's kind in the ledger."""

    kind: str
    method: str
    path: str
    body: Json | None = None
    mark: str | None = None
    spots: int = 0
    public: bool = False
    keyed: bool = True


class Wishes:
    """Draws wishes, and writes an operation for each into the history."""

    def __init__(self, history: History, key: str) -> None:
        self.poisonous = 0
        """So many of the next registrations cannot be written."""
        self._history = history
        self._admin = {**_JSON, "authorization": f"Bearer {key}"}

    def new_event(self, slug: str, place: int) -> tuple[Json, dict[str, str]]:
        """Return body and headers of a request for an event; those of neighbouring places differ in shape."""
        asked = {"slug": slug, "title": "Chaos", **SHAPES[place % len(SHAPES)]}
        return asked, {**self._admin, "idempotency-key": slug}

    def draw(self, name: str, event: Event, chance: random.Random) -> Wish:
        """Return the wish of this name."""
        number = len(self._history.operations)
        mark = f"chaos {number}"
        if name == "register" and self.poisonous > 0:
            self.poisonous -= 1
            mark = f"{POISON} {mark}"
        drawn = _DRAW[name](event, chance, mark)
        headers = dict(_JSON if drawn.public else self._admin)
        if drawn.keyed:
            headers["idempotency-key"] = f"{event.made.slug}-{number}"
        operation = Operation(
            number=number,
            kind=drawn.kind,
            event_id=event.made.id,
            mark=drawn.mark or mark,
            spots=drawn.spots,
            keyed=drawn.keyed,
        )
        self._history.operations.append(operation)
        body = b"" if drawn.body is None else msgspec.json.encode(drawn.body)
        trusting = chance.random() < TRUSTING_SHARE
        return Wish(operation, event, drawn.method, drawn.path, headers, body, trusting)


def by_holder(kind: str, registration_id: str) -> str:
    """Return the mark of a holder's changes of this kind to this registration."""
    return f"{kind} by the holder of {registration_id}"


def address(chance: random.Random) -> str:
    """Return one of the addresses of the holders."""
    return f"holder-{chance.randrange(EMAILS)}@example.org"


def _of_admin(event: Event) -> str:
    return f"/api/events/{event.made.id}"


def _party(event: Event, chance: random.Random) -> str:
    return f"{_of_admin(event)}/registrations/{chance.choice(event.parties)[1]}"


def _held(event: Event, chance: random.Random) -> tuple[str, str]:
    receipt, registration_id = chance.choice(event.parties)
    return f"/api/p/{event.made.slug}/receipts/{receipt}", registration_id


def _register(event: Event, chance: random.Random, mark: str) -> Drawn:
    spots = chance.randint(1, 4) * (LARGE_PARTY if event.is_large else 1)
    body: Json = {"name": mark, "spotsCount": spots}
    if chance.random() < EMAIL_SHARE:
        body["email"] = address(chance)
    path = f"/api/p/{event.made.slug}/register"
    return Drawn("register", "POST", path, body, spots=spots, public=True)


def _register_without_key(event: Event, chance: random.Random, mark: str) -> Drawn:
    return _register(event, chance, mark)._replace(keyed=False)


def _cancel(event: Event, chance: random.Random, _mark: str) -> Drawn:
    path, id_ = _held(event, chance)
    return Drawn("change_status", "DELETE", path, None, by_holder("change_status", id_), public=True)


def _shrink(event: Event, chance: random.Random, _mark: str) -> Drawn:
    path, id_ = _held(event, chance)
    mark = by_holder("correct_registration", id_)
    return Drawn("correct_registration", "PATCH", path, {"spotsCount": 1}, mark, public=True)


def _change_status(event: Event, chance: random.Random, mark: str) -> Drawn:
    body = {"status": chance.choice(("CONFIRMED", "WAITLIST", "CANCELLED")), "reason": mark}
    if body["status"] == "WAITLIST" and chance.random() < 0.3:
        body["place"] = "original"
    return Drawn("change_status", "PATCH", _party(event, chance), body)


def _correct(event: Event, chance: random.Random, mark: str) -> Drawn:
    part: Json = chance.choice(({"spotsCount": chance.randint(1, 6)}, {"email": None}))
    return Drawn("correct_registration", "PATCH", _party(event, chance), {**part, "reason": mark})


def _add(event: Event, chance: random.Random, mark: str) -> Drawn:
    spots = chance.randint(1, 3)
    body: Json = {"name": mark, "spotsCount": spots}
    if chance.random() < 0.5:
        body["status"] = chance.choice(("CONFIRMED", "WAITLIST"))
    path = f"{_of_admin(event)}/registrations"
    return Drawn("add_registration", "POST", path, body, spots=spots)


def _delete(event: Event, chance: random.Random, mark: str) -> Drawn:
    return Drawn("delete_registration", "DELETE", f"{_party(event, chance)}?reason={quote(mark)}")


def _give_receipt(event: Event, chance: random.Random, mark: str) -> Drawn:
    return Drawn("give_receipt", "POST", f"{_party(event, chance)}/receipt", {"reason": mark})


def _change_capacity(event: Event, chance: random.Random, mark: str) -> Drawn:
    usual = int(event.made.settings["capacity"])
    more = chance.choice((0, 3_000)) if event.is_large else chance.randint(-usual // 2, usual)
    body: Json = {"capacity": usual + more, "reason": mark}
    if chance.random() < 0.5:
        body["allowOverbooked"] = True
    return Drawn("change_event", "PATCH", _of_admin(event), body)


def _change_settings(event: Event, chance: random.Random, mark: str) -> Drawn:
    soon = datetime.now(UTC) + timedelta(seconds=chance.uniform(0, CLOSES_SECONDS_MAX))
    change: Json = chance.choice(
        (
            {"paused": True},
            {"autoPromote": False},
            {"promotionPolicy": "skip_unfit"},
            {"closesAt": soon.isoformat()},
        )
    )
    if chance.random() < 0.6:
        change = {name: event.made.settings[name] for name in change}
    return Drawn("change_event", "PATCH", _of_admin(event), {**change, "reason": mark})


def _heal(event: Event, _chance: random.Random, mark: str) -> Drawn:
    return Drawn("heal_counter", "POST", f"{_of_admin(event)}/counter/heal", {"reason": mark})


def _delete_event(event: Event, _chance: random.Random, mark: str) -> Drawn:
    return Drawn("delete_event", "DELETE", f"{_of_admin(event)}?reason={quote(mark)}")


_DRAW: dict[str, Callable[[Event, random.Random, str], Drawn]] = {
    "register": _register,
    "register without a key": _register_without_key,
    "cancel": _cancel,
    "shrink": _shrink,
    "change status": _change_status,
    "correct": _correct,
    "add": _add,
    "delete": _delete,
    "give a receipt": _give_receipt,
    "change capacity": _change_capacity,
    "change settings": _change_settings,
    "heal": _heal,
    DELETE_EVENT: _delete_event,
}
