"""What an adoption took, what it mended and what it left out, for programs and for people."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

PROBLEMS_LISTED_MAX = 10_000
"""How many problems are listed with their ids; all of them are counted."""


class Code(StrEnum):
    """What was wrong with something in the source."""

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
"""With one of these it was taken, changed as the report says; with any other it was left out."""


class Fate(StrEnum):
    """What became of an event."""

    ADOPTED = "ADOPTED"
    ALREADY_ADOPTED = "ALREADY_ADOPTED"
    LEFT_OUT = "LEFT_OUT"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something wrong in the source, by the source's ids. Nothing personal is in `detail`."""

    code: Code
    event_id: str | None
    registration_id: str | None = None
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AdoptedEvent:
    """What became of an event; the numbers are of one that this run adopted, None for any other.

    `drift` is the source's counter minus its confirmed rows, None without a counter. `promotable`
    counts those who wait and will be promoted with the event's next change.
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
    """All of it; `complete` once every event was looked at."""

    dry_run: bool
    complete: bool = False
    events: list[AdoptedEvent] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    counts: Counter[Code] = field(default_factory=Counter)

    def note(self, problems: Iterable[Problem]) -> None:
        """Count the problems, and list them as long as there is room."""
        for problem in problems:
            self.counts[problem.code] += 1
            if len(self.problems) < PROBLEMS_LISTED_MAX:
                self.problems.append(problem)

    @property
    def all_taken(self) -> bool:
        """Whether nothing was left out."""
        return not self.counts.keys() - MENDED

    @property
    def registrations(self) -> int:
        """How many registrations were adopted."""
        return sum(event.registrations or 0 for event in self.events)

    def fates(self, fate: Fate) -> int:
        """Return how many events came to this."""
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
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
