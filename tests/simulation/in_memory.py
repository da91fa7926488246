"""A history that happens to a roster alone, seen as plain data."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from uuid import UUID

import msgspec

from shared.domain import commands, decisions, ids
from shared.domain.commands import PendingCommand
from shared.domain.event import Change, EventSettings, Policy, Recount, Waitlist
from shared.domain.roster import Roster
from tests.simulation import auditor, histories, worlds
from tests.simulation.model import TAKEN, Json, Told
from tests.simulation.snapshot import Entry, Row, Snapshot


class InMemory:
    """A roster that knows everything, and a ledger that is a list."""

    def __init__(self, settings: Json) -> None:
        values = {worlds.column(name): value for name, value in settings.items()}
        self.overbooked = 0
        values["promotion_policy"] = Policy(values["promotion_policy"])
        self.roster = Roster(
            settings=EventSettings(**values),
            spots_reserved=0,
            waitlist=Waitlist(),
            registrations={},
            holders={},
            taken_slugs=[TAKEN],
        )
        self.commands: list[Told] = []

    def accept(self, asked: Sequence[Told]) -> None:
        self.commands += [replace(told, seq=seq) for seq, told in enumerate(asked, len(self.commands) + 1)]

    def apply(self, limit: int) -> int:
        """Decide one command, whatever the limit: every decision is looked at."""
        for index, told in enumerate(self.commands):
            if told.outcome is None:
                self.commands[index] = replace(told, outcome=self._decide(told))
                self._follow_up()
                return min(limit, 1)
        return 0

    def _follow_up(self) -> None:
        """Write the follow-up of the last decision into the ledger, as its transaction would."""
        follow_up, self.roster.unsaved.follow_up = self.roster.unsaved.follow_up, None
        if follow_up is not None:
            told = Told(
                id=str(follow_up.id),
                seq=0,
                kind="promote_waitlist",
                payload={},
                accepted_at=follow_up.accepted_at,
                registration_id=str(histories.NOBODY),
                follow_up_id=str(ids.follow_up_id(follow_up.id)),
            )
            self.accept([told])

    def _decide(self, told: Told) -> Json:
        """Decide a command with all that an owner would have loaded for it."""
        self.roster.slug_fixed = any(one.kind != "change_event" for one in self.commands)
        found = self.roster.registrations.values()
        self.roster.recount = Recount(
            confirmed_spots=sum(r.spots_count for r in found if r.status == "CONFIRMED"),
            waitlist_length=sum(r.status == "WAITLIST" for r in found),
            audited_spots=self.roster.unsaved.changes[-1].spots_reserved
            if self.roster.unsaved.changes
            else 0,
        )
        pending = PendingCommand(
            command=commands.decode(told.kind, msgspec.json.encode(told.payload)),
            id=UUID(told.id),
            seq=told.seq,
            actor=told.actor,
            accepted_at=told.accepted_at,
        )
        outcome = decisions.decide(self.roster, pending)
        beyond = max(-self.roster.spots_left, 0)
        overbooks, self.roster.unsaved.overbooked_from = self.roster.unsaved.overbooked_from is not None, None
        self.overbooked = beyond if overbooks else min(self.overbooked, beyond)
        return worlds.as_read(msgspec.json.decode(msgspec.json.encode(outcome)))

    def snapshot(self) -> Snapshot:
        roster = self.roster
        return Snapshot(
            settings={name: getattr(roster.settings, worlds.column(name)) for name in histories.SETTINGS},
            spots_reserved=roster.spots_reserved,
            waitlist_length=roster.waitlist.length,
            overbooked_spots=self.overbooked,
            audit_seq=len(roster.unsaved.changes),
            rows=tuple(
                Row(
                    id=str(row.id),
                    seq=row.seq,
                    command_id=str(row.command_id),
                    name=row.name,
                    email=row.email,
                    spots_count=row.spots_count,
                    status=row.status.value,
                )
                for row in roster.registrations.values()
            ),
            entries=tuple(self._entries()),
            commands=tuple(self.commands),
        )

    def _entries(self) -> Iterator[Entry]:
        """Yield the changes as entries that are well chained: in memory there is no trail yet."""
        last = bytes(32)
        for number, change in enumerate(self.roster.unsaved.changes, 1):
            entry = _entry(number, change)
            last = auditor.digest(last, entry)
            yield msgspec.structs.replace(entry, hash=last)


def _entry(number: int, change: Change) -> Entry:
    return Entry(
        event_id=str(histories.NOBODY),
        number=number,
        command_id=str(change.command_id),
        kind=change.kind,
        actor=change.actor,
        reason=change.reason,
        registration_id=None if change.registration_id is None else str(change.registration_id),
        from_status=change.from_status,
        to_status=change.to_status,
        before_after=msgspec.json.decode(msgspec.json.encode(change.before_after)),
        spots_delta=change.spots_delta,
        spots_reserved=change.spots_reserved,
        at=histories.START,
        hash=b"",
    )
