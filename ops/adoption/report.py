"""The report of an adoption: events and registrations taken, changed and left out."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

PROBLEMS_LISTED_MAX = 10_000
"""The most problems that are listed with their ids; all problems are counted."""


class Code(StrEnum):
    """The kind of a problem of an event or a registration in the source."""

    REGISTRATION_WITHOUT_EVENT = "REGISTRATION_WITHOUT_EVENT"
    SLUG_UNUSABLE = "SLUG_UNUSABLE"
    SLUG_TAKEN = "SLUG_TAKEN"
    CAPACITY_INVALID = "CAPACITY_INVALID"
    EVENT_REFUSED = "EVENT_REFUSED"
    NOT_IN_TARGET = "NOT_IN_TARGET"
    STATUS_UNKNOWN = "STATUS_UNKNOWN"
    SPOTS_COUNT_INVALID = "SPOTS_COUNT_INVALID"
    NAME_EMPTY = "NAME_EMPTY"
    SLUG_CHANGED = "SLUG_CHANGED"
    TITLE_CHANGED = "TITLE_CHANGED"
    NAME_CHANGED = "NAME_CHANGED"
    NAME_CUT = "NAME_CUT"
    EMAIL_UNUSABLE = "EMAIL_UNUSABLE"
    EMAIL_TAKEN = "EMAIL_TAKEN"
    CREATED_AT_UNUSABLE = "CREATED_AT_UNUSABLE"


MENDED = frozenset(
    {
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


class Fate(StrEnum):
    """The result of the adoption of an event."""

    ADOPTED = "ADOPTED"
    ALREADY_ADOPTED = "ALREADY_ADOPTED"
    LEFT_OUT = "LEFT_OUT"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A problem in the source, by the source's ids. `detail` holds no personal data."""

    code: Code
    event_id: str | None
    registration_id: str | None = None
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AdoptedEvent:
    """An event of the source; it has numbers if this run adopted it.

    `drift` is the source's counter minus its confirmed rows, None without a counter. `promotable`
    counts the waiting registrations that the event's next change will promote.
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


@dataclass(kw_only=True)
class Report:
    """All events and problems of a run; `complete` once every event was read."""

    dry_run: bool
    complete: bool = False
    events: list[AdoptedEvent] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    counts: Counter[Code] = field(default_factory=Counter)

    def note(self, problems: Iterable[Problem]) -> None:
        """Count the problems, and list the first `PROBLEMS_LISTED_MAX`."""
        for problem in problems:
            self.counts[problem.code] += 1
            if len(self.problems) < PROBLEMS_LISTED_MAX:
                self.problems.append(problem)

    @property
    def all_taken(self) -> bool:
        """True if nothing was left out."""
        return not self.counts.keys() - MENDED

    @property
    def registrations(self) -> int:
        """The number of adopted registrations."""
        return sum(event.registrations or 0 for event in self.events)

    def fates(self, fate: Fate) -> int:
        """Return the number of events with this fate."""
        return sum(event.fate is fate for event in self.events)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values, in camelCase."""
        return {
            "dryRun": self.dry_run,
            "complete": self.complete,
            "allTaken": self.all_taken,
            "eventsAdopted": self.fates(Fate.ADOPTED),
            "eventsAlreadyAdopted": self.fates(Fate.ALREADY_ADOPTED),
            "eventsLeftOut": self.fates(Fate.LEFT_OUT),
            "registrationsAdopted": self.registrations,
            "events": [_plain(asdict(event)) for event in self.events],
            "problemCounts": dict(sorted(self.counts.items())),
            "problems": [
                _plain({**asdict(problem), "taken": problem.code in MENDED}) for problem in self.problems
            ],
        }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {_camel(name): str(value) if isinstance(value, UUID) else value for name, value in values.items()}


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
