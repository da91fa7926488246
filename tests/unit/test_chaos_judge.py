"""The judge of the fault harness rejects each planted violation, and is content with a faithful event."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tests.chaos.history import Operation
from tests.chaos.judge import again, judge
from tests.chaos.judge.evidence import EventEvidence
from tests.chaos.judge.faithful import (
    START,
    chained,
    change,
    command_id,
    erase,
    events,
    faithful,
    move,
    register,
    registration,
)


def altered(items: Sequence[Any], place: int, **changes: Any) -> list[Any]:
    """Return the items with one of them altered."""
    found = list(items)
    found[place] = msgspec.structs.replace(found[place], **changes)
    return found


def with_command(event: EventEvidence, place: int, **changes: Any) -> EventEvidence:
    return msgspec.structs.replace(event, commands=altered(event.commands, place, **changes))


def with_operation(event: EventEvidence, place: int, **changes: Any) -> EventEvidence:
    return msgspec.structs.replace(event, operations=altered(event.operations, place, **changes))


def with_entry(event: EventEvidence, place: int, **changes: Any) -> EventEvidence:
    return chained(event, altered(event.entries, place, **changes))


def with_counter(event: EventEvidence, **counters: int) -> EventEvidence:
    return msgspec.structs.replace(event, now=event.now | counters)


FULL = faithful(register(), register(), register(), register())
"""Two of one spot are confirmed, two wait."""
BUSY = faithful(
    register(2),
    register(1, email="ann@example.org"),
    register(1),
    move(0, "CANCELLED"),
    change(capacity=5),
    register(3),
    register(9),
    change(paused=True),
    register(),
    change(paused=False, promotionPolicy="skip_unfit"),
    move(1, "WAITLIST"),
)

ERASED = faithful(register(email="ann@example.org"), register(), erase(0), register(), erase(0))
"""The first holder is erased, and once more when nothing is left."""


def lost() -> EventEvidence:
    return msgspec.structs.replace(
        chained(FULL, FULL.entries[:3]), commands=FULL.commands[:3], rows=FULL.rows[:3]
    )


def oversold() -> EventEvidence:
    """The third party is confirmed everywhere, on a capacity of two."""
    outcome = {"outcome": "confirmed", "registrationId": registration(2), "spotsCount": 1}
    event = with_command(FULL, 2, outcome=outcome)
    event = with_operation(event, 2, told=["CONFIRMED"])
    entries = altered(event.entries, 2, to_status="CONFIRMED", spots_delta=1, spots_reserved=3)
    event = chained(event, altered(entries, 3, spots_reserved=3))
    event = msgspec.structs.replace(event, rows=altered(event.rows, 2, status="CONFIRMED"))
    return with_counter(event, spots_reserved=3, waitlist_length=1)


def decided_out_of_order() -> EventEvidence:
    """The second wish is decided ahead of the first, though the first was accepted before it began."""
    one, two, *others = FULL.entries
    swapped = [msgspec.structs.replace(two, number=1, spots_reserved=1)]
    swapped += [msgspec.structs.replace(one, number=2, spots_reserved=2), *others]
    return chained(FULL, swapped)


def doubled() -> EventEvidence:
    """The last wish made two registrations, by two commands, and all else follows from both."""
    event = faithful(register(), register(), register(), register())
    more = msgspec.structs.replace(
        event.commands[3],
        id=command_id(9),
        seq=99,
        outcome={"outcome": "waitlisted", "registrationId": registration(9), "position": 3},
    )
    entry = msgspec.structs.replace(
        event.entries[3], number=5, command_id=more.id, registration_id=registration(9)
    )
    row = msgspec.structs.replace(event.rows[3], id=registration(9), seq=99, command_id=more.id)
    event = msgspec.structs.replace(event, commands=[*event.commands, more], rows=[*event.rows, row])
    return with_counter(chained(event, [*event.entries, entry]), waitlist_length=3, audit_seq=5)


def same_receipt() -> EventEvidence:
    return with_operation(FULL, 3, receipt=command_id(2))


def barging() -> EventEvidence:
    """A newcomer is confirmed into a spot that a waiting party should have had before."""
    event = faithful(register(2), register(), change(capacity=3), register(), autoPromote=False)
    outcome = {"outcome": "confirmed", "registrationId": registration(3), "spotsCount": 1}
    event = with_operation(with_command(event, 3, outcome=outcome), 3, told=["CONFIRMED"])
    event = with_entry(event, 3, to_status="CONFIRMED", spots_delta=1, spots_reserved=3)
    event = msgspec.structs.replace(event, rows=altered(event.rows, 2, status="CONFIRMED"))
    return with_counter(event, spots_reserved=3, waitlist_length=1)


def promoted_out_of_line() -> EventEvidence:
    """The second waiting party is promoted ahead of the first."""
    event = faithful(register(2), register(), register(), change(capacity=3))
    event = with_entry(event, 4, registration_id=registration(2))
    rows = altered(altered(event.rows, 1, status="WAITLIST"), 2, status="CONFIRMED")
    return msgspec.structs.replace(event, rows=rows)


def idle_spots() -> EventEvidence:
    """A raised capacity promotes no party."""
    event = faithful(register(2), register(), change(capacity=3))
    outcome = {"outcome": "event_changed", "changed": ["capacity"], "promoted": 0, "moreFollow": False}
    event = chained(with_command(event, 2, outcome=outcome), event.entries[:3])
    event = msgspec.structs.replace(event, rows=altered(event.rows, 1, status="WAITLIST"))
    return with_counter(event, spots_reserved=2, waitlist_length=1, audit_seq=3)


def released_twice() -> EventEvidence:
    event = faithful(register(2), move(0, "CANCELLED"))
    return with_counter(with_entry(event, 1, spots_delta=-4, spots_reserved=-2), spots_reserved=-2)


def refused_and_done() -> EventEvidence:
    refused = {"outcome": "refused", "code": "EVENT_FULL"}
    return with_operation(with_command(FULL, 3, outcome=refused), 3, told=["REFUSED EVENT_FULL"])


def address_twice() -> EventEvidence:
    rows = altered(altered(FULL.rows, 0, email="ann@example.org"), 1, email="Ann@example.org")
    return msgspec.structs.replace(FULL, rows=rows)


def erased_without_an_entry() -> EventEvidence:
    """The second erasure, of which the outcome is that nothing was left, has no entry."""
    return with_counter(chained(ERASED, ERASED.entries[:-1]), audit_seq=len(ERASED.entries) - 1)


def refused_early(begun: float, ended: float, **settings: Any) -> EventEvidence:
    """The only spot is taken, and free again after a second; a newcomer is refused without a command."""
    event = faithful(register(), move(0, "CANCELLED"), capacity=1, waitlistEnabled=False, **settings)
    newcomer = Operation(
        number=2,
        kind="register",
        event_id=event.id,
        mark="chaos 2",
        spots=1,
        begun=begun,
        attempts=1,
        rejected="409 EVENT_FULL",
        rejected_at=ended,
    )
    return msgspec.structs.replace(event, operations=[*event.operations, newcomer])


PLANTED: dict[str, tuple[Callable[[], EventEvidence], str]] = {
    "lost-command": (lost, "lost"),
    "effect-without-a-command": (
        lambda: msgspec.structs.replace(FULL, commands=FULL.commands[:3]),
        "effect without a command",
    ),
    "doubled-command": (doubled, "doubled"),
    "unasked-command": (
        lambda: msgspec.structs.replace(FULL, operations=FULL.operations[:3]),
        "unasked",
    ),
    "oversold": (oversold, "oversold"),
    "two-outcomes-told": (
        lambda: with_operation(FULL, 3, told=["WAITLIST", "REFUSED EVENT_FULL"]),
        "altered",
    ),
    "another-outcome-told": (lambda: with_operation(FULL, 3, told=["CONFIRMED"]), "altered"),
    "another-registration-told": (
        lambda: with_operation(FULL, 3, registration_id=registration(2)),
        "altered",
    ),
    "another-status-at-rest": (lambda: with_operation(FULL, 3, read_again="CONFIRMED"), "altered"),
    "receipt-unknown-at-rest": (
        lambda: with_operation(FULL, 3, read_again="404 RECEIPT_NOT_FOUND"),
        "altered",
    ),
    "same-receipt-for-two": (same_receipt, "shared answer"),
    "rejected-and-accepted": (
        lambda: with_operation(FULL, 3, receipt=None, told=[], accepted=None, rejected="503 INTAKE_FULL"),
        "effect of a refusal",
    ),
    "refused-with-an-effect": (refused_and_done, "effect of a refusal"),
    "pending-for-ever": (lambda: with_command(FULL, 3, outcome=None, settled_at=None), "unanswered"),
    "never-told": (lambda: with_operation(FULL, 3, told=[]), "unanswered"),
    "settled-and-pending": (lambda: with_command(FULL, 3, pending=True), "answered twice"),
    "failed": (
        lambda: with_command(FULL, 3, outcome={"outcome": "failed", "incidentId": "i"}),
        "failed",
    ),
    "place-out-of-order": (lambda: with_command(FULL, 3, seq=5), "overtaken"),
    "decided-out-of-order": (decided_out_of_order, "overtaken"),
    "barging": (barging, "barging"),
    "promoted-out-of-line": (promoted_out_of_line, "promotion"),
    "idle-spots": (idle_spots, "idle spots"),
    "released-twice": (released_twice, "spots taken or released twice"),
    "counter-drift": (lambda: with_counter(FULL, spots_reserved=1), "counter drift"),
    "waitlist-length": (lambda: with_counter(FULL, waitlist_length=3), "counter drift"),
    "told-before-decided": (
        lambda: with_command(FULL, 3, settled_at=START + timedelta(seconds=4)),
        "told too early",
    ),
    "accepted-before-written": (
        lambda: with_command(FULL, 3, accepted_at=START + timedelta(seconds=4)),
        "told too early",
    ),
    "position": (
        lambda: with_command(FULL, 3, outcome={**(FULL.commands[3].outcome or {}), "position": 1}),
        "position",
    ),
    "audit-gap": (lambda: with_entry(FULL, 3, number=5), "audit gap"),
    "audit-chain": (
        lambda: msgspec.structs.replace(FULL, entries=altered(FULL.entries, 1, reason="forged")),
        "audit chain",
    ),
    "audit-sum": (lambda: with_entry(FULL, 3, spots_reserved=1), "audit sum"),
    "audit-from-another-status": (lambda: with_entry(FULL, 3, from_status="CANCELLED"), "audit replay"),
    "row-changed-by-hand": (
        lambda: msgspec.structs.replace(FULL, rows=altered(FULL.rows, 3, spots_count=2)),
        "audit replay",
    ),
    "setting-changed-by-hand": (lambda: with_counter(FULL, capacity=9), "audit replay"),
    "address-twice": (address_twice, "address twice"),
    "erased-and-a-name": (
        lambda: msgspec.structs.replace(ERASED, rows=altered(ERASED.rows, 0, name="Ann")),
        "left",
    ),
    "erased-and-an-address": (
        lambda: msgspec.structs.replace(ERASED, rows=altered(ERASED.rows, 0, email="ann@example.org")),
        "left",
    ),
    "erased-and-a-payload": (lambda: with_command(ERASED, 0, erased=False), "left"),
    "erased-and-a-key": (lambda: with_command(ERASED, 0, keyed=True), "left"),
    "erased-unasked": (lambda: with_command(ERASED, 1, erased=True), "effect without a command"),
    "erased-with-a-move": (lambda: with_entry(ERASED, 2, to_status="CANCELLED"), "altered"),
    "erased-as-another": (lambda: with_entry(ERASED, 2, registration_id=registration(1)), "altered"),
    "refused-with-a-key": (
        lambda: with_command(BUSY, 6, keyed=True),
        "key",
    ),
    "a-key-of-nothing": (lambda: with_command(FULL, 3, keyed=False), "key"),
    "erased-without-an-entry": (erased_without_an_entry, "altered"),
    "refused-with-a-spot-free": (lambda: refused_early(2, 3), "refused early"),
}


@pytest.mark.parametrize("event", [FULL, BUSY, ERASED], ids=["full", "busy", "erased"])
def test_a_faithful_event_breaks_no_rule(event: EventEvidence) -> None:
    assert judge.check(event) == []
    assert again.is_possible(event)
    assert again.differences(event) == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_found(name: str) -> None:
    plant, rule = PLANTED[name]
    assert rule in {violation.partition(":")[0] for violation in judge.check(plant())}


def test_a_wrong_refusal_is_found_by_the_model() -> None:
    event = faithful(register(), register(), register(), waitlistEnabled=False)
    paused = {"outcome": "refused", "code": "EVENT_PAUSED"}
    event = with_operation(with_command(event, 2, outcome=paused), 2, told=["REFUSED EVENT_PAUSED"])

    assert judge.check(event) == [], "a refusal has no effect to compare"
    assert judge.judge([event]).violations[0].startswith("decision: register")


def test_a_command_set_aside_may_be_passed() -> None:
    event = decided_out_of_order()
    set_aside = frozenset([command_id(0)])

    assert judge.check(msgspec.structs.replace(event, set_aside=set_aside)) == []


@pytest.mark.parametrize(("begun", "ended"), [(0.6, 0.8), (0.8, 2), (1.4, 2)])
def test_a_refusal_may_be_true_when_asked(begun: float, ended: float) -> None:
    assert judge.check(refused_early(begun, ended)) == []


def test_a_failover_may_undo_why_one_is_refused() -> None:
    event = msgspec.structs.replace(refused_early(2, 3), undone=[(1, 4)])

    assert judge.check(event) == []


def test_an_attempt_without_an_answer_may_be_accepted() -> None:
    unknown = with_operation(FULL, 3, receipt=None, told=[], accepted=None, doubtful=True)

    assert judge.check(unknown) == []


def test_an_erased_key_may_be_used_again() -> None:
    violations = judge.check(with_operation(with_command(doubled(), 3, erased=True), 3, attempts=2))

    assert "doubled" not in {violation.partition(":")[0] for violation in violations}


def test_many_faithful_events_break_no_rule() -> None:
    verdict = judge.judge(events(2_500), again_seconds_max=1)

    assert verdict.violations == []
    assert verdict.operations == 2_500
    assert {"confirmed", "waitlisted", "status_changed", "event_changed", "erased"} <= set(verdict.outcomes)
