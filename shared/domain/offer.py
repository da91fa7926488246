"""The offer of an event to a newcomer, found by the roster's own decision (pure)."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from shared.domain import decisions
from shared.domain.commands import PendingCommand, Register
from shared.domain.event import EventState
from shared.domain.outcomes import Confirmed, Waitlisted
from shared.domain.roster import Roster

_NO_ID = UUID(int=0)
_BEHIND_ALL_OTHERS = 2**63 - 1


class Next(StrEnum):
    """The answer that the next party of one would get."""

    CONFIRMED = "CONFIRMED"
    WAITLIST = "WAITLIST"
    FULL = "FULL"


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """The largest party that would be confirmed, zero if none would be, and the answer to a party of one."""

    spots_offered: int
    next: Next


def of(roster: Roster, at: datetime) -> Offer | None:
    """Return the offer to a newcomer at this moment, None unless the event is open.

    The roster decides a party of one, so it is to be thrown away. It must know the heads of the waitlist, if
    a spot is free. A larger party that fits is confirmed if a party of one is: no policy looks at the
    newcomer's size.
    """
    if roster.settings.state(at) is not EventState.OPEN:
        return None
    newcomer = Register(name="newcomer")
    pending = PendingCommand(command=newcomer, id=_NO_ID, seq=_BEHIND_ALL_OTHERS, actor="", accepted_at=at)
    match decisions.decide(roster, pending):
        case Confirmed(spots_count=spots):
            largest = min(roster.spots_left + spots, roster.settings.max_spots_per_registration)
            return Offer(spots_offered=largest, next=Next.CONFIRMED)
        case Waitlisted():
            return Offer(spots_offered=0, next=Next.WAITLIST)
        case _:
            return Offer(spots_offered=0, next=Next.FULL)
