"""The evidence of a drop: the answers that each client saw, and the service's tables.

This module depends on the HTTP contract alone. `fetch` reads the tables through the admin API.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from time import perf_counter
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from ops.rehearsal import http_client

PAGE_ROWS = 1_000
PAGES_MAX = 10_000
FETCH_SECONDS_MAX = 60.0
STILL_READS_MAX = 20
STILL_PAUSE_SECONDS = 0.25

T = TypeVar("T")


class _Read(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of the admin API's answers; fields that no check needs are ignored."""


class Event(_Read, frozen=True):
    """`promotion_policy` is ``strict_fifo`` (the head blocks) or ``skip_unfit`` (the first that fits)."""

    id: str
    capacity: int
    spots_reserved: int
    waitlist_length: int
    promotion_policy: str
    auto_promote: bool = True
    paused: bool = False
    promote_until: str | None = None

    @property
    def owes_spots(self) -> bool:
        """Return True if free spots surely go to the waitlist: nothing stops promotion or can end it."""
        return self.auto_promote and not self.paused and self.promote_until is None


class Counter(_Read, frozen=True):
    """The service's own comparison of the counter with its rows."""

    spots_reserved: int
    actual_confirmed: int
    drift: int


class Row(_Read, frozen=True):
    """One registration; `seq` is its place in the order of acceptance."""

    id: str
    seq: int
    name: str
    spots_count: int
    status: str
    waitlist_position: int | None = None


class Entry(_Read, frozen=True):
    """One audit entry; a status of `None` means that the registration did not exist.

    `before_after` has the party's sizes, as `spotsCount`, where they were corrected.
    """

    number: int
    registration_id: str | None
    from_status: str | None
    to_status: str | None
    spots_delta: int
    spots_reserved: int
    hash: str
    previous_hash: str | None
    before_after: dict[str, list[Any]] | None = None


class _Page(_Read, Generic[T], frozen=True):
    items: list[T]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """An idle event: all its rows in `seq` order, all its audit entries in `number` order."""

    event: Event
    counter: Counter
    rows: Sequence[Row]
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Decision:
    """A final answer as a client read it; a refusal has a `code`, the others have a `registration_id`."""

    status: str
    registration_id: str | None = None
    code: str | None = None


@dataclass(slots=True, kw_only=True)
class ObservedRegistration:
    """The answers to one registration of one client; times are seconds of one monotonic clock.

    `accepted` is the time of the first 201 or 202. `decisions` has the final answers in the client's order.
    `rejected` is the status of an answer that says that the request had no effect.
    """

    name: str
    spots_count: int
    begun: float
    accepted: float | None = None
    decided: float | None = None
    receipts: set[str] = field(default_factory=set)
    decisions: list[Decision] = field(default_factory=list)
    rejected: int | None = None

    @property
    def final(self) -> Decision | None:
        """Return the latest decision, which a promotion may have changed from WAITLIST to CONFIRMED."""
        return self.decisions[-1] if self.decisions else None


class FetchFailed(Exception):  # noqa: N818 - reads as the sentence "raise FetchFailed"
    """The tables could not be read; the message says which answer was wrong, and how."""


async def fetch(connection: http_client.Connection, event_id: str, admin_key: str) -> Snapshot:
    """Read an event; repeat until it does not change during the read; raises `FetchFailed`."""
    reader = _Reader(connection, f"/api/events/{quote(event_id)}", admin_key)
    event = await reader.get("", Event)
    for _ in range(STILL_READS_MAX):
        rows = await reader.get_all("/registrations", Row)
        entries = await reader.get_all("/audit", Entry)
        counter = await reader.get("/counter", Counter)
        before, event = event, await reader.get("", Event)
        if before == event:
            return Snapshot(event=event, counter=counter, rows=rows, entries=entries)
        await asyncio.sleep(STILL_PAUSE_SECONDS)
    raise FetchFailed(f"event {event_id} kept changing while it was read")


class _Reader:
    """Reads one event's admin resources; repeats requests that fail."""

    def __init__(self, connection: http_client.Connection, path: str, admin_key: str) -> None:
        self._connection, self._path = connection, path
        self._headers = {"authorization": f"Bearer {admin_key}"}
        self._until = perf_counter() + FETCH_SECONDS_MAX

    async def get(self, below: str, shape: type[T]) -> T:
        path = self._path + below
        try:
            answer = await http_client.insist(
                self._connection, "GET", path, self._headers, until=lambda: self._until
            )
            if answer.status != HTTPStatus.OK:
                raise FetchFailed(f"GET {path} answered HTTP {answer.status}")
            return msgspec.json.decode(answer.body, type=shape)
        except http_client.GaveUp as gave_up:
            raise FetchFailed(f"GET {path} was never answered: {gave_up}") from gave_up
        except msgspec.DecodeError as error:
            raise FetchFailed(f"GET {path} does not keep to the contract: {error}") from error

    async def get_all(self, below: str, shape: type[T]) -> list[T]:
        items: list[T] = []
        cursor = ""
        for _ in range(PAGES_MAX):
            page = await self.get(f"{below}?limit={PAGE_ROWS}{cursor}", _Page[shape])  # type: ignore[valid-type]
            items += page.items
            if page.next_cursor is None:
                return items
            cursor = f"&cursor={quote(page.next_cursor, safe='')}"
        raise FetchFailed(f"GET {self._path}{below} has more than {PAGES_MAX} pages")
