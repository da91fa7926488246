"""One event in memory: every decision, its outcome and the changes it writes down."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec
import pytest

from shared.domain import decisions, ids
from shared.domain.commands import (
    ChangeEvent,
    ChangeStatus,
    Command,
    DeleteRegistration,
    HealCounter,
    PendingCommand,
    PromoteWaitlist,
    Register,
    Status,
)
from shared.domain.event import Change, EventSettings, Policy, Recount, Waitlist
from shared.domain.outcomes import (
    Confirmed,
    CounterHealed,
    EventChanged,
    Outcome,
    RefusalCode,
    Refused,
    RegistrationDeleted,
    StatusChanged,
    Waitlisted,
    WaitlistPromoted,
)
from shared.domain.roster import Roster

NOW = datetime(2026, 12, 1, 10, tzinfo=UTC)

SETTINGS = EventSettings(
    slug="a-drop",
    title="A drop",
    capacity=4,
    waitlist_enabled=True,
    waitlist_limit=None,
    promotion_policy=Policy.STRICT_FIFO,
    auto_promote=True,
    max_spots_per_registration=10,
    opens_at=None,
    closes_at=None,
    promote_until=None,
    cancel_until=None,
    paused=False,
)
FULL = Refused(code=RefusalCode.EVENT_FULL, detail="The event is full and its waitlist takes nobody.")
NOT_FOUND = Refused(code=RefusalCode.REGISTRATION_NOT_FOUND, detail="There is no such registration.")
SECOND = Refused(
    code=RefusalCode.ALREADY_REGISTERED, detail="This email address already has a registration here."
)


def asked_by(number: int) -> UUID:
    return UUID(int=1_000 + number)


def registration(number: int) -> UUID:
    return ids.registration_id(asked_by(number))


NUMBERS = {registration(number): number for number in range(1, 100)}


class Event:
    """An event that is asked one thing after the other; the n-th command makes registration n."""

    def __init__(self, **settings: Any) -> None:
        self.roster = Roster(
            settings=msgspec.structs.replace(SETTINGS, **settings),
            spots_reserved=0,
            waitlist=Waitlist(),
            registrations={},
            holders={},
        )
        self.asked = 0

    def ask(self, command: Command) -> Outcome:
        """Have the next command decided."""
        self.asked += 1
        pending = PendingCommand(
            command=command,
            id=asked_by(self.asked),
            seq=self.asked,
            actor="admin",
            accepted_at=NOW,
        )
        return decisions.decide(self.roster, pending)

    def register(self, spots: int = 1, email: str | None = None) -> Outcome:
        return self.ask(Register(name="Ada", spots_count=spots, email=email))

    def move(self, number: int, status: Status, reason: str | None = None) -> Outcome:
        return self.ask(ChangeStatus(registration_id=registration(number), status=status, reason=reason))

    def delete(self, number: int) -> Outcome:
        return self.ask(DeleteRegistration(registration_id=registration(number)))

    @property
    def statuses(self) -> dict[int, Status]:
        """The status of every registration by its number."""
        found = {NUMBERS[id_]: one.status for id_, one in self.roster.registrations.items()}
        return dict(sorted(found.items()))

    @property
    def counters(self) -> tuple[int, int]:
        """Spots reserved, and how many wait."""
        return self.roster.spots_reserved, self.roster.waitlist.length

    def trail(self, since: int = 0) -> list[tuple[str, int | None, str | None, str | None, int, int]]:
        """Return the changes from the n-th on, in short."""
        return [_short(change) for change in self.roster.unsaved.changes[since:]]


def _short(change: Change) -> tuple[str, int | None, str | None, str | None, int, int]:
    who = NUMBERS[change.registration_id] if change.registration_id else None
    statuses = change.from_status, change.to_status
    return (change.kind, who, *statuses, change.spots_delta, change.spots_reserved)


def filled(*sizes: int, **settings: Any) -> Event:
    """Return an event at which parties of these sizes have registered, in this order."""
    event = Event(**settings)
    for spots in sizes:
        event.register(spots)
    return event


def confirmed(number: int, spots: int) -> Confirmed:
    return Confirmed(registration_id=registration(number), spots_count=spots)


def waitlisted(number: int, spots: int, position: int) -> Waitlisted:
    return Waitlisted(registration_id=registration(number), spots_count=spots, position=position)


def changed(number: int, before: Status, after: Status) -> StatusChanged:
    return StatusChanged(registration_id=registration(number), from_status=before, to_status=after)


def test_parties_beyond_the_capacity_wait_in_order() -> None:
    event = Event()

    outcomes = [event.register(spots) for spots in (3, 2, 1, 1)]

    assert outcomes == [confirmed(1, 3), waitlisted(2, 2, 1), waitlisted(3, 1, 2), waitlisted(4, 1, 3)]
    assert event.counters == (3, 3)
    assert event.trail() == [
        ("register", 1, None, "CONFIRMED", 3, 3),
        ("register", 2, None, "WAITLIST", 0, 3),
        ("register", 3, None, "WAITLIST", 0, 3),
        ("register", 4, None, "WAITLIST", 0, 3),
    ]


def test_skipping_the_unfit_fills_the_event() -> None:
    event = Event(promotion_policy=Policy.SKIP_UNFIT)

    outcomes = [event.register(spots) for spots in (3, 2, 1)]

    assert outcomes == [confirmed(1, 3), waitlisted(2, 2, 1), confirmed(3, 1)]


@pytest.mark.parametrize(("settings", "last"), [({"waitlist_enabled": False}, 1), ({"waitlist_limit": 1}, 2)])
def test_a_closed_waitlist_makes_the_event_full(settings: dict[str, Any], last: int) -> None:
    event = filled(*[4, 1][:last], **settings)
    before = event.statuses, event.counters, event.trail()

    assert event.register(1) == FULL

    assert (event.statuses, event.counters, event.trail()) == before


def test_a_newcomer_never_passes_the_waiting_head() -> None:
    event = filled(4, 1, auto_promote=False)
    event.move(1, Status.CANCELLED)

    assert event.register(1) == waitlisted(4, 1, 2)
    assert event.counters == (0, 2)


def test_one_address_holds_one_registration() -> None:
    event = Event()
    event.register(1, "ada@example.org")

    assert event.register(1, "ADA@example.org") == SECOND
    event.move(1, Status.CANCELLED)
    assert event.register(1, "Ada@example.org") == confirmed(4, 1)
    assert event.move(1, Status.WAITLIST) == SECOND
    event.delete(4)
    assert event.move(1, Status.CONFIRMED) == changed(1, Status.CANCELLED, Status.CONFIRMED)


def test_a_cancellation_promotes_the_head() -> None:
    event = filled(4, 2, 2, 1)

    outcome = event.move(1, Status.CANCELLED, reason="Ill")

    assert outcome == changed(1, Status.CONFIRMED, Status.CANCELLED)
    assert event.statuses == {
        1: Status.CANCELLED,
        2: Status.CONFIRMED,
        3: Status.CONFIRMED,
        4: Status.WAITLIST,
    }
    assert event.trail(4) == [
        ("change_status", 1, "CONFIRMED", "CANCELLED", -4, 0),
        ("promotion", 2, "WAITLIST", "CONFIRMED", 2, 2),
        ("promotion", 3, "WAITLIST", "CONFIRMED", 2, 4),
    ]
    assert [(change.reason, change.command_id) for change in event.roster.unsaved.changes[4:]] == [
        ("Ill", asked_by(5)),
        (None, asked_by(5)),
        (None, asked_by(5)),
    ]


def test_a_cancelled_head_lets_the_next_in() -> None:
    event = filled(3, 2, 1)

    event.move(2, Status.CANCELLED)

    assert event.statuses == {1: Status.CONFIRMED, 2: Status.CANCELLED, 3: Status.CONFIRMED}


def test_a_demoted_registration_waits_for_another_command() -> None:
    event = filled(2)

    assert event.move(1, Status.WAITLIST) == changed(1, Status.CONFIRMED, Status.WAITLIST)
    assert (event.statuses, event.counters) == ({1: Status.WAITLIST}, (0, 1))

    assert event.register(2) == confirmed(3, 2)
    assert event.trail(2) == [
        ("promotion", 1, "WAITLIST", "CONFIRMED", 2, 2),
        ("register", 3, None, "CONFIRMED", 2, 4),
    ]


def test_a_demoted_registration_goes_to_the_tail() -> None:
    event = filled(4, 3)

    event.move(1, Status.WAITLIST)

    assert event.statuses == {1: Status.WAITLIST, 2: Status.CONFIRMED}
    assert event.roster.registrations[registration(1)].seq == 3


@pytest.mark.parametrize("status", Status)
def test_a_status_that_is_there_already_changes_nothing(status: Status) -> None:
    event = filled(2)
    event.move(1, status)
    before = event.trail()

    assert event.move(1, status) == changed(1, status, status)

    assert event.trail() == before


def test_a_confirmation_beyond_the_capacity_is_refused() -> None:
    event = filled(3, 2)
    before = event.statuses, event.counters, event.trail()

    assert event.move(2, Status.CONFIRMED) == Refused(
        code=RefusalCode.CAPACITY_EXCEEDED,
        detail="The registration needs 2 spots; 1 is left.",
        spots_left=1,
        spots_needed=2,
    )

    assert (event.statuses, event.counters, event.trail()) == before


@pytest.mark.parametrize(
    ("path", "freed"),
    [([], 2), ([Status.WAITLIST], 0), ([Status.CANCELLED], 0)],
    ids=["spots", "wait", "gone"],
)
def test_a_deletion_frees_only_held_spots(path: Sequence[Status], freed: int) -> None:
    event = filled(2)
    for status in path:
        event.move(1, status)

    outcome = event.delete(1)

    before = [Status.CONFIRMED, *path][-1]
    assert outcome == RegistrationDeleted(
        registration_id=registration(1), from_status=before, spots_freed=freed
    )
    assert (event.statuses, event.counters) == ({}, (0, 0))
    assert event.trail()[-1] == ("delete_registration", 1, before, None, -freed, 0)


def test_a_missing_registration_is_not_found() -> None:
    event = filled(1)
    event.delete(1)

    assert [event.move(1, Status.CANCELLED), event.delete(1), event.delete(99)] == [NOT_FOUND] * 3


def test_a_larger_capacity_goes_to_the_waitlist() -> None:
    event = filled(4, 2, 3)

    assert event.ask(ChangeEvent(capacity=6, reason="A larger hall")) == EventChanged(
        changed=("capacity",), promoted=1, more_follow=False
    )

    assert event.counters == (6, 1)
    settings, promoted = event.roster.unsaved.changes[3:]
    assert (settings.kind, settings.reason, settings.before_after) == (
        "change_event",
        "A larger hall",
        {"capacity": (4, 6)},
    )
    assert _short(promoted) == ("promotion", 2, "WAITLIST", "CONFIRMED", 2, 6)


def test_equal_settings_are_no_change() -> None:
    event = filled(1)

    assert event.ask(ChangeEvent(capacity=4, promotion_policy="strict_fifo")) == EventChanged(
        changed=(), promoted=0
    )
    assert len(event.roster.unsaved.changes) == 1


def test_another_time_zone_is_no_change() -> None:
    event = Event(opens_at=NOW)
    elsewhere = NOW.astimezone(timezone(timedelta(hours=1)))

    assert event.ask(ChangeEvent(opens_at=elsewhere)) == EventChanged(changed=(), promoted=0)
    assert event.roster.unsaved.changes == []


def test_a_capacity_below_confirmed_spots_is_refused() -> None:
    event = filled(3)

    assert event.ask(ChangeEvent(capacity=2, paused=True)) == Refused(
        code=RefusalCode.CAPACITY_BELOW_RESERVED, detail="3 spots are confirmed; the capacity cannot be 2."
    )

    assert event.roster.settings == SETTINGS
    assert len(event.roster.unsaved.changes) == 1


def test_switching_promotion_on_promotes_fitting_parties() -> None:
    event = filled(4, 2, auto_promote=False)
    event.delete(1)

    assert event.ask(ChangeEvent(auto_promote=True)) == EventChanged(changed=("autoPromote",), promoted=1)


def heal(event: Event, confirmed_spots: int, waiting: int) -> Outcome:
    event.roster.recount = Recount(
        confirmed_spots=confirmed_spots,
        waitlist_length=waiting,
        audited_spots=event.roster.unsaved.changes[-1].spots_reserved,
    )
    return event.ask(HealCounter(reason="A look"))


def test_healing_a_right_counter_changes_nothing() -> None:
    event = filled(3, 2)

    assert heal(event, 3, 1) == CounterHealed(drift=0, spots_reserved=3, overbooked_spots=0)
    assert len(event.roster.unsaved.changes) == 2


def test_healing_a_high_counter_offers_free_spots() -> None:
    event = filled(3, 2)
    event.roster.spots_reserved = 4

    assert heal(event, 2, 1) == CounterHealed(drift=2, spots_reserved=2, overbooked_spots=0)

    assert event.trail(2) == [
        ("heal_counter", None, None, None, -1, 2),
        ("promotion", 2, "WAITLIST", "CONFIRMED", 2, 4),
    ]
    assert event.roster.unsaved.changes[2].before_after == {"spotsReserved": (4, 2)}


def test_healing_corrects_the_waitlist_length() -> None:
    event = filled(4, 2)
    event.roster.waitlist.length = 5

    assert heal(event, 4, 1) == CounterHealed(drift=0, spots_reserved=4, overbooked_spots=0)

    assert event.counters == (4, 1)
    assert event.roster.unsaved.changes[2].before_after == {"waitlistLength": (5, 1)}
    assert event.roster.unsaved.changes[2].reason == "A look"


def test_healing_reports_an_oversold_event() -> None:
    event = filled(4, 2)
    event.roster.spots_reserved = 3

    assert heal(event, 6, 1) == CounterHealed(drift=-3, spots_reserved=6, overbooked_spots=2)

    assert event.counters == (6, 1)
    assert event.register(1) == waitlisted(4, 1, 2)


def test_healing_without_a_recount_is_a_broken_invariant() -> None:
    with pytest.raises(AssertionError, match="healing needs a recount"):
        Event().ask(HealCounter())


def test_only_the_newest_follow_up_promotes() -> None:
    newest = UUID(int=9)
    roster = Roster(
        settings=SETTINGS,
        spots_reserved=0,
        waitlist=Waitlist(length=1),
        registrations={},
        holders={},
        follow_up=newest,
    )
    other = PendingCommand(command=PromoteWaitlist(), id=UUID(int=8), seq=1, actor="system", accepted_at=NOW)

    assert decisions.decide(roster, other) == WaitlistPromoted(promoted=0, more_follow=True)
    assert (roster.follow_up, roster.unsaved.changes) == (newest, [])
