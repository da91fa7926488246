"""Outcomes there and back, as the ledger and the result backend keep them."""

from typing import get_args
from uuid import UUID

import msgspec
import pytest

from shared.domain import outcomes
from shared.domain.commands import Status
from shared.domain.outcomes import (
    Confirmed,
    CounterHealed,
    Erased,
    EventChanged,
    Failed,
    Outcome,
    ReceiptGiven,
    RefusalCode,
    Refused,
    RegistrationCorrected,
    RegistrationDeleted,
    StatusChanged,
    Waitlisted,
    WaitlistPromoted,
)

SOMEBODY = UUID(int=7)
ID = '"00000000-0000-0000-0000-000000000007"'

EVERY_OUTCOME = [
    (
        Confirmed(registration_id=SOMEBODY, spots_count=2),
        f'{{"outcome":"confirmed","registrationId":{ID},"spotsCount":2}}',
    ),
    (
        Waitlisted(registration_id=SOMEBODY, spots_count=2, position=3),
        f'{{"outcome":"waitlisted","registrationId":{ID},"spotsCount":2,"position":3}}',
    ),
    (
        StatusChanged(registration_id=SOMEBODY, from_status=Status.CONFIRMED, to_status=Status.CANCELLED),
        f'{{"outcome":"status_changed","registrationId":{ID},"fromStatus":"CONFIRMED","toStatus":"CANCELLED"}}',
    ),
    (
        StatusChanged(
            registration_id=SOMEBODY, from_status=Status.WAITLIST, to_status=Status.WAITLIST, moved=True
        ),
        f'{{"outcome":"status_changed","registrationId":{ID},"fromStatus":"WAITLIST","toStatus":"WAITLIST","moved":true}}',
    ),
    (
        RegistrationCorrected(registration_id=SOMEBODY, status=Status.WAITLIST, changed=("name",)),
        f'{{"outcome":"registration_corrected","registrationId":{ID},"status":"WAITLIST","changed":["name"]}}',
    ),
    (
        ReceiptGiven(registration_id=SOMEBODY),
        f'{{"outcome":"receipt_given","registrationId":{ID}}}',
    ),
    (
        RegistrationDeleted(registration_id=SOMEBODY, from_status=Status.CONFIRMED, spots_freed=2),
        f'{{"outcome":"deleted","registrationId":{ID},"fromStatus":"CONFIRMED","spotsFreed":2}}',
    ),
    (Erased(registrations=2), '{"outcome":"erased","registrations":2}'),
    (
        EventChanged(changed=("capacity",), promoted=1),
        '{"outcome":"event_changed","changed":["capacity"],"promoted":1,"moreFollow":false}',
    ),
    (
        WaitlistPromoted(promoted=2, more_follow=True),
        '{"outcome":"waitlist_promoted","promoted":2,"moreFollow":true}',
    ),
    (
        CounterHealed(drift=-1, spots_reserved=4, overbooked_spots=0),
        '{"outcome":"counter_healed","drift":-1,"spotsReserved":4,"overbookedSpots":0}',
    ),
    (
        Refused(code=RefusalCode.CAPACITY_EXCEEDED, detail="No.", spots_left=1, spots_needed=2),
        '{"outcome":"refused","code":"CAPACITY_EXCEEDED","detail":"No.","spotsLeft":1,"spotsNeeded":2}',
    ),
    (
        Refused(code=RefusalCode.EVENT_FULL, detail="No."),
        '{"outcome":"refused","code":"EVENT_FULL","detail":"No."}',
    ),
    (Failed(incident_id=SOMEBODY), f'{{"outcome":"failed","incidentId":{ID}}}'),
]


@pytest.mark.parametrize(("outcome", "written"), EVERY_OUTCOME)
def test_an_outcome_is_read_back_as_it_was_written(outcome: Outcome, written: str) -> None:
    assert msgspec.json.encode(outcome).decode() == written
    assert outcomes.decode(written) == outcome


def test_every_outcome_is_among_these() -> None:
    assert {type(outcome) for outcome, _ in EVERY_OUTCOME} == set(get_args(Outcome))


@pytest.mark.parametrize(
    "payload", ['{"outcome":"perhaps"}', "{}", '{"outcome":"refused","code":"BAD_MOOD"}']
)
def test_anything_else_is_not_an_outcome(payload: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        outcomes.decode(payload)
