"""Histories: what is asked of an event, in which order and in which batches; drawn, or written down."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from tests.simulation.model import ACTOR, HOLDER, TAKEN, Json

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
NOBODY = UUID(int=404)

EMAILS = (
    *(f"{name}@example.org" for name in ("ada", "Ada", "bob", "eve", "straße", "STRASSE")),
    "ada@bücher.example",
    "Ada@xn--bcher-kva.example",
)

SETTINGS: Json = {
    "slug": "a-drop",
    "title": "A drop",
    "capacity": 4,
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


@dataclass(frozen=True, kw_only=True)
class Request:
    """One command to be asked for.

    `back` names a registration: 1 is what the last `register` before it asked for. `actor` is whom the ledger
    names.
    """

    kind: str
    payload: Json
    back: int | None = None
    actor: str = ACTOR


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What arrives together, and how many commands the owner then takes at most at a time.

    `waits`: the owner takes only one such portion before the next batch arrives.
    """

    requests: tuple[Request, ...]
    limit: int = 100
    waits: bool = False


@dataclass(frozen=True, kw_only=True)
class History:
    """An event's first settings and all that is asked of it.

    A command stops promoting once it has handed out `promoted_spots_max` spots.
    """

    settings: Json
    batches: tuple[Batch, ...]
    promoted_spots_max: int = 2_000


def register(spots: int = 1, email: str | None = None) -> Request:
    payload = {"name": "Ada", "spotsCount": spots} | ({"email": email} if email else {})
    return Request(kind="register", payload=payload)


def add(spots: int = 1, status: str | None = None, email: str | None = None) -> Request:
    asked = {"name": "Bob", "spotsCount": spots} | ({"email": email} if email else {})
    return Request(kind="add_registration", payload=asked | ({"status": status} if status else {}))


def move(status: str, back: int, place: str | None = None) -> Request:
    payload = {"status": status} | ({"place": place} if place else {})
    return Request(kind="change_status", payload=payload, back=back)


def correct(back: int, actor: str = ACTOR, **parts: object) -> Request:
    return Request(kind="correct_registration", payload=parts, back=back, actor=actor)


def give_receipt(back: int) -> Request:
    return Request(kind="give_receipt", payload={"reason": "lost"}, back=back)


def delete_event() -> Request:
    return Request(kind="delete_event", payload={"reason": "called off"})


def cancel(back: int) -> Request:
    """Return what a holder asks for who does not come."""
    return Request(kind="change_status", payload={"status": "CANCELLED"}, back=back, actor="holder")


def delete(back: int) -> Request:
    return Request(kind="delete_registration", payload={}, back=back)


def erase(back: int) -> Request:
    return Request(kind="erase", payload={}, back=back)


def change(**settings: object) -> Request:
    return Request(kind="change_event", payload=settings)


def heal() -> Request:
    return Request(kind="heal_counter", payload={"reason": "a look"})


def history(
    *requests: Request, limit: int = 100, promoted_spots_max: int = 2_000, **settings: Any
) -> History:
    """Return a history of one batch, on the usual settings but for those given."""
    return History(
        settings={**SETTINGS, **settings},
        batches=(Batch(requests=requests, limit=limit),),
        promoted_spots_max=promoted_spots_max,
    )


def minute(minutes: int) -> datetime:
    return START + timedelta(minutes=minutes)


def _moment(minutes: int, *, hours_east: int) -> str:
    """Return the moment as somebody in another time zone writes it."""
    return (minute(minutes) + timedelta(hours=hours_east)).strftime(f"%Y-%m-%dT%H:%M:%S+{hours_east:02}:00")


def _mostly(usual: object, unusual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(usual), st.just(usual), st.just(usual), unusual)


_POLICIES = st.sampled_from(["strict_fifo", "skip_unfit"])
_EMAILS = st.sampled_from(
    ["ada@example.org", "Ada@example.org", "ADA@EXAMPLE.ORG", "straße@example.org", "STRASSE@example.org"]
)
_HOURS_EAST = st.sampled_from([0, 1, 9])
_BACK = st.integers(1, 6)

_REGISTER = st.builds(register, st.integers(1, 6) | st.integers(1, 2), _mostly(None, _EMAILS))
_MOVE = st.builds(move, st.sampled_from(["CONFIRMED", "WAITLIST", "CANCELLED", "CANCELLED"]), _BACK)
_PLACED = st.builds(move, st.just("WAITLIST"), _BACK, st.sampled_from(["tail", "original"]))
_ADD = st.builds(
    add, st.integers(1, 6), _mostly(None, st.sampled_from(["CONFIRMED", "WAITLIST"])), _mostly(None, _EMAILS)
)
_SIZE = st.builds(correct, _BACK, st.sampled_from([ACTOR, ACTOR, HOLDER]), spotsCount=st.integers(1, 6))
_CORRECT = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["Ada", "Bob"]),
        "email": st.none() | _EMAILS,
        "spotsCount": st.integers(1, 6),
    },
).flatmap(
    lambda parts: st.builds(correct, _BACK, st.just(ACTOR), **{n: st.just(v) for n, v in parts.items()})
)
_CANCEL = st.builds(cancel, _BACK)
_DELETE = st.builds(delete, _BACK)
_ERASE = st.builds(erase, _BACK)
_CAPACITY = st.builds(change, capacity=st.integers(2, 12))
_OVERBOOK = st.builds(change, capacity=st.integers(0, 6), allowOverbooked=st.just(True))
_CHANGE = st.fixed_dictionaries(
    {},
    optional={
        "title": st.sampled_from(["A drop", "Another drop"]),
        "capacity": st.integers(0, 8),
        "waitlistEnabled": _mostly(True, st.just(False)),
        "waitlistLimit": _mostly(None, st.integers(0, 4)),
        "promotionPolicy": _POLICIES,
        "autoPromote": st.booleans(),
        "maxSpotsPerRegistration": _mostly(6, st.integers(2, 5)),
        "opensAt": _mostly(None, st.builds(_moment, st.integers(0, 40), hours_east=_HOURS_EAST)),
        "closesAt": _mostly(None, st.builds(_moment, st.integers(0, 40), hours_east=_HOURS_EAST)),
        "promoteUntil": _mostly(None, st.builds(_moment, st.integers(0, 40), hours_east=_HOURS_EAST)),
        "cancelUntil": _mostly(None, st.builds(_moment, st.integers(0, 40), hours_east=_HOURS_EAST)),
        "paused": _mostly(False, st.just(True)),
        "slug": _mostly("a-drop", st.sampled_from(["another-drop", TAKEN])),
        "archived": _mostly(False, st.just(True)),
        "reason": st.just("Weather"),
    },
).map(lambda settings: change(**settings))
# `one_of` would count equal strategies once; an index into this list gives each its weight.
_KINDS = [
    *[_REGISTER] * 9,
    *[_MOVE] * 5,
    *[_PLACED] * 2,
    *[_SIZE] * 2,
    _CANCEL,
    _CORRECT,
    _ADD,
    st.builds(give_receipt, _BACK),
    _DELETE,
    _ERASE,
    _CAPACITY,
    _OVERBOOK,
    _CHANGE,
    st.builds(heal),
]
_REQUEST = st.integers(0, len(_KINDS) - 1).flatmap(_KINDS.__getitem__)

_BATCH = st.builds(
    Batch,
    requests=st.lists(_REQUEST, min_size=2, max_size=10).map(tuple),
    limit=st.integers(1, 8),
    waits=st.booleans(),
)
_SETTINGS = st.builds(
    lambda **settings: {**SETTINGS, **settings},
    capacity=st.integers(0, 12),
    waitlistEnabled=_mostly(True, st.just(False)),
    waitlistLimit=_mostly(None, st.integers(0, 4)),
    promotionPolicy=_POLICIES,
    autoPromote=_mostly(True, st.just(False)),
    maxSpotsPerRegistration=_mostly(6, st.integers(2, 5)),
    opensAt=_mostly(None, st.integers(0, 3).map(minute)),
    closesAt=_mostly(None, st.integers(20, 60).map(minute)),
    promoteUntil=_mostly(None, st.integers(4, 40).map(minute)),
    cancelUntil=_mostly(None, st.integers(4, 40).map(minute)),
)
HISTORIES = st.builds(
    History,
    settings=_SETTINGS,
    batches=st.lists(_BATCH, min_size=1, max_size=6).map(tuple),
    promoted_spots_max=st.sampled_from([1, 2, 4, 2_000]),
)


def long(seed: int) -> History:
    """Return a crowded history of some eighty commands, the same for the same seed."""
    seeded = random.Random(seed)  # noqa: S311 - reproducible, not secret
    settings = {
        **SETTINGS,
        "capacity": seeded.randint(4, 20),
        "promotionPolicy": seeded.choice(["strict_fifo", "skip_unfit"]),
        "waitlistLimit": seeded.choice([None, None, 12]),
    }
    batches = tuple(
        Batch(
            requests=tuple(_crowd(seeded) for _ in range(seeded.randint(1, 12))),
            limit=seeded.randint(1, 12),
            waits=seeded.random() < 0.5,
        )
        for _ in range(12)
    )
    return History(settings=settings, batches=batches, promoted_spots_max=seeded.choice([1, 3, 2_000]))


def _crowd(seeded: random.Random) -> Request:  # noqa: C901 - a case for each kind
    back = seeded.randint(1, 15)
    weights = {"register": 45, "move": 25, "place": 5, "correct": 8, "add": 4, "receipt": 2}
    weights |= {"delete": 5, "capacity": 5, "change": 5, "heal": 3, "erase": 3}
    match seeded.choices(list(weights), list(weights.values()))[0]:
        case "register":
            email = seeded.choice(EMAILS)
            return register(seeded.randint(1, 6), email if seeded.random() < 0.15 else None)
        case "move":
            return move(seeded.choice(["CONFIRMED", "WAITLIST", "CANCELLED", "CANCELLED"]), back)
        case "place":
            return move("WAITLIST", back, seeded.choice(["tail", "original"]))
        case "correct":
            return correct(back, seeded.choice([ACTOR, HOLDER]), spotsCount=seeded.randint(1, 6))
        case "add":
            return add(seeded.randint(1, 4), seeded.choice([None, None, "CONFIRMED", "WAITLIST"]))
        case "receipt":
            return give_receipt(back)
        case "delete":
            return delete(back)
        case "capacity":
            overbooks = {"allowOverbooked": True} if seeded.random() < 0.5 else {}
            return change(capacity=seeded.randint(3, 24), **overbooks)
        case "change":
            return change(
                promotionPolicy=seeded.choice(["strict_fifo", "skip_unfit"]),
                autoPromote=seeded.random() < 0.8,
                waitlistEnabled=seeded.random() < 0.8,
                paused=seeded.random() < 0.1,
            )
        case "erase":
            return erase(back)
        case _:
            return heal()
