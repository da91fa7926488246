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

_UPDATED = "updatedat updated updatedon updatedate dateupdated lastupdated modifiedat modified lastmodified"
_CREATED = "createdat created createdon createdate datecreated creationdate insertedat"
_DELETED = (
    "deletedat deleted deletedon deleteddate datedeleted deletiondate softdeleted archivedat archived "
    "archivedon removedat removed trashedat trashed"
)
_CANCELLED = "cancelledat canceledat cancelled canceled cancelledon canceledon cancellationdate"

# The order counts: the first name of a meaning that takes one column wins, and `over` is the first value.
_EVENT = {
    "id": "id",
    "slug": "slug urlslug publicslug",
    "title": "title name",
    "capacity": "capacity maxcapacity totalcapacity totalspots maxattendees maxparticipants totalseats seats",
    "spotsReserved": "spotsreserved reservedspots",
    "createdAt": _CREATED,
    "opensAt": (
        "opensat openat opens opendate openingdate openingtime registrationopensat registrationopenat "
        "registrationopens registrationopendate registrationstartsat registrationstartat registrationstart "
        "registrationstartdate bookingopensat salesstartsat salesstartat salesstart"
    ),
    "closesAt": (
        "closesat closeat closes closedat closedate closingdate closingtime registrationclosesat "
        "registrationcloseat registrationcloses registrationclosedat registrationclosedate "
        "registrationendsat registrationendat registrationend registrationenddate registrationdeadline "
        "deadline deadlineat deadlinedate rsvpdeadline rsvpby signupdeadline bookingdeadline bookingclosesat "
        "salesendsat salesendat salesend cutoff cutoffat cutoffdate expiresat expirydate expirationdate "
        "availableuntil validuntil"
    ),
    "over": (
        "endsat endat ends end enddate endtime enddatetime endedat finishesat finishedat startsat startat "
        "starts start startdate starttime startdatetime startedat date datetime heldat heldon happensat "
        "scheduledat scheduledfor"
    ),
    "paused": "paused pausedat onhold suspended suspendedat",
    "closed": (
        f"closed {_CANCELLED} finished completed completedat ended over past draft inactive disabled "
        "disabledat unpublished stopped locked"
    ),
    "open": (
        "active enabled published publishedat open live acceptingregistrations acceptsregistrations "
        "registrationallowed allowregistration allowregistrations bookable available"
    ),
    "deleted": _DELETED,
    "unlimited": "unlimited unlimitedcapacity unlimitedspots",
    "status": "status state",
    "waitlistEnabled": (
        "waitlistenabled waitlist enablewaitlist allowwaitlist waitlistallowed waitinglistenabled waitinglist"
    ),
    "waitlistLimit": "waitlistlimit waitlistmax maxwaitlist maxwaitlistsize waitlistcapacity waitlistsize",
    "maxSpotsPerRegistration": (
        "maxspotsperregistration maxspotsperperson maxspotsperuser maxspotsperbooking maxspots maxpartysize "
        "maxperregistration maxticketsperorder maxticketsperperson maxseatsperbooking"
    ),
    "autoPromote": "autopromote autopromotion autopromotewaitlist",
    IGNORED: _UPDATED,
}
_REGISTRATION = {
    "id": "id",
    "eventId": "eventid event",
    "name": "name fullname holdername attendeename participantname guestname",
    "email": "email emailaddress mail useremail attendeeemail contactemail",
    "spotsCount": (
        "spotscount spotcount spots numberofspots numspots quantity qty seats partysize groupsize "
        "ticketcount tickets numtickets numberoftickets"
    ),
    "status": "status state",
    "createdAt": f"{_CREATED} registeredat bookedat submittedat signedupat timestamp",
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
                column = names.get(name)
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
    if meaning in _TIMES:
        return column.kind in ("time", "number", "text")
    return meaning not in _FLAGS or column.kind in ("flag", "number")


def _parts_of_names(columns: Sequence[Column]) -> dict[str, str]:
    names = {normal(column.name): column.name for column in columns}
    found = next((parts for parts in _NAMES_IN_PARTS if names.keys() >= set(parts)), ())
    return {names[part]: "name" for part in found}


def _rank(table: str, meaning: str, name: str) -> tuple[int, int]:
    """Order columns by their meaning, and those of one meaning as its names are listed."""
    known, short = KNOWN[table], normal(name)
    ends = [place for place, listed in enumerate(known[meaning]) if short.endswith(listed)]
    return list(known).index(meaning), ends[0] if ends else 0
