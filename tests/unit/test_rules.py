"""Why a command is refused, and which reason comes first."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec
import pytest

from shared.domain import rules
from shared.domain.commands import ChangeEvent, Status
from shared.domain.event import EventSettings, Policy, Registration
from shared.domain.outcomes import RefusalCode, Refused

NOW = datetime(2026, 12, 1, 10, tzinfo=UTC)
A_MINUTE = timedelta(minutes=1)

TERMS = EventSettings(
    slug="a-drop",
    title="A drop",
    capacity=10,
    waitlist_enabled=True,
    waitlist_limit=None,
    promotion_policy=Policy.STRICT_FIFO,
    auto_promote=True,
    max_spots_per_registration=4,
    opens_at=None,
    closes_at=None,
    promote_until=None,
    cancel_until=None,
    paused=False,
)
ADA = Registration(
    id=UUID(int=1),
    seq=1,
    command_id=None,
    name="Ada",
    email="Ada@example.org",
    spots_count=3,
    status=Status.CANCELLED,
)
HELD_BY_ANOTHER = {"ada@example.org": UUID(int=2)}


def terms(**settings: Any) -> EventSettings:
    return msgspec.structs.replace(TERMS, **settings)


def said(refusal: Refused | None) -> tuple[str, str] | None:
    return None if refusal is None else (refusal.code.value, refusal.detail)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, None),
        ({"opens_at": NOW}, None),
        (
            {"opens_at": NOW + A_MINUTE},
            ("REGISTRATION_NOT_OPEN", f"Registration opens at {NOW + A_MINUTE:%Y-%m-%dT%H:%M:%SZ}."),
        ),
        ({"closes_at": NOW + A_MINUTE}, None),
        ({"closes_at": NOW}, ("REGISTRATION_CLOSED", "Registration has closed.")),
        ({"paused": True}, ("EVENT_PAUSED", "Registration is paused.")),
        (
            {"max_spots_per_registration": 2},
            ("TOO_MANY_SPOTS", "One registration may have at most 2 spots."),
        ),
    ],
)
def test_settings_at_the_time_of_acceptance_decide(
    settings: dict[str, Any], expected: tuple[str, str] | None
) -> None:
    assert said(rules.against_registering(terms(**settings), NOW, 3)) == expected


def test_the_code_that_is_listed_first_is_the_answer() -> None:
    everything = terms(closes_at=NOW, opens_at=NOW + A_MINUTE, paused=True, max_spots_per_registration=1)
    codes = []
    for relief in ({}, {"closes_at": None}, {"opens_at": None}, {"paused": False}):
        everything = msgspec.structs.replace(everything, **relief)
        refusal = rules.against_registering(everything, NOW, 3)
        assert refusal is not None
        codes.append(refusal.code)

    assert codes == [
        RefusalCode.REGISTRATION_CLOSED,
        RefusalCode.REGISTRATION_NOT_OPEN,
        RefusalCode.EVENT_PAUSED,
        RefusalCode.TOO_MANY_SPOTS,
    ]
    assert codes == sorted(codes, key=list(RefusalCode).index)


def test_an_event_that_is_not_open_says_when() -> None:
    opens_at = datetime(2026, 12, 1, 20, 0, 0, 500_000, tzinfo=timezone(timedelta(hours=9)))

    refusal = rules.against_registering(terms(opens_at=opens_at), NOW, 1)

    assert refusal is not None
    assert (refusal.opens_at, refusal.detail) == (
        opens_at,
        "Registration opens at 2026-12-01T11:00:00.500000Z.",
    )
    assert b'"opensAt":"2026-12-01T11:00:00.500000Z"' in msgspec.json.encode(refusal)


@pytest.mark.parametrize(
    ("spots", "left", "detail"),
    [
        (1, 0, "The event is full and its waitlist takes nobody."),
        (1, -2, "The event is full and its waitlist takes nobody."),
        (3, 2, "2 spots are free, the party needs 3, and the waitlist takes no more registrations."),
        (1, 1, "1 spot is free, for the registrations on the waitlist, which takes no more of them."),
    ],
)
def test_a_full_event_says_whose_spots_are_free(spots: int, left: int, detail: str) -> None:
    assert said(rules.against_a_full_event(spots, left)) == ("EVENT_FULL", detail)


@pytest.mark.parametrize("email", [None, "eve@example.org"])
def test_whoever_gives_no_address_or_a_free_one_is_not_a_second(email: str | None) -> None:
    assert rules.against_second_registration(email, None, HELD_BY_ANOTHER) is None


@pytest.mark.parametrize(
    ("until", "refused"), [(None, False), (NOW + A_MINUTE, False), (NOW, True), (NOW - A_MINUTE, True)]
)
def test_holders_cancel_until_the_time_for_it(until: datetime | None, *, refused: bool) -> None:
    refusal = rules.against_cancelling(terms(cancel_until=until), NOW)

    assert (refusal is not None and refusal.code is RefusalCode.CANCELLATION_CLOSED) is refused


@pytest.mark.parametrize(("until", "promotes"), [(None, True), (NOW + A_MINUTE, True), (NOW, False)])
def test_spots_are_offered_until_the_time_for_it(until: datetime | None, *, promotes: bool) -> None:
    assert terms(promote_until=until).promotes(NOW) is promotes


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("to", Status)
def test_only_what_needs_spots_or_an_address_can_be_refused(status: Status, to: Status) -> None:
    refusal = rules.against_becoming(msgspec.structs.replace(ADA, status=status), to, 2, HELD_BY_ANOTHER)

    second = ("ALREADY_REGISTERED", "This email address already has a registration here.")
    exceeded = ("CAPACITY_EXCEEDED", "The registration needs 3 spots; 2 are left.")
    expected = {
        (Status.CANCELLED, Status.CONFIRMED): second,
        (Status.CANCELLED, Status.WAITLIST): second,
        (Status.WAITLIST, Status.CONFIRMED): exceeded,
    }
    assert said(refusal) == expected.get((status, to))


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.WAITLIST])
@pytest.mark.parametrize(("spots_left", "said_to_be_left"), [(2, 2), (0, 0), (-5, 0)])
def test_a_refusal_names_spots_left_and_needed(status: Status, spots_left: int, said_to_be_left: int) -> None:
    refusal = rules.against_becoming(
        msgspec.structs.replace(ADA, status=status), Status.CONFIRMED, spots_left, {}
    )

    assert refusal == Refused(
        code=RefusalCode.CAPACITY_EXCEEDED,
        detail=f"The registration needs 3 spots; {said_to_be_left} are left.",
        spots_left=said_to_be_left,
        spots_needed=3,
    )


def test_a_registration_that_fits_exactly_is_confirmed() -> None:
    assert rules.against_becoming(ADA, Status.CONFIRMED, 3, {}) is None


@pytest.mark.parametrize(
    ("capacity", "spots_reserved", "expected"),
    [
        (8, 8, None),
        (7, 8, ("CAPACITY_BELOW_RESERVED", "8 spots are confirmed; the capacity cannot be 7.")),
        (10, 12, None),  # oversold before, and as it was
        (11, 12, None),  # oversold before, and less so
        (9, 12, ("CAPACITY_BELOW_RESERVED", "12 spots are confirmed; the capacity cannot be 9.")),
    ],
)
def test_the_capacity_does_not_go_below_what_is_confirmed(
    capacity: int, spots_reserved: int, expected: tuple[str, str] | None
) -> None:
    after = TERMS.changed(ChangeEvent(capacity=capacity))

    assert said(rules.against_settings(TERMS, after, spots_reserved)) == expected


@pytest.mark.parametrize(
    ("opens_at", "closes_at", "expected"),
    [
        (NOW, None, None),
        (None, NOW, None),
        (NOW, NOW + A_MINUTE, None),
        (NOW, NOW, ("WINDOW_INVALID", "The event must close after it opens.")),
    ],
)
def test_an_event_closes_after_it_opens(
    opens_at: datetime | None, closes_at: datetime | None, expected: tuple[str, str] | None
) -> None:
    after = TERMS.changed(ChangeEvent(opens_at=opens_at, closes_at=closes_at))

    assert said(rules.against_settings(TERMS, after, 0)) == expected


def test_a_small_capacity_precedes_a_wrong_window() -> None:
    after = TERMS.changed(ChangeEvent(capacity=1, opens_at=NOW, closes_at=NOW))

    refusal = rules.against_settings(TERMS, after, 5)

    assert refusal is not None
    assert refusal.code is RefusalCode.CAPACITY_BELOW_RESERVED
