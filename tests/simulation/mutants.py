"""Bugs to plant in the service: each plant puts one in its place until its test ends."""
# ruff: noqa: SLF001 - bugs live inside

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from shared.domain import audit, corrections, decisions, event_changes, roster, rules
from shared.domain.commands import SPOTS_PER_COMMAND_MAX, PendingCommand, Register, Status
from shared.domain.event import Change, EventChanges, EventSettings, Policy, Registration, Waiter, Waitlist
from shared.domain.outcomes import Outcome, Refused
from shared.domain.roster import Roster
from worker import save
from worker.load import LoadedEvent

Plant = Callable[[pytest.MonkeyPatch], None]
_Taken = tuple[LoadedEvent, EventChanges]


def frees_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    note = Roster.note

    def mutant(self: Roster, accepted: PendingCommand, **facts: Any) -> None:
        if facts.get("from_status") is Status.CANCELLED and facts.get("to_status") is None:
            facts["spots_delta"] = -1
        note(self, accepted, **facts)

    monkeypatch.setattr(Roster, "note", mutant)


def frees_nothing_on_demotion(monkeypatch: pytest.MonkeyPatch) -> None:
    note = Roster.note

    def mutant(self: Roster, accepted: PendingCommand, **facts: Any) -> None:
        if facts.get("from_status") is Status.CONFIRMED and facts.get("to_status") is Status.WAITLIST:
            facts["spots_delta"] = 0
        note(self, accepted, **facts)

    monkeypatch.setattr(Roster, "note", mutant)


def lets_newcomers_barge(monkeypatch: pytest.MonkeyPatch) -> None:
    def mutant(self: Roster, spots: int) -> bool:
        return spots <= self.spots_left

    monkeypatch.setattr(Roster, "may_take", mutant)


def promotes_without_looking_at_the_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    def mutant(policy: Policy, waitlist: Waitlist, *, capacity: int, spots_left: int) -> Waiter | None:
        del policy
        return min(waitlist.heads(capacity), default=None) if spots_left > 0 else None

    monkeypatch.setattr(rules, "next_up", mutant)


def skips_the_head_under_strict_fifo(monkeypatch: pytest.MonkeyPatch) -> None:
    next_up = rules.next_up
    monkeypatch.setattr(
        rules, "next_up", lambda _, waitlist, **spots: next_up(Policy.SKIP_UNFIT, waitlist, **spots)
    )


def promotes_whom_it_moved_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    promote = Roster.promote
    monkeypatch.setattr(Roster, "promote", lambda self, accepted, but=None: promote(self, accepted))  # noqa: ARG005


def promotes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Roster, "promote", lambda self, accepted, but=None: 0)  # noqa: ARG005


def promotes_although_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    promote = Roster.promote

    def mutant(self: Roster, accepted: PendingCommand, *, but: Waiter | None = None) -> int:
        settings = self.settings
        self.settings = msgspec.structs.replace(settings, auto_promote=True)
        promoted = promote(self, accepted, but=but)
        self.settings = settings
        return promoted

    monkeypatch.setattr(Roster, "promote", mutant)


def promotes_in_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    _promotes_on(monkeypatch, paused=False)


def promotes_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    _promotes_on(monkeypatch, promote_until=None)


def promotes_at_a_deleted_event(monkeypatch: pytest.MonkeyPatch) -> None:
    _promotes_on(monkeypatch, deleted=False)


def _promotes_on(monkeypatch: pytest.MonkeyPatch, **terms: object) -> None:
    promotes = EventSettings.promotes
    monkeypatch.setattr(
        EventSettings, "promotes", lambda self, at: promotes(msgspec.structs.replace(self, **terms), at)
    )


def lets_holders_cancel_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "against_cancelling", lambda *_: None)


def asks_for_the_address_of_a_full_event(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = decisions._register

    def mutant(roster: Roster, accepted: PendingCommand, command: Register) -> Outcome:
        outcome = decide(roster, accepted, command)
        second = rules.against_second_registration(command.email, None, roster.holders)
        return second if second and isinstance(outcome, Refused) else outcome

    monkeypatch.setattr(decisions, "_register", mutant)


def promotes_without_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    promote = Roster.promote

    def mutant(self: Roster, accepted: PendingCommand, *, but: Waiter | None = None) -> int:
        with patch.object(rules, "PROMOTED_SPOTS_MAX", 10**6):
            return promote(self, accepted, but=but)

    monkeypatch.setattr(Roster, "promote", mutant)


def forgets_the_follow_up(monkeypatch: pytest.MonkeyPatch) -> None:
    promote = Roster.promote

    def mutant(self: Roster, accepted: PendingCommand, *, but: Waiter | None = None) -> int:
        promoted = promote(self, accepted, but=but)
        self.follow_up = self.unsaved.follow_up = None
        return promoted

    monkeypatch.setattr(Roster, "promote", mutant)


def promotes_beside_the_follow_up(monkeypatch: pytest.MonkeyPatch) -> None:
    promote = Roster.promote

    def mutant(self: Roster, accepted: PendingCommand, *, but: Waiter | None = None) -> int:
        self.follow_up = None
        return promote(self, accepted, but=but)

    monkeypatch.setattr(Roster, "promote", mutant)


def holds_oversized_parties_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = Waitlist.heads
    monkeypatch.setattr(
        Waitlist, "heads", lambda self, spots_max: heads(self, max(spots_max, SPOTS_PER_COMMAND_MAX))
    )


def counts_oversized_parties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waitlist, "has_room", lambda self, limit, _: limit is None or self.length < limit)


def takes_parties_that_never_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "against_size", lambda *_: None)


def keeps_the_place_when_moved_to_the_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    def mutant(self: Registration, status: Status, *, seq: int | None = None) -> Registration:
        del seq
        return msgspec.structs.replace(self, status=status)

    monkeypatch.setattr(Registration, "become", mutant)


def forgets_the_original_place(monkeypatch: pytest.MonkeyPatch) -> None:
    become = Registration.become

    def mutant(self: Registration, status: Status, *, seq: int | None = None) -> Registration:
        return become(self, status, seq=None if seq == self.original_seq else seq)

    monkeypatch.setattr(Registration, "become", mutant)


def lets_parties_grow_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "for_those_who_wait", lambda *_: None)


def lets_holders_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrections, "HOLDER", "nobody")


def writes_names_into_the_trail(monkeypatch: pytest.MonkeyPatch) -> None:
    move = Roster.move

    def mutant(self: Roster, pending: PendingCommand, *moved: Any, **facts: Any) -> None:
        if "before_after" in facts:
            facts["before_after"] = {"name": [registration.name for registration in moved]}
        move(self, pending, *moved, **facts)

    monkeypatch.setattr(Roster, "move", mutant)


def takes_registrations_at_a_deleted_event(monkeypatch: pytest.MonkeyPatch) -> None:
    delete = event_changes.delete

    def mutant(roster: Roster, *asked: Any) -> Outcome:
        outcome = delete(roster, *asked)
        roster.settings = msgspec.structs.replace(roster.settings, deleted=False)
        return outcome

    monkeypatch.setattr(event_changes, "delete", mutant)


def enters_whom_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = decisions._register

    def mutant(roster: Roster, accepted: PendingCommand, command: Register) -> Outcome:
        outcome = decide(roster, accepted, command)
        if isinstance(outcome, Refused):
            roster.enter(accepted, command, Status.WAITLIST)
        return outcome

    monkeypatch.setattr(decisions, "_register", mutant)


def takes_two_spellings_for_two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (roster, rules):
        monkeypatch.setattr(module, "email_key", str)


def ignores_the_capacity_on_confirming(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = rules.against_becoming
    monkeypatch.setattr(
        rules, "against_becoming", lambda before, status, _, holders: refuse(before, status, 10**6, holders)
    )


def lowers_the_capacity_below_what_is_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = rules.against_settings
    monkeypatch.setattr(
        rules, "against_settings", lambda before, after, _, **more: refuse(before, after, 0, **more)
    )


def statement(name: str, *edits: tuple[str, str], module: ModuleType = save) -> Plant:
    """Return a plant that changes a statement's text; each edit must find what it changes."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        statement: str = getattr(module, name).decode()
        for old, new in edits:
            assert old in statement, f"{name} no longer has {old!r}"
            statement = statement.replace(old, new)
        monkeypatch.setattr(module, name, statement.encode())

    return plant


def both(*plants: Plant) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        for one in plants:
            one(monkeypatch)

    return plant


def leaves_a_gap_in_the_trail(monkeypatch: pytest.MonkeyPatch) -> None:
    _write_entries_of(monkeypatch, lambda changes: changes[:-1])


def writes_entries_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    _write_entries_of(monkeypatch, lambda changes: changes[::-1])


def _write_entries_of(
    monkeypatch: pytest.MonkeyPatch, choose: Callable[[Sequence[Change]], Sequence[Change]]
) -> None:
    parameters = save._parameters

    def mutant(moved: Sequence[_Taken], taken: Sequence[_Taken], *more: Any) -> dict[str, object]:
        chosen = [
            (event, msgspec.structs.replace(all_, changes=choose(all_.changes))) for event, all_ in taken
        ]
        return parameters(moved, chosen, *more)

    monkeypatch.setattr(save, "_parameters", mutant)


def breaks_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = audit.chain
    monkeypatch.setattr(audit, "chain", lambda _, *facts: chain(audit.BEFORE_THE_FIRST, *facts))
