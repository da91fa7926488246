"""A drop from the outside: its clients, their requests and their answers."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from time import perf_counter
from urllib.parse import urlsplit

import msgspec

from ops.rehearsal import http_client
from ops.rehearsal.evidence import Decision, ObservedRegistration
from shared.domain import commands

PATIENCE_SECONDS = 60.0
RECEIPT_WAIT_SECONDS = 5
RECEIPT_PAUSE_SECONDS = 0.05
REPLAY_EVERY = 20
ADMIN_KEY = "ADMITONE_ADMIN_KEY"
_VALUES_MAX = {
    "registrations": 10_000_000,
    "capacity": commands.SPOTS_MAX,
    "clients": 10_000,
    "party_max": commands.SPOTS_PER_COMMAND_MAX,
}


class RehearsalError(Exception):
    """The rehearsal could not run; the message names the cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One drop: the service, its clients and registrations; raises `RehearsalError` for values out of range.

    Each registration asks for 1 to `party_max` spots, drawn from `seed`; every second registration has an
    email address of its own.
    """

    url: str
    admin_key: str = field(repr=False)
    registrations: int = 10_000
    capacity: int = 500
    clients: int = 200
    party_max: int = 1
    seed: int = 1

    def __post_init__(self) -> None:
        for name, value_max in _VALUES_MAX.items():
            if not 1 <= getattr(self, name) <= value_max:
                raise RehearsalError(f"{name.replace('_', '-')} must be 1 to {value_max}")
        if self.clients > self.registrations:
            raise RehearsalError("there can be no more clients than registrations")
        if not self.admin_key or not self.admin_key.isascii() or not self.admin_key.isprintable():
            raise RehearsalError(f"an admin key is needed: --key, or {ADMIN_KEY}")
        try:
            http_client.Connection(self.url)
        except ValueError as error:
            raise RehearsalError(str(error)) from error


class _Registration(msgspec.Struct, frozen=True):
    id: str


class _Body(msgspec.Struct, frozen=True, rename="camel"):
    """The common fields of a registration's answer, a receipt and a problem."""

    receipt_id: str | None = None
    status: str | int = ""
    registration: _Registration | None = None
    refusal: dict[str, str] | None = None
    code: str | None = None


class Visit:
    """One registration: its request, and its answers so far."""

    def __init__(self, slug: str, number: int, spots_count: int) -> None:
        self.seen = ObservedRegistration(name=f"Rehearsal {number}", spots_count=spots_count, begun=0.0)
        self.failure: str | None = None
        self.receipt_path = ""
        self.headers = {"content-type": "application/json", "idempotency-key": f"{slug}-{number}"}
        email = {"email": f"rehearsal-{number}@example.com"} if number % 2 else {}
        self.body = msgspec.json.encode({"name": self.seen.name, "spotsCount": spots_count, **email})
        self._receipts_path = f"/api/p/{slug}/receipts/"

    def note(self, answer: http_client.Answer, at: float) -> None:
        """Note an answer to the registration or to a request for its receipt."""
        seen, body = self.seen, _body(answer)
        if answer.status not in _ANSWERS:
            self.failure = f"HTTP {answer.status} {body.code or ''}".rstrip()
            seen.rejected = answer.status if not seen.receipts and answer.status < _SERVER_ERRORS else None
            seen.decisions += [Decision(self.failure)] if seen.decisions else []
            return
        if body.receipt_id is not None:
            seen.receipts.add(body.receipt_id)
        location = answer.headers.get(b"location", b"").decode("latin-1")
        self.receipt_path = (
            self.receipt_path or urlsplit(location).path or self._receipts_path + str(body.receipt_id)
        )
        if answer.status != HTTPStatus.CONFLICT:
            seen.accepted = seen.accepted or at
        if seen.decisions or body.status != "PENDING":
            seen.decided = seen.decided or at
            seen.decisions.append(_decision(answer, body))


_ANSWERS = {HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT}
_SERVER_ERRORS = 500


def _body(answer: http_client.Answer) -> _Body:
    try:
        return msgspec.json.decode(answer.body, type=_Body)
    except msgspec.DecodeError:
        return _Body()  # no receipt and no decision, which the checker reports


def _decision(answer: http_client.Answer, body: _Body) -> Decision:
    registration_id = body.registration.id if body.registration else None
    if answer.status == HTTPStatus.CONFLICT:
        return Decision("REFUSED", code=body.code)
    return Decision(str(body.status), registration_id, (body.refusal or {}).get("code"))


_Act = Callable[[http_client.Connection, Visit], Awaitable[None]]


class Drop:
    """All clients of one event: `clients` connections, each with one registration at a time."""

    def __init__(self, plan: Plan, slug: str) -> None:
        chance = random.Random(plan.seed)  # noqa: S311 - a rehearsal must be repeatable
        self.visits = [
            Visit(slug, number, chance.randint(1, plan.party_max)) for number in range(plan.registrations)
        ]
        self.stage, self.done, self.retries = "registering", 0, 0
        self._plan, self._path = plan, f"/api/p/{slug}/register"
        self._last_send = perf_counter()

    @property
    def sent(self) -> list[Visit]:
        """Return the visits whose registration was sent."""
        return [visit for visit in self.visits if visit.seen.begun]

    async def register(self) -> None:
        """Send every registration, and wait for its decision or for the end of `PATIENCE_SECONDS`."""
        await self._run_clients(self.visits, self._register)

    async def ask_again(self) -> None:
        """Read each decided receipt once more, and send some registrations a second time."""
        self.stage = "asking again"
        await self._run_clients([visit for visit in self.visits if visit.seen.decisions], self._ask_again)

    async def _run_clients(self, visits: Sequence[Visit], act: _Act) -> None:
        self.done, queue = 0, iter(visits)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._plan.clients):
                tasks.create_task(self._client(queue, act))

    async def _client(self, queue: Iterator[Visit], act: _Act) -> None:
        async with http_client.Connection(self._plan.url) as connection:
            for visit in queue:
                try:
                    await act(connection, visit)
                except http_client.GaveUp as gave_up:
                    visit.failure = str(gave_up)
                    break  # a client without an answer for so long sends no more
                finally:
                    self.retries, connection.retries = self.retries + connection.retries, 0
                self.done += 1

    async def _register(self, connection: http_client.Connection, visit: Visit) -> None:
        visit.seen.begun = self._last_send = perf_counter()
        await self._send(connection, visit)
        while not (visit.seen.decisions or visit.failure):
            path = f"{visit.receipt_path}?wait={RECEIPT_WAIT_SECONDS}"
            visit.note(
                await http_client.insist(connection, "GET", path, until=self._patience), perf_counter()
            )
            if not visit.seen.decisions:
                await asyncio.sleep(RECEIPT_PAUSE_SECONDS)

    async def _ask_again(self, connection: http_client.Connection, visit: Visit) -> None:
        self._last_send = perf_counter()
        answer = await http_client.insist(connection, "GET", visit.receipt_path, until=self._patience)
        visit.note(answer, perf_counter())
        if self.done % REPLAY_EVERY == 0:
            await self._send(connection, visit)

    async def _send(self, connection: http_client.Connection, visit: Visit) -> None:
        answer = await http_client.insist(
            connection, "POST", self._path, visit.headers, visit.body, until=self._patience
        )
        visit.note(answer, perf_counter())

    def _patience(self) -> float:
        return self._last_send + PATIENCE_SECONDS
