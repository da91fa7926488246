"""Turns events of an existing system into valid ones, or gives the reason (pure)."""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Any, TypeAlias
from uuid import UUID

from ops.adoption.cleaning import adopted_id
from ops.adoption.report import Code, Problem
from ops.adoption.sources import values
from ops.adoption.sources.mapping import SourceMapping
from ops.adoption.sources.meanings import NOT_UNDERSTOOD
from ops.adoption.sources.source import RawEvent
from ops.adoption.sources.values import UnclearValueError
from shared.domain import texts
from shared.domain.commands import NAME_LENGTH_MAX, SPOTS_MAX, SPOTS_PER_COMMAND_MAX

SLUG_LENGTH_MAX = 100
Note: TypeAlias = Callable[[Code, str], None]
"""A function that adds a problem of the event, with its details."""

_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_BETWEEN_WORDS = re.compile(r"[^a-z0-9]+")
_MAX_SPOTS_DEFAULT = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanEvent:
    """An event that can be taken; `spots_reserved` is the source's counter, None when it has none.

    `settings` has the value of each column of `event` that the source decides. An event is closed for the
    reasons in `closed_because`; with `closed_now` no time of the source's says since when.
    """

    source_id: str
    id: UUID
    spots_reserved: int | None
    settings: dict[str, Any]
    closed_because: list[str] = field(default_factory=list)
    closed_now: bool = False

    @property
    def slug(self) -> str:
        """The event's slug in the target."""
        return str(self.settings["slug"])


class EventReader:
    """Reads events through a mapping, as of one moment; with `close_all` each comes closed."""

    def __init__(self, mapping: SourceMapping, now: datetime, *, close_all: bool) -> None:
        self.mapping = mapping
        self._now = now
        self._close_all = close_all

    def clean(
        self, raw: RawEvent, registrations: int, *, is_there: bool
    ) -> tuple[CleanEvent | None, list[Problem]]:
        """Return the valid form of an event with so many registrations, None if it has none, and problems.

        An event that the source has deleted since it was adopted is closed, as it `is_there` already.
        """
        problems: list[Problem] = []

        def note(code: Code, detail: str) -> None:
            problems.append(Problem(code=code, event_id=raw.id, detail=detail))

        status = self._status(raw)
        deleted = ["the source has it as deleted or archived"] if raw.deleted or status == "DELETED" else []
        if deleted and not is_there:
            note(Code.EVENT_DELETED, *deleted)
            return None, problems
        slug, title = _names(raw, note)
        capacity = self._capacity(raw, registrations, note)
        if not slug or capacity is None:
            return None, problems
        window = _Window(raw, self.mapping.zone, self._now)
        unclear = [*raw.unclear_columns, *window.unclear]
        if status == NOT_UNDERSTOOD:
            unclear += self.mapping.event.of("status")
        if unclear:
            note(Code.COLUMN_NOT_UNDERSTOOD, f"adopted closed: {', '.join(unclear)}")
        because = [*deleted, *window.over, *self._closed(raw, status)]
        because += [f"{name} is not understood" for name in unclear]
        closed_now = bool(because or self._close_all) and not window.over
        settings = {"slug": slug, "title": title, "capacity": capacity, **_limits(raw, note)}
        settings["paused"] = raw.paused or status == "PAUSED"
        created_at = values.clear_moment(raw.created_at, self.mapping.zone)
        if created_at is not None:
            settings["created_at"] = created_at
        elif raw.created_at:
            note(Code.CREATED_AT_UNUSABLE, "its time is the time of its adoption")
        clean = CleanEvent(
            source_id=raw.id,
            id=adopted_id(raw.id),
            spots_reserved=values.whole(raw.spots_reserved),
            settings=settings | window.settings(closed_now=closed_now),
            closed_because=because or (["--closed"] if self._close_all else []),
            closed_now=closed_now,
        )
        return clean, problems

    def _status(self, raw: RawEvent) -> str | None:
        """Return what the event's status means, None if the source has no column of statuses."""
        event = self.mapping.event
        return event.status(raw.status) if event.of("status") else None

    def _capacity(self, raw: RawEvent, registrations: int, note: Note) -> int | None:
        """Return the capacity, None if the event cannot be taken with it."""
        capacity = values.whole(raw.capacity)
        none = raw.capacity is None or (capacity is not None and capacity < 0)
        if (
            raw.unlimited
            or (none and self.mapping.no_capacity == "unlimited")
            or (capacity == 0 and self.mapping.zero_capacity == "unlimited")
        ):
            note(Code.CAPACITY_UNLIMITED, f"the capacity is {SPOTS_MAX} now")
            return SPOTS_MAX
        if capacity == 0 and self.mapping.zero_capacity == "ask" and registrations:
            detail = "the capacity is 0 and there are registrations: say zero_capacity in a mapping"
            note(Code.CAPACITY_UNCLEAR, detail)
            return None
        if capacity is None or not 0 <= capacity <= SPOTS_MAX:
            hint = ": if that means unlimited, say no_capacity in a mapping" if none else ""
            found = "null" if raw.capacity is None else texts.printable(str(raw.capacity))[:40]
            detail = f"the capacity must be 0 to {SPOTS_MAX}, not {found}"
            note(Code.CAPACITY_INVALID, detail + hint)
            return None
        return capacity

    def _closed(self, raw: RawEvent, status: str | None) -> Iterator[str]:
        """Yield the reasons of the source's for which the event is closed, other than times."""
        event = self.mapping.event
        if raw.closed:
            yield f"{' or '.join(event.of('closed'))} says so"
        if raw.open is False:
            yield f"{' or '.join(event.of('open'))} does not say that it is open"
        if status == "CLOSED":
            yield f"its status is {texts.printable(raw.status or '')[:40]}"
        if values.whole(raw.capacity) == 0 and self.mapping.zero_capacity == "ask" and not raw.unlimited:
            yield "its capacity is 0, and the mapping does not say what that means"


class _Window:
    """An event's times: when it opens and closes, and the columns that cannot be read."""

    def __init__(self, raw: RawEvent, zone: tzinfo, now: datetime) -> None:
        self.unclear: list[str] = []
        self._now = now
        self._zone = zone
        self._opens_at = self._moment("the opening time", raw.opens_at)
        closes = [self._moment("the closing time", value, date_ends=True) for value in raw.closes_at]
        over = [
            self._moment("the time of the event", value, date_ends=True, midnight_ends=True)
            for value in raw.over
        ]
        ends = [at for at in closes if at is not None] + [at for at in over if at is not None][:1]
        self._closes_at = min(ends, default=None)

    @property
    def over(self) -> list[str]:
        """The reason for which the event is closed by its times, if it is."""
        return [] if self._closes_at is None or self._closes_at > self._now else ["it is over"]

    def settings(self, *, closed_now: bool) -> dict[str, datetime | None]:
        """Return the times as settings: promotion ends when the event closes."""
        closes_at = self._now if closed_now else self._closes_at
        opens_at = self._opens_at
        if closes_at is not None and opens_at is not None and opens_at >= closes_at:
            opens_at = None
        return {"opens_at": opens_at, "closes_at": closes_at, "promote_until": closes_at}

    def _moment(self, what: str, value: Any, **ends: bool) -> datetime | None:  # noqa: ANN401 - of any type
        try:
            return values.moment(value, self._zone, **ends)
        except UnclearValueError:
            self.unclear.append(what)
            return None


def _names(raw: RawEvent, note: Note) -> tuple[str, str]:
    """Return the event's slug, which may be empty, and its title."""
    slug = _slug(raw.slug or "")
    if not slug:
        note(Code.SLUG_UNUSABLE, "the slug has no letter or digit to make one of")
    elif slug != raw.slug:
        note(Code.SLUG_CHANGED, f"the slug is {slug} now")
    title = texts.printable(raw.title or "")[:NAME_LENGTH_MAX].strip() or slug
    if title != raw.title:
        note(Code.TITLE_CHANGED, "the title was empty, too long or held control characters")
    return slug, title


def _limits(raw: RawEvent, note: Note) -> dict[str, Any]:
    limit, most = values.whole(raw.waitlist_limit), values.whole(raw.max_spots_per_registration)
    if raw.waitlist_limit is not None and (limit is None or not 0 <= limit <= SPOTS_MAX):
        note(Code.SETTING_UNUSABLE, "the waitlist's limit is no count; there is none now")
        limit = None
    if most is None or not 1 <= most <= SPOTS_PER_COMMAND_MAX:
        if raw.max_spots_per_registration is not None:
            detail = (
                f"a registration has 1 to {SPOTS_PER_COMMAND_MAX} spots; at most {_MAX_SPOTS_DEFAULT} now"
            )
            note(Code.SETTING_UNUSABLE, detail)
        most = _MAX_SPOTS_DEFAULT
    return {
        "waitlist_enabled": raw.waitlist_enabled is not False,
        "waitlist_limit": limit,
        "auto_promote": raw.auto_promote is not False,
        "max_spots_per_registration": most,
    }


def _slug(text: str) -> str:
    if len(text) <= SLUG_LENGTH_MAX and _SLUG.fullmatch(text):
        return text
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return _BETWEEN_WORDS.sub("-", ascii_text).strip("-")[:SLUG_LENGTH_MAX].rstrip("-")
