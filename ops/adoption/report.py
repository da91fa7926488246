"""The report of an adoption: events and registrations taken, changed and left out."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

PROBLEMS_LISTED_MAX = 10_000
"""The most problems that are listed with their ids; all problems are counted."""


class Code(StrEnum):
    """The kind of a problem of an event or a registration in the source."""

    REGISTRATION_WITHOUT_EVENT = "REGISTRATION_WITHOUT_EVENT"
    EVENT_DELETED = "EVENT_DELETED"
    REGISTRATION_DELETED = "REGISTRATION_DELETED"
    SLUG_UNUSABLE = "SLUG_UNUSABLE"
    SLUG_TAKEN = "SLUG_TAKEN"
    ID_TAKEN = "ID_TAKEN"
    CAPACITY_INVALID = "CAPACITY_INVALID"
    CAPACITY_UNCLEAR = "CAPACITY_UNCLEAR"
    EVENT_REFUSED = "EVENT_REFUSED"
    NOT_IN_TARGET = "NOT_IN_TARGET"
    EVENT_GONE = "EVENT_GONE"
    REGISTRATION_GONE = "REGISTRATION_GONE"
    STATUS_UNKNOWN = "STATUS_UNKNOWN"
    SPOTS_COUNT_INVALID = "SPOTS_COUNT_INVALID"
    NAME_EMPTY = "NAME_EMPTY"
    TIME_ZONE_ASSUMED = "TIME_ZONE_ASSUMED"
    COLUMN_NOT_UNDERSTOOD = "COLUMN_NOT_UNDERSTOOD"
    CAPACITY_UNLIMITED = "CAPACITY_UNLIMITED"
    SETTING_UNUSABLE = "SETTING_UNUSABLE"
    STATUS_CHANGED = "STATUS_CHANGED"
    SLUG_CHANGED = "SLUG_CHANGED"
    TITLE_CHANGED = "TITLE_CHANGED"
    NAME_CHANGED = "NAME_CHANGED"
    NAME_CUT = "NAME_CUT"
    EMAIL_UNUSABLE = "EMAIL_UNUSABLE"
    EMAIL_TAKEN = "EMAIL_TAKEN"
    CREATED_AT_UNUSABLE = "CREATED_AT_UNUSABLE"


MENDED = frozenset(
    {
        Code.TIME_ZONE_ASSUMED,
        Code.COLUMN_NOT_UNDERSTOOD,
        Code.CAPACITY_UNLIMITED,
        Code.SETTING_UNUSABLE,
        Code.STATUS_CHANGED,
        Code.SLUG_CHANGED,
        Code.TITLE_CHANGED,
        Code.NAME_CHANGED,
        Code.NAME_CUT,
        Code.EMAIL_UNUSABLE,
        Code.EMAIL_TAKEN,
        Code.CREATED_AT_UNUSABLE,
    }
)
"""With one of these the event or registration was taken and changed; with any other it was left out."""

DELETED = frozenset({Code.EVENT_DELETED, Code.REGISTRATION_DELETED})
"""Left out because the source had deleted it: all that counts there was taken."""

GONE = frozenset({Code.EVENT_GONE, Code.REGISTRATION_GONE})
"""An earlier run took it, and the source has it no longer: there is nothing to take."""


class Fate(StrEnum):
    """The result of the adoption of an event."""

    ADOPTED = "ADOPTED"
    UPDATED = "UPDATED"
    ALREADY_ADOPTED = "ALREADY_ADOPTED"
    LEFT_OUT = "LEFT_OUT"


class Problem(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A problem in the source, by the source's ids. `detail` holds no personal data.

    A registration that is gone from the source is named by its id in the target. `registrations` and `spots`
    count what is left out or gone: a registration, or those of an event.
    """

    code: Code
    event_id: str | None
    registration_id: str | None = None
    detail: str
    registrations: int = 0
    spots: int = 0


class AdoptedEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An event of the source; it has numbers if this run adopted it, or brought it up to date.

    `closed_because` has the reasons for which it came closed. `drift` is the source's counter minus its
    confirmed rows, None without a counter. `promotable` counts the waiting registrations that the event's
    next change will promote.
    """

    source_id: str
    id: UUID
    slug: str | None
    fate: Fate
    registrations: int | None = None
    capacity: int | None = None
    spots_reserved: int | None = None
    overbooked_spots: int | None = None
    waitlist_length: int | None = None
    drift: int | None = None
    promotable: int | None = None
    closed_because: list[str] = []


class Total(msgspec.Struct, kw_only=True):
    """The problems of one code, and the registrations and spots that are left out for them."""

    problems: int = 0
    registrations: int = 0
    spots: int = 0


class ReportedColumn(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A column of the source: its meaning in the mapping, and how many rows have a value in it."""

    table: str
    column: str
    type: str
    meaning: str
    honoured: bool
    rows_with_value: int
    rows: int


@dataclass(kw_only=True)
class Report:
    """All columns, events and problems of a run; `complete` once every event was read."""

    dry_run: bool
    complete: bool = False
    columns: list[ReportedColumn] = field(default_factory=list)
    events: list[AdoptedEvent] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    totals: defaultdict[Code, Total] = field(default_factory=lambda: defaultdict(Total))

    def note(self, problems: Iterable[Problem]) -> None:
        """Count the problems, and list the first `PROBLEMS_LISTED_MAX`."""
        for problem in problems:
            total = self.totals[problem.code]
            total.problems += 1
            total.registrations += problem.registrations
            total.spots += problem.spots
            if len(self.problems) < PROBLEMS_LISTED_MAX:
                self.problems.append(problem)

    @property
    def all_taken(self) -> bool:
        """True if nothing was left out but what the source had deleted."""
        return not self.totals.keys() - MENDED - DELETED - GONE

    @property
    def left_out(self) -> Total:
        """The sum of all that was left out."""
        totals = [total for code, total in self.totals.items() if code not in MENDED | GONE]
        return Total(
            problems=sum(total.problems for total in totals),
            registrations=sum(total.registrations for total in totals),
            spots=sum(total.spots for total in totals),
        )

    @property
    def mended(self) -> int:
        """The number of changes without which something could not have been taken."""
        return sum(self.totals[code].problems for code in MENDED & self.totals.keys())

    @property
    def gone(self) -> int:
        """The number of events and registrations that the source had, and has no longer."""
        return sum(self.totals[code].problems for code in GONE & self.totals.keys())

    @property
    def registrations(self) -> int:
        """The number of adopted registrations."""
        return sum(event.registrations or 0 for event in self.events if event.fate is Fate.ADOPTED)

    def fates(self, fate: Fate) -> int:
        """Return the number of events with this fate."""
        return sum(event.fate is fate for event in self.events)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values, in camelCase."""
        left_out = {code: total for code, total in sorted(self.totals.items()) if code not in MENDED | GONE}
        values: dict[str, Any] = {
            "dryRun": self.dry_run,
            "complete": self.complete,
            "allTaken": self.all_taken,
            "eventsAdopted": self.fates(Fate.ADOPTED),
            "eventsUpdated": self.fates(Fate.UPDATED),
            "eventsAlreadyAdopted": self.fates(Fate.ALREADY_ADOPTED),
            "eventsLeftOut": self.fates(Fate.LEFT_OUT),
            "registrationsAdopted": self.registrations,
            "leftOut": self.left_out,
            "columns": self.columns,
            "events": self.events,
            "problemCounts": {code: total.problems for code, total in sorted(self.totals.items())},
            "leftOutCounts": left_out,
            "goneCounts": {code: self.totals[code] for code in sorted(GONE & self.totals.keys())},
            "problems": [
                {**msgspec.to_builtins(problem), "taken": problem.code in MENDED} for problem in self.problems
            ],
        }
        plain: dict[str, Any] = msgspec.to_builtins(values)
        return plain
