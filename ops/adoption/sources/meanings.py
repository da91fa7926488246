"""The meanings that a source's columns can have, and the names by which each is known (pure).

Names are compared without case and underscores, first as they are, then without a leading `is`, `has`,
`registration` or, in the table of events, `event`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

NOT_UNDERSTOOD = "?"
IGNORED = "ignored"

TABLES = {
    "event": ("event", "events"),
    "registration": ("registration", "registrations", "eventregistration", "eventregistrations"),
}

_UPDATED = "updatedAt updated updatedOn dateUpdated lastUpdated modifiedAt modified lastModified"
_CREATED = "createdAt created createdOn createDate dateCreated creationDate insertedAt"
_DELETED = (
    "deletedAt deleted deletedOn deletedDate dateDeleted deletionDate deletionTime softDeleted archivedAt "
    "archived archivedOn removedAt removed trashedAt trashed discardedAt discarded"
)
_CANCELLED = "cancelledAt canceledAt cancelled canceled cancelledOn canceledOn cancellationDate"

# The order counts: the first name of a meaning that takes one column wins, and `over` is the first value.
_EVENT = {
    "id": "id",
    "slug": "slug urlSlug publicSlug",
    "title": "title name",
    "capacity": "capacity maxCapacity totalCapacity totalSpots maxAttendees maxParticipants totalSeats seats",
    "spotsReserved": "spotsReserved reservedSpots",
    "createdAt": _CREATED,
    "opensAt": (
        "opensAt openAt opens openDate openingDate openingTime registrationOpensAt registrationOpenAt "
        "registrationOpens registrationOpenDate registrationStartsAt registrationStartAt registrationStart "
        "registrationStartDate bookingOpensAt salesStartsAt salesStartAt salesStart"
    ),
    "closesAt": (
        "closesAt closeAt closes closedAt closeDate closingDate closingTime registrationClosesAt "
        "registrationCloseAt registrationCloses registrationClosedAt registrationCloseDate "
        "registrationEndsAt registrationEndAt registrationEnd registrationEndDate registrationDeadline "
        "deadline deadlineAt deadlineDate rsvpDeadline rsvpBy signupDeadline bookingDeadline bookingClosesAt "
        "salesEndsAt salesEndAt salesEnd cutoff cutoffAt cutoffDate expiresAt expiryDate expirationDate "
        "availableUntil validUntil"
    ),
    "over": (
        "endsAt endAt ends end endDate endTime endDateTime endedAt finishesAt finishedAt startsAt startAt "
        "starts start startDate startTime startDateTime startedAt date dateTime heldAt heldOn happensAt "
        "scheduledAt scheduledFor"
    ),
    "paused": "paused pausedAt onHold suspended suspendedAt",
    "closed": (
        f"closed {_CANCELLED} finished completed completedAt ended over past draft inactive disabled "
        "disabledAt unpublished stopped locked"
    ),
    "open": (
        "active enabled published publishedAt open live acceptingRegistrations acceptsRegistrations "
        "registrationAllowed allowRegistration allowRegistrations bookable available"
    ),
    "deleted": _DELETED,
    "unlimited": "unlimited unlimitedCapacity unlimitedSpots",
    "status": "status state",
    "waitlistEnabled": (
        "waitlistEnabled waitlist enableWaitlist allowWaitlist waitlistAllowed waitingListEnabled waitingList"
    ),
    "waitlistLimit": "waitlistLimit waitlistMax maxWaitlist maxWaitlistSize waitlistCapacity waitlistSize",
    "maxSpotsPerRegistration": (
        "maxSpotsPerRegistration maxSpotsPerPerson maxSpotsPerUser maxSpotsPerBooking maxSpots maxPartySize "
        "maxPerRegistration maxTicketsPerOrder maxTicketsPerPerson maxSeatsPerBooking"
    ),
    "autoPromote": "autoPromote autoPromotion autoPromoteWaitlist",
    IGNORED: _UPDATED,
}
_REGISTRATION = {
    "id": "id",
    "eventId": "eventId event",
    "name": "name fullName holderName attendeeName participantName guestName",
    "email": "email emailAddress mail userEmail attendeeEmail contactEmail",
    "spotsCount": (
        "spotsCount spotCount spots numberOfSpots numSpots quantity qty seats partySize groupSize "
        "ticketCount tickets numTickets numberOfTickets"
    ),
    "status": "status state regStatus bookingStatus rsvpStatus attendeeStatus",
    "place": "place position waitlistPosition waitlistPlace waitlistOrder queuePosition",
    "createdAt": f"{_CREATED} registeredAt bookedAt submittedAt signedUpAt timestamp",
    "deleted": _DELETED,
    "cancelled": _CANCELLED,
    IGNORED: _UPDATED,
}
_NAMES_IN_PARTS = ("firstname", "lastname"), ("firstname", "surname"), ("givenname", "familyname")

KNOWN: Mapping[str, Mapping[str, Sequence[str]]] = {
    table: {meaning: names.split() for meaning, names in known.items()}
    for table, known in (("event", _EVENT), ("registration", _REGISTRATION))
}
REQUIRED = {
    "event": ("id", "slug", "title", "capacity"),
    "registration": ("id", "eventId", "name", "spotsCount", "status", "createdAt"),
}
MANY = frozenset(
    {"closesAt", "over", "paused", "closed", "open", "deleted", "unlimited", "cancelled", "name"}
)
"""The meanings that several columns of a table may have at once; `name` those of registrations only."""

_PREFIXES = {"event": ("registration", "event", "is", "has"), "registration": ("registration", "is", "has")}
_FLAGS = ("waitlistEnabled", "autoPromote")
_TIMES = ("createdAt", "opensAt", "closesAt", "over")

EVENT_STATUSES = {
    "OPEN": "open opened active published live scheduled upcoming ongoing registrationopen",
    "PAUSED": "paused onhold suspended",
    "CLOSED": (
        "closed cancelled canceled draft unpublished inactive disabled finished completed complete ended "
        "past over expired done registrationclosed"
    ),
    "DELETED": "deleted archived removed trashed",
}
REGISTRATION_STATUSES = {
    "CONFIRMED": "confirmed",
    "WAITLIST": "waitlist waitlisted waitinglist waiting onwaitlist",
    "CANCELLED": "cancelled canceled",
    "DELETED": "deleted archived removed",
}
STATUSES = {"event": EVENT_STATUSES, "registration": REGISTRATION_STATUSES}


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of the source: `kind` is time, flag, number, text or other, and `filled` counts its values."""

    name: str
    type: str
    kind: str
    category: str
    filled: int

    @property
    def may_close(self) -> bool:
        """A date or flag that is not understood may say that an event is over."""
        return self.kind in ("time", "flag")


def normal(name: str) -> str:
    """Return the name in the form in which two spellings of it are equal."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def guess(table: str, columns: Sequence[Column]) -> dict[str, str]:
    """Return the meaning of each column by its name and kind, `NOT_UNDERSTOOD` where there is none."""
    meanings: dict[str, str] = {}
    taken: set[str] = set()
    for names in _spellings(table, columns):
        for meaning, known in KNOWN[table].items():
            for name in known:
                column = names.get(normal(name))
                if column is None or column.name in meanings or not _fits(column, meaning):
                    continue
                if meaning not in taken or (meaning in MANY | {IGNORED} and meaning != "name"):
                    meanings[column.name] = meaning
                    taken.add(meaning)
    if "name" not in taken and table == "registration":
        meanings |= _parts_of_names(columns)
    order = sorted(meanings, key=lambda name: _rank(table, meanings[name], name))
    return {name: meanings[name] for name in order} | {
        column.name: NOT_UNDERSTOOD for column in columns if column.name not in meanings
    }


def status(table: str, value: str) -> str:
    """Return what a status means by its name, `NOT_UNDERSTOOD` if it is unknown."""
    meant = (meaning for meaning, names in STATUSES[table].items() if normal(value) in names.split())
    return next(meant, NOT_UNDERSTOOD)


def _spellings(table: str, columns: Sequence[Column]) -> Iterator[dict[str, Column]]:
    yield {normal(column.name): column for column in reversed(columns)}
    for prefix in _PREFIXES[table]:
        yield {
            normal(column.name).removeprefix(prefix): column
            for column in columns
            if normal(column.name).startswith(prefix)
        }


def _fits(column: Column, meaning: str) -> bool:
    if meaning == "place":
        return column.kind == "number" or column.category == "N"
    if meaning in _TIMES:
        return column.kind in ("time", "number", "text")
    is_count = column.kind == "number" and normal(column.name) in ("waitlist", "waitinglist")
    return meaning not in _FLAGS or (column.kind in ("flag", "number") and not is_count)


def _parts_of_names(columns: Sequence[Column]) -> dict[str, str]:
    names = {normal(column.name): column.name for column in columns}
    found = next((parts for parts in _NAMES_IN_PARTS if names.keys() >= set(parts)), ())
    return {names[part]: "name" for part in found}


def _rank(table: str, meaning: str, name: str) -> tuple[int, int]:
    """Order columns by their meaning, and those of one meaning as its names are listed."""
    known, short = KNOWN[table], normal(name)
    ends = [place for place, listed in enumerate(known[meaning]) if short.endswith(normal(listed))]
    return list(known).index(meaning), ends[0] if ends else 0
