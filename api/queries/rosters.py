"""Rosters of events as of a read, for decisions that are thrown away."""

from datetime import datetime
from uuid import UUID

import msgspec

from shared.domain import rules
from shared.domain.commands import Status
from shared.domain.event import EventSettings, Registration, Waitlist
from shared.domain.roster import Roster
from shared.postgres import statements

_SETTINGS = ", ".join(
    f"'{name}', {column}"
    for column, name in zip(
        EventSettings.__struct_fields__, EventSettings.__struct_encode_fields__, strict=True
    )
)

_WAITERS = statements.inlined(
    statements.SHARED / "read_waitlist.sql",
    event_id="event.id",
    capacity="event.capacity",
    freed=f"least(event.capacity - event.spots_reserved, {rules.PROMOTED_SPOTS_MAX})",
    leaving_sizes="ARRAY[]",
    leaving_parties="ARRAY[]",
)

# The heads of the waitlist are needed only where a spot is free. EXISTS is not used for a follow-up's outcome
# because PostgreSQL may read all outcomes for it.
COLUMN = f"""
    json_build_object(
        'now', now(), 'spotsReserved', spots_reserved, 'waitlistLength', waitlist_length,
        'oversized', (
            SELECT count(*) FROM (
                SELECT FROM registration
                WHERE event_id = event.id AND status = 'WAITLIST' AND spots_count > capacity AND capacity > 0
                ORDER BY spots_count
                LIMIT greatest(coalesce(waitlist_length - waitlist_limit + 1, 0), 0)
            ) AS large
        ),
        'waiters', CASE WHEN spots_reserved < capacity AND waitlist_length > 0 THEN ARRAY(
            SELECT json_build_array(seq, id, spots_count) FROM ({_WAITERS}) AS waiter
        ) ELSE ARRAY[]::json[] END,
        'followUp', CASE WHEN follow_up_id IS NOT NULL AND (
            SELECT command_id FROM outcome WHERE event_id = event.id AND command_id = event.follow_up_id
        ) IS NULL THEN follow_up_id END,
        'settings', json_build_object({_SETTINGS})
    )::text
"""
"""A column of a SELECT from `event`: what `decode` reads."""


class EventAsRead(msgspec.Struct, frozen=True, rename="camel"):
    """An event as of a read, `now` on the database's clock.

    `oversized` counts the oversized parties on its waitlist, as far as the waitlist's limit depends on them.
    """

    now: datetime
    spots_reserved: int
    waitlist_length: int
    oversized: int
    waiters: list[tuple[int, UUID, int]]
    follow_up: UUID | None
    settings: EventSettings

    def roster(self) -> Roster:
        """Return a roster that knows no email address and no name."""
        waiting = [
            Registration(
                id=id_,
                seq=seq,
                command_id=None,
                name="",
                email=None,
                spots_count=spots,
                status=Status.WAITLIST,
            )
            for seq, id_, spots in self.waiters
        ]
        oversized = {self.settings.capacity + 1: self.oversized}
        return Roster(
            settings=self.settings,
            spots_reserved=self.spots_reserved,
            waitlist=Waitlist.of((r.waiter for r in waiting), self.waitlist_length, oversized),
            registrations={registration.id: registration for registration in waiting},
            holders={},
            follow_up=self.follow_up,
        )


_DECODER = msgspec.json.Decoder(EventAsRead)


def decode(row: str) -> EventAsRead:
    """Return the event; raises `msgspec.ValidationError` for a setting that was written by hand."""
    return _DECODER.decode(row)
