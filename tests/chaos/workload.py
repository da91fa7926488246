"""The workload: clients that ask for everything that can be asked, at events that come and go.

Each client draws from a source of its own, so that a seed gives the same wishes, whatever their answers.
A client that sent a wish under a key repeats it until it has an answer, and follows each receipt to its end.
"""

import asyncio
import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import uvloop

from ops.rehearsal.http_client import Answer, Connection, ConnectionLost
from tests.chaos.history import History, Made, Operation
from tests.chaos.service import POISON

Json = dict[str, Any]

CLIENTS = 48
EVENTS = 8
EVENT_OPERATIONS = 160
"""An event gets about so many operations, then another one takes its place."""
REQUEST_SECONDS_MAX = 12.0
PATIENCE_SECONDS = 90.0
"""A client gives an operation up after so long without an answer."""
PARTIES_KNOWN = 12
BURST_CLIENTS = 64
READ_AGAIN_MAX = 2_000

_KINDS = {
    "register": 44,
    "register_without_key": 12,
    "cancel": 10,
    "shrink": 3,
    "change_status": 9,
    "correct_registration": 5,
    "add_registration": 4,
    "delete_registration": 3,
    "give_receipt": 2,
    "capacity": 4,
    "change_event": 3,
    "heal_counter": 1,
}
_SHAPES: list[Json] = [
    {"capacity": 20},
    {"capacity": 40, "promotionPolicy": "skip_unfit"},
    {"capacity": 15, "waitlistLimit": 10},
    {"capacity": 30, "waitlistEnabled": False},
    {"capacity": 25, "promotionPolicy": "skip_unfit", "autoPromote": False},
    {"capacity": 0},
    {"capacity": 1_500, "maxSpotsPerRegistration": 1_000},
]
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
_PUBLIC = {"content-type": "application/json"}
_OF_PARTY = frozenset(
    ("cancel", "shrink", "change_status", "correct_registration", "delete_registration", "give_receipt")
)
_MAKES_PARTY = frozenset(("register", "add_registration"))
EMAIL_SHARE, DELETED_SHARE = 0.15, 0.3
_HIDDEN = frozenset(("EVENT_NOT_FOUND", "RECEIPT_NOT_FOUND"))
"""A change was made, and what it changed cannot be shown any longer."""
_STATUSES = ("CONFIRMED", "WAITLIST", "CANCELLED")


@dataclass
class Event:
    """An event, and the parties that the clients know of it: receipt and registration."""

    made: Made
    left: int
    large: bool
    parties: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Wish:
    """A request, and the operation that it is."""

    operation: Operation
    event: Event
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Workload:
    """All clients, on a thread of their own; `history` is complete once `stop` has returned."""

    def __init__(self, url: str, key: str, seed: int, per_second: float, clients: int = CLIENTS) -> None:
        self.history = History()
        self.burst = 0
        """So many clients send registrations without a pause, and wait for none."""
        self.poisonous = 0
        """So many registrations that come next cannot be written."""
        self._url, self._seed, self._clients = url, seed, clients
        self._pause = clients / per_second
        self._admin = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._events: list[Event] = []
        self._made = 0
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)
        self._error: BaseException | None = None

    def start(self) -> None:
        """Start all clients; return once there are events."""
        self._thread.start()
        while len(self._events) < EVENTS and self._thread.is_alive():
            time.sleep(0.02)

    def stop(self) -> None:
        """Send nothing new, follow what was sent to its end, and return."""
        self._ending = True
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            uvloop.run(self._all())
        except BaseException as error:  # noqa: BLE001 - raised again by `stop`
            self._error = error

    async def _all(self) -> None:
        async with Connection(self._url, request_seconds_max=REQUEST_SECONDS_MAX) as desk:
            chance = random.Random(f"{self._seed} events")  # noqa: S311 - a run must be repeatable
            for _ in range(EVENTS):
                self._events.append(await self._create(desk, chance))
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._clients):
                tasks.create_task(self._client(number))
            for number in range(BURST_CLIENTS):
                tasks.create_task(self._crowd(number))
        await self._read_again()

    async def _create(self, desk: Connection, chance: random.Random) -> Event:
        shape = chance.choice(_SHAPES)
        self._made += 1
        slug = f"chaos-{self._made}"
        asked = {"slug": slug, "title": "Chaos", **shape}
        headers = {**self._admin, "idempotency-key": slug}
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            with suppress(ConnectionLost):
                answer = await desk.request("POST", "/api/events", headers, msgspec.json.encode(asked))
                if answer.status == 201:
                    made = Made(id=answer.json()["id"], slug=slug, settings={**SETTINGS, **asked})
                    self.history.events[made.id] = made
                    large = shape.get("maxSpotsPerRegistration", 0) > 10
                    return Event(made, chance.randint(EVENT_OPERATIONS // 2, 2 * EVENT_OPERATIONS), large)
            await asyncio.sleep(0.1)
        raise AssertionError("no event can be made")

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self._seed} client {number}")  # noqa: S311
        async with Connection(self._url, request_seconds_max=REQUEST_SECONDS_MAX) as connection:
            while not self._ending:
                place = chance.randrange(EVENTS)
                event = self._events[place]
                if event.left == 0:
                    event.left = -1  # no other client replaces it
                    self._events[place] = await self._create(connection, chance)
                    if chance.random() < DELETED_SHARE:
                        await self._perform(connection, self._wish("delete_event", event, chance))
                elif (wish := self._drawn(event, chance)) is not None:
                    event.left = max(event.left - 1, 0) if event.left > 0 else event.left
                    await self._perform(connection, wish)
                await asyncio.sleep(chance.expovariate(1 / self._pause))

    async def _crowd(self, number: int) -> None:
        """Be one of a crowd that comes all at once, as long as there is a burst."""
        chance = random.Random(f"{self._seed} crowd {number}")  # noqa: S311
        async with Connection(self._url, request_seconds_max=REQUEST_SECONDS_MAX) as connection:
            while not self._ending:
                if number >= self.burst:
                    await asyncio.sleep(0.05)
                    continue
                wish = self._wish("register", self._events[chance.randrange(EVENTS)], chance)
                wish.headers["prefer"] = "respond-async"
                await self._perform(connection, wish)

    def _drawn(self, event: Event, chance: random.Random) -> Wish | None:
        """Return the next wish of a client; None if it needs a party and none is known."""
        kind = chance.choices(list(_KINDS), list(_KINDS.values()))[0]
        if kind in _OF_PARTY and not event.parties:
            return None
        wish = self._wish(kind, event, chance)
        prefer = chance.choices(("", "respond-async", "wait=1"), (70, 20, 10))[0]
        if prefer:
            wish.headers["prefer"] = prefer
        return wish

    def _wish(self, kind: str, event: Event, chance: random.Random) -> Wish:  # noqa: C901, PLR0914 - a case for each
        number = len(self.history.operations)
        mark, keyed, spots = f"chaos {number}", True, 0
        admin = f"/api/events/{event.made.id}"
        receipt, party = chance.choice(event.parties) if event.parties else ("", "")
        held = f"/api/p/{event.made.slug}/receipts/{receipt}"
        headers = dict(self._admin)
        body: Json | None = {"reason": mark}
        match kind:
            case "register" | "register_without_key":
                kind, keyed = "register", kind == "register"
                spots = chance.randint(1, 4) * (150 if event.large and chance.random() < 0.8 else 1)
                method, path, headers = "POST", f"/api/p/{event.made.slug}/register", dict(_PUBLIC)
                if self.poisonous > 0:
                    self.poisonous -= 1
                    mark = f"{POISON} {mark}"
                body = {"name": mark, "spotsCount": spots}
                if chance.random() < EMAIL_SHARE:
                    body["email"] = f"holder-{chance.randrange(20)}@example.org"
            case "cancel":
                kind, method, path, headers, body = "change_status", "DELETE", held, dict(_PUBLIC), None
                mark = f"change_status by holder of {party}"
            case "shrink":
                kind, method, path, headers = "correct_registration", "PATCH", held, dict(_PUBLIC)
                body = {"spotsCount": 1}
                mark = f"correct_registration by holder of {party}"
            case "change_status":
                method, path = "PATCH", f"{admin}/registrations/{party}"
                body = {"status": chance.choice(_STATUSES), "reason": mark}
                if body["status"] == "WAITLIST" and chance.random() < 0.3:
                    body["place"] = "original"
            case "correct_registration":
                method, path = "PATCH", f"{admin}/registrations/{party}"
                part = chance.choice(({"spotsCount": chance.randint(1, 6)}, {"email": None}))
                body = {**part, "reason": mark}
            case "add_registration":
                spots = chance.randint(1, 3)
                method, path = "POST", f"{admin}/registrations"
                body = {"name": mark, "spotsCount": spots, "reason": mark}
                if chance.random() < 0.5:
                    body["status"] = chance.choice(("CONFIRMED", "WAITLIST"))
            case "delete_registration":
                method, path, body = "DELETE", f"{admin}/registrations/{party}?reason={mark}", None
                path = path.replace(" ", "%20")
            case "give_receipt":
                method, path = "POST", f"{admin}/registrations/{party}/receipt"
            case "capacity":
                kind, method, path = "change_event", "PATCH", admin
                usual = int(event.made.settings["capacity"])
                body = {"capacity": max(usual + chance.randint(-usual // 2, usual), 0), "reason": mark}
                if event.large:
                    body["capacity"] = usual + chance.choice((0, 3_000))
                if chance.random() < 0.5:
                    body["allowOverbooked"] = True
            case "change_event":
                method, path = "PATCH", admin
                change = chance.choice(
                    ({"paused": True}, {"autoPromote": False}, {"promotionPolicy": "skip_unfit"})
                )
                usual_again = {name: event.made.settings[name] for name in change}
                body = {**(change if chance.random() < 0.4 else usual_again), "reason": mark}
            case "heal_counter":
                method, path = "POST", f"{admin}/counter/heal"
            case _:
                method, path, body = "DELETE", f"{admin}?reason={mark.replace(' ', '%20')}", None
        if keyed:
            headers["idempotency-key"] = f"{event.made.slug}-{number}"
        operation = Operation(
            number=number, kind=kind, event_id=event.made.id, mark=mark, spots=spots, keyed=keyed
        )
        self.history.operations.append(operation)
        return Wish(
            operation, event, method, path, headers, b"" if body is None else msgspec.json.encode(body)
        )

    async def _perform(self, connection: Connection, wish: Wish) -> None:
        """Send a wish until it has an answer, and follow its receipt to the end."""
        operation = wish.operation
        operation.begun = time.monotonic()
        until = operation.begun + PATIENCE_SECONDS
        pause = 0.05
        while time.monotonic() < until:
            operation.attempts += 1
            try:
                answer = await connection.request(wish.method, wish.path, wish.headers, wish.body)
            except ConnectionLost:
                operation.doubtful = True
                again = operation.keyed
            else:
                again = self._note(operation, answer, first=True) and operation.keyed
            if not again:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)
        while operation.receipt is not None and not operation.told and time.monotonic() < until:
            path = f"/api/p/{wish.event.made.slug}/receipts/{operation.receipt}?wait=5"
            try:
                self._note(operation, await connection.request("GET", path), first=False)
            except ConnectionLost:
                pass
            await asyncio.sleep(0.05)
        if operation.kind in _MAKES_PARTY and operation.registration_id and operation.receipt:
            wish.event.parties = [
                *wish.event.parties[-PARTIES_KNOWN:],
                (operation.receipt, operation.registration_id),
            ]

    def _note(self, operation: Operation, answer: Answer, *, first: bool) -> bool:
        """Note an answer to the wish, or to a question for its receipt; return True to ask again."""
        body = _body(answer)
        code, status = body.get("code"), body.get("status")
        location = answer.headers.get(b"location", b"").decode()
        receipt = location.rpartition("/")[2] or body.get("receiptId")
        now = time.monotonic()
        if receipt is not None and first:
            operation.receipt = operation.receipt or receipt
            operation.accepted = operation.accepted or now
        if answer.status in {503, 504, 429}:
            operation.doubtful |= answer.status == 504
            operation.rejected = code if first and receipt is None else operation.rejected
            return operation.receipt is None
        if answer.status >= 500 and code != "COMMAND_FAILED":
            self.history.internal_errors.append(f"{operation.kind} was answered {answer.status} {body}")
            operation.doubtful = True
            return False
        if answer.status == 202 or status == "PENDING":
            return False
        if answer.status < 300:
            registration = body.get("registration") or {}
            operation.registration_id = registration.get("id") or operation.registration_id
            told = str(status) if "refusal" in body else "DONE"
            if told == "REFUSED":
                told = f"REFUSED {body['refusal']['code']}"
        elif operation.receipt is None:
            operation.rejected = f"{answer.status} {code}"
            return False
        elif not first or code in _HIDDEN:
            told = f"{answer.status} {code}"
        else:
            told = "FAILED" if code == "COMMAND_FAILED" else f"REFUSED {code}"
        operation.decided = operation.decided or now
        if told not in operation.told:
            operation.told.append(told)
        return False

    async def _read_again(self) -> None:
        """Read receipts once more, when all commands are decided: they must say what the tables say."""
        told = [operation for operation in self.history.operations if operation.told and operation.receipt]
        queue = iter(told[:: max(len(told) // READ_AGAIN_MAX, 1)])

        async def reader() -> None:
            async with Connection(self._url, request_seconds_max=REQUEST_SECONDS_MAX) as connection:
                for operation in queue:
                    slug = self.history.events[operation.event_id].slug
                    with suppress(ConnectionLost):
                        answer = await connection.request(
                            "GET", f"/api/p/{slug}/receipts/{operation.receipt}"
                        )
                        if answer.status < 500:
                            found = _body(answer)
                            code = found.get("code")
                            operation.read_again = f"{answer.status} {code}" if code else found["status"]

        await asyncio.gather(*(reader() for _ in range(8)))


def _body(answer: Answer) -> Json:
    try:
        found = answer.json()
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}
