"""The workload: clients that ask for everything that can be asked, at events that come and go.

Each client draws from a source of its own, so that a seed gives the same wishes wherever the answers are the
same. A client that sent a wish under a key repeats it until it has an answer, and follows each receipt to its
end.
"""

import asyncio
import random
import threading
import time
from contextlib import suppress
from http import HTTPStatus

import msgspec
import uvloop

from ops.rehearsal.http_client import Answer, Connection, ConnectionLost
from tests.chaos import wishes
from tests.chaos.database import HarnessError
from tests.chaos.history import History, Made, Operation
from tests.chaos.wishes import SETTINGS, Event, Json, Wish, Wishes

CLIENTS, CROWD, READERS = 192, 64, 8
EVENTS = 8
EVENT_OPERATIONS = 80, 320
"""An event gets so many operations, drawn between these, then another one takes its place."""
DELETED_SHARE = 0.3
REQUEST_SECONDS_MAX = 12.0
BEHIND_SECONDS_MAX = 5.0
"""A client asks by the clock; one that was held up makes up for so long, without a pause."""
PATIENCE_SECONDS = 90.0
"""A client gives an operation up after so long without an answer."""
POLL_SECONDS = 0.05
PARTIES_KNOWN = 12
READ_AGAIN_MAX = 2_000

_MAKES_PARTY = frozenset(("register", "add_registration"))
_HIDDEN = frozenset(("EVENT_NOT_FOUND", "RECEIPT_NOT_FOUND"))
"""A change was made, and what it changed cannot be shown any longer."""
_TRY_AGAIN = frozenset((429, 503, 504))
_REJECTIONS = frozenset((404, 409))
"""A party or event is gone, or an event is full and the request has no key; all else is a right request."""
_SERVER_ERRORS = HTTPStatus.INTERNAL_SERVER_ERROR


class Workload:
    """All clients, on a thread of their own; `history` is complete once `stop` has returned."""

    def __init__(self, url: str, key: str, seed: int, per_second: float) -> None:
        self.history = History()
        self.wishes = Wishes(self.history, key)
        self.crowd = 0
        """So many more clients send registrations without a pause, and wait for none."""
        self._url, self._seed = url, seed
        self._pause_seconds = CLIENTS / per_second
        self.events: list[Event] = []
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start all clients; return once there are events."""
        self._thread.start()
        while len(self.events) < EVENTS and self._thread.is_alive():
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Send nothing new, follow what was sent to its end, and return."""
        self._ending = True
        self._thread.join()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """End all clients at once; their history is of no use then."""
        if self._loop is not None and self._main is not None:
            self._loop.call_soon_threadsafe(self._main.cancel)
            self._thread.join(POLL_SECONDS)

    def _run(self) -> None:
        try:
            uvloop.run(self._all())
        except BaseException as error:  # noqa: BLE001 - raised again by `stop`
            self._error = error

    def _connection(self) -> Connection:
        return Connection(self._url, request_seconds_max=REQUEST_SECONDS_MAX)

    async def _all(self) -> None:
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        chance = random.Random(f"{self._seed} events")  # noqa: S311 - a run must be repeatable
        async with self._connection() as desk:
            for place in range(EVENTS):
                self.events.append(await self._create(desk, place, chance))
        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(self._client(number))
            for number in range(CROWD):
                tasks.create_task(self._one_of_crowd(number))
        await self._read_again()

    async def _create(self, desk: Connection, place: int, chance: random.Random) -> Event:
        slug = f"chaos-{len(self.history.events) + 1}-{chance.randrange(10**9)}"
        asked, headers = self.wishes.new_event(slug, place)
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            with suppress(ConnectionLost):
                answer = await desk.request("POST", "/api/events", headers, msgspec.json.encode(asked))
                if answer.status == HTTPStatus.CREATED:
                    made = Made(id=answer.json()["id"], slug=slug, settings={**SETTINGS, **asked})
                    self.history.events[made.id] = made
                    return Event(made, chance.randint(*EVENT_OPERATIONS))
            await asyncio.sleep(POLL_SECONDS)
        raise HarnessError(f"no event can be made in {PATIENCE_SECONDS:g} s")

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self._seed} client {number}")  # noqa: S311
        due = time.monotonic()
        async with self._connection() as connection:
            while not self._ending:
                place = chance.randrange(EVENTS)
                event = self.events[place]
                if event.left == 0:
                    event.left = -1  # no other client replaces it
                    self.events[place] = await self._create(connection, place, chance)
                    if chance.random() < DELETED_SHARE:
                        await self._perform(connection, self.wishes.draw(wishes.DELETE_EVENT, event, chance))
                elif (wish := self._drawn(event, chance)) is not None:
                    event.left -= event.left > 0
                    await self._perform(connection, wish)
                due = max(
                    due + chance.expovariate(1 / self._pause_seconds), time.monotonic() - BEHIND_SECONDS_MAX
                )
                await asyncio.sleep(due - time.monotonic())

    async def _one_of_crowd(self, number: int) -> None:
        chance = random.Random(f"{self._seed} crowd {number}")  # noqa: S311
        async with self._connection() as connection:
            while not self._ending:
                if number >= self.crowd:
                    await asyncio.sleep(POLL_SECONDS)
                    continue
                wish = self.wishes.draw("register", chance.choice(self.events), chance)
                wish.headers["prefer"] = "respond-async"
                await self._perform(connection, wish)

    def _drawn(self, event: Event, chance: random.Random) -> Wish | None:
        """Return the next wish of a client; None if it needs a party and none is known."""
        (name,) = chance.choices(list(wishes.DRAWN), list(wishes.DRAWN.values()))
        if event.is_large and chance.random() < wishes.LARGE_CHANGES_SHARE:
            name = "change capacity"
        if name in wishes.OF_PARTY and not event.parties:
            return None
        wish = self.wishes.draw(name, event, chance)
        (prefer,) = chance.choices(("", "respond-async", "wait=1"), (70, 20, 10))
        if prefer:
            wish.headers["prefer"] = prefer
        return wish

    async def _perform(self, connection: Connection, wish: Wish) -> None:
        """Send a wish until it has an answer, and follow its receipt to the end."""
        operation = wish.operation
        operation.begun = time.monotonic()
        until = operation.begun + PATIENCE_SECONDS
        pause = POLL_SECONDS
        again = True
        while again and time.monotonic() < until:
            operation.attempts += 1
            try:
                answer = await connection.request(wish.method, wish.path, wish.headers, wish.body)
            except ConnectionLost as lost:
                operation.doubtful = True
                self.history.lost.append(f"{wish.method} {wish.path}: {lost}")
            else:
                again = self._note(operation, answer, first=True)
            again = again and operation.keyed and not (wish.trusting and operation.state == "rejected")
            await asyncio.sleep(pause if again else 0)
            pause = min(2 * pause, 1.0)
        # A receipt that came late is followed as long as any other.
        until = (operation.accepted or operation.begun) + PATIENCE_SECONDS
        while operation.receipt is not None and not operation.told and time.monotonic() < until:
            path = f"/api/p/{wish.event.made.slug}/receipts/{operation.receipt}?wait=5"
            with suppress(ConnectionLost):
                self._note(operation, await connection.request("GET", path), first=False)
            await asyncio.sleep(POLL_SECONDS)
        if operation.kind in _MAKES_PARTY and operation.registration_id and operation.receipt:
            party = operation.receipt, operation.registration_id
            wish.event.parties = [*wish.event.parties[-PARTIES_KNOWN:], party]

    def _note(self, operation: Operation, answer: Answer, *, first: bool) -> bool:
        """Note an answer to the wish, or to a question for its receipt; return True to ask again."""
        body = _body(answer)
        code = body.get("code")
        location = answer.headers.get(b"location", b"").decode()
        # A holder's request that changes nothing makes no command; it shows the holder's own receipt.
        is_vain = first and not location and answer.status == HTTPStatus.OK and not body.get("changed")
        if first and not is_vain:
            receipt = location.rpartition("/")[2] or body.get("receiptId")
            if receipt is not None and operation.receipt is None:
                operation.receipt, operation.accepted = receipt, time.monotonic()
        if answer.status in _TRY_AGAIN:
            operation.doubtful |= answer.status == HTTPStatus.GATEWAY_TIMEOUT
            operation.rejected = f"{answer.status} {code}"
            return operation.receipt is None
        if answer.status >= _SERVER_ERRORS and code != "COMMAND_FAILED":
            self.history.unexpected.append(f"{operation.mark} was answered {answer.status} {body}")
            operation.doubtful = True
            return False
        if answer.status == HTTPStatus.ACCEPTED or body.get("status") == "PENDING":
            return False
        if operation.receipt is None:
            operation.rejected, operation.rejected_at = f"{answer.status} {code}", time.monotonic()
            if answer.status not in _REJECTIONS and not is_vain:
                self.history.unexpected.append(f"{operation.mark} was answered {answer.status} {body}")
            return False
        operation.registration_id = (body.get("registration") or {}).get("id") or operation.registration_id
        told = _told(answer, body, first=first)
        if code not in _HIDDEN:  # that tells nothing of the outcome
            operation.decided = operation.decided or time.monotonic()
        if told not in operation.told:
            operation.told.append(told)
        return False

    async def _read_again(self) -> None:
        """Read receipts once more, when all commands are decided: they must say what the tables say."""
        told = [operation for operation in self.history.operations if operation.told and operation.receipt]
        queue = iter(told[:: max(len(told) // READ_AGAIN_MAX, 1)])

        async def reader() -> None:
            async with self._connection() as connection:
                for operation in queue:
                    slug = self.history.events[operation.event_id].slug
                    with suppress(ConnectionLost):
                        answer = await connection.request(
                            "GET", f"/api/p/{slug}/receipts/{operation.receipt}"
                        )
                        if answer.status < _SERVER_ERRORS:
                            operation.read_again = _told(answer, _body(answer), first=False)

        await asyncio.gather(*(reader() for _ in range(READERS)))


def _told(answer: Answer, body: Json, *, first: bool) -> str:
    """Return what an answer tells: a status, a refusal, or that the change was done."""
    code = body.get("code")
    if answer.status < HTTPStatus.BAD_REQUEST:
        if "refusal" not in body:
            return "DONE"
        refusal = f" {body['refusal']['code']}" if body["refusal"] else ""
        return f"{body['status']}{refusal}"
    if code == "COMMAND_FAILED":
        return "FAILED"
    return f"{answer.status} {code}" if not first or code in _HIDDEN else f"REFUSED {code}"


def _body(answer: Answer) -> Json:
    try:
        found = answer.json()
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}
