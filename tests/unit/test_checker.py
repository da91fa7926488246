"""The checker finds every planted violation, names who is concerned, and is content with a clean event."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.rehearsal import checker
from ops.rehearsal.checker import Violation
from ops.rehearsal.evidence import Counter, Decision, Entry, Event, ObservedRegistration, Row, Snapshot

ReadT = TypeVar("ReadT", bound=msgspec.Struct)
Case = tuple[list[ObservedRegistration], Snapshot]


def drop(capacity: int = 3, sizes: Sequence[int] = (1, 1, 1, 1, 1), policy: str = "skip_unfit") -> Case:
    """Return what a faithful service would answer and keep when the sizes ask one after the other."""
    observed, rows, entries, taken, waiting = [], [], [], 0, 0
    for number, size in enumerate(sizes, start=1):
        fits = taken + size <= capacity
        status = "CONFIRMED" if fits else "WAITLIST"
        taken, waiting = taken + size * fits, waiting + (not fits)
        rows.append(
            Row(
                id=f"r{number}",
                seq=10 * number,
                name=f"guest {number}",
                spots_count=size,
                status=status,
                waitlist_position=None if fits else waiting,
            )
        )
        entries.append(
            Entry(
                number=number,
                registration_id=f"r{number}",
                from_status=None,
                to_status=status,
                spots_delta=size * fits,
                spots_reserved=taken,
                hash=f"hash {number}",
                previous_hash=f"hash {number - 1}",
            )
        )
        observed.append(
            ObservedRegistration(
                name=f"guest {number}",
                spots_count=size,
                begun=float(number),
                accepted=number + 0.5,
                decided=number + 0.5,
                receipts={f"c{number}"},
                decisions=[Decision(status, f"r{number}")] * 2,
            )
        )
    event = Event(
        id="e1", capacity=capacity, spots_reserved=taken, waitlist_length=waiting, promotion_policy=policy
    )
    counter = Counter(spots_reserved=taken, actual_confirmed=taken, drift=0)
    return observed, Snapshot(event=event, counter=counter, rows=rows, entries=entries)


def changed(items: Sequence[ReadT], place: int, **changes: object) -> list[ReadT]:
    """Return the items with one of them altered."""
    return [
        msgspec.structs.replace(item, **changes) if at == place else item for at, item in enumerate(items)
    ]


def corrected(case: Case, place: int, size: int) -> Case:
    """Return the case after an admin has changed the size of a confirmed party."""
    observed, snapshot = case
    row = snapshot.rows[place]
    delta = size - row.spots_count
    taken = snapshot.event.spots_reserved + delta
    entry = Entry(
        number=len(snapshot.entries) + 1,
        registration_id=row.id,
        from_status=row.status,
        to_status=row.status,
        spots_delta=delta,
        spots_reserved=taken,
        hash="hash of the correction",
        previous_hash=snapshot.entries[-1].hash,
        before_after={"spotsCount": [row.spots_count, size]},
    )
    return observed, replace(
        snapshot,
        event=msgspec.structs.replace(snapshot.event, spots_reserved=taken),
        counter=Counter(spots_reserved=taken, actual_confirmed=taken, drift=0),
        rows=changed(snapshot.rows, place, spots_count=size),
        entries=[*snapshot.entries, entry],
    )


def rules(violations: Iterable[Violation]) -> set[str]:
    return {violation.rule for violation in violations}


def sentences(violations: Iterable[Violation], rule: str) -> str:
    return "\n".join(violation.sentence for violation in violations if violation.rule == rule)


@pytest.mark.parametrize(
    "case",
    [
        drop(),
        drop(capacity=9),
        drop(sizes=()),
        drop(capacity=5, sizes=(3, 3, 2, 1)),
        drop(capacity=5, sizes=(3, 3), policy="strict_fifo"),
    ],
)
def test_a_clean_event_has_no_violations(case: Case) -> None:
    assert checker.check(*case) == []


def test_a_promotion_after_the_answer_is_no_contradiction() -> None:
    observed, snapshot = drop(capacity=4, sizes=(1, 1, 1, 1))
    observed[3].decisions = [Decision("WAITLIST", "r4"), Decision("CONFIRMED", "r4")]
    assert checker.check(observed, snapshot) == []
    observed[3].decisions = [Decision("WAITLIST", "r4")]
    assert rules(checker.answers(observed)) | rules(checker.rows(observed, snapshot.rows)) == set()


def test_a_deleted_registration_leaves_an_audit_that_ends_with_it() -> None:
    observed, snapshot = drop(capacity=1, sizes=(1,))
    gone = Entry(
        number=2,
        registration_id="r1",
        from_status="CONFIRMED",
        to_status="DELETED",
        spots_delta=-1,
        spots_reserved=0,
        hash="hash 2",
        previous_hash="hash 1",
    )
    event = msgspec.structs.replace(snapshot.event, spots_reserved=0)
    snapshot = replace(snapshot, event=event, rows=[], entries=[*snapshot.entries, gone])
    assert list(checker.audit(snapshot)) == []
    assert rules(checker.check(observed, snapshot)) == {"lost", "counter drift"}


def test_an_oversold_event_is_named_with_the_registrations_beyond_its_capacity() -> None:
    observed, snapshot = drop(capacity=5)
    oversold = replace(snapshot, event=msgspec.structs.replace(snapshot.event, capacity=3))
    violations = checker.check(observed, oversold)
    assert violations == [
        Violation("oversold", "5 of 3 spots are confirmed; registrations beyond: r4, r5"),
    ]


def test_a_spot_left_while_someone_waits_is_named() -> None:
    observed, snapshot = drop()
    roomy = replace(snapshot, event=msgspec.structs.replace(snapshot.event, capacity=4))
    assert checker.check(observed, roomy) == [
        Violation("idle spots", "1 spots are left, and registrations wait: r4, r5"),
    ]


@pytest.mark.parametrize(
    "halt", [{"paused": True}, {"auto_promote": False}, {"promote_until": "2026-01-01T00:00:00Z"}]
)
def test_a_spot_left_without_promotion_is_owed_to_nobody(halt: dict[str, Any]) -> None:
    observed, snapshot = drop()
    halted = msgspec.structs.replace(snapshot.event, capacity=4, **halt)
    assert checker.check(observed, replace(snapshot, event=halted)) == []


def test_a_spot_left_while_someone_was_turned_away_is_named() -> None:
    observed, snapshot = drop(capacity=3, sizes=(1, 1))
    refused = ObservedRegistration(name="guest 3", spots_count=1, begun=3, receipts={"c3"})
    refused.decisions = [Decision("REFUSED", code="EVENT_FULL")]
    violations = checker.check([*observed, refused], snapshot)
    assert rules(violations) == {"idle spots"}
    assert "c3" in violations[0].sentence


def test_the_head_of_a_strict_waitlist_may_keep_spots_empty() -> None:
    observed, snapshot = drop(capacity=5, sizes=(3, 3), policy="strict_fifo")
    late = Row(id="r3", seq=40, name="guest 3", spots_count=1, status="WAITLIST", waitlist_position=2)
    blocked = replace(snapshot, rows=[*snapshot.rows, late])
    assert list(checker.capacity(observed, blocked)) == []
    event = msgspec.structs.replace(snapshot.event, promotion_policy="skip_unfit")
    assert "r3" in sentences(checker.capacity(observed, replace(blocked, event=event)), "idle spots")


@pytest.mark.parametrize("field", ["spots_reserved", "actual_confirmed", "drift"])
def test_a_counter_that_drifts_from_the_rows_is_named(field: str) -> None:
    observed, snapshot = drop()
    drifted = replace(snapshot, counter=msgspec.structs.replace(snapshot.counter, **{field: 7}))
    violations = checker.check(observed, drifted)
    assert rules(violations) == {"counter drift"}
    assert "is 7" in violations[0].sentence
    assert "e1" in violations[0].sentence


def test_an_answered_registration_without_a_row_is_lost() -> None:
    observed, snapshot = drop()
    violations = checker.check(observed, replace(snapshot, rows=snapshot.rows[:-1]))
    assert "registration r5, receipt c5" in sentences(violations, "lost")
    assert "registration r5 is None, the audit says WAITLIST" in sentences(violations, "audit replay")


def test_one_request_with_two_rows_is_doubled() -> None:
    observed, snapshot = drop()
    twin = msgspec.structs.replace(snapshot.rows[4], id="r6", seq=60, waitlist_position=3)
    violations = checker.check(observed, replace(snapshot, rows=[*snapshot.rows, twin]))
    assert sentences(violations, "doubled") == "guest 5 asked once and has 2 registrations: r5, r6"


def test_a_row_that_nobody_asked_for_is_named() -> None:
    observed, snapshot = drop()
    violations = checker.check(observed[:-1], snapshot)
    assert violations == [Violation("unasked", "no client asked for registration r5 of guest 5")]


@pytest.mark.parametrize(
    "later",
    [
        Decision("WAITLIST", "r1"),
        Decision("CONFIRMED", "r9"),
        Decision("PENDING", None),
        Decision("REFUSED", code="EVENT_FULL"),
    ],
)
def test_two_different_answers_to_one_registration_are_named(later: Decision) -> None:
    observed, _ = drop()
    observed[0].decisions = [Decision("CONFIRMED", "r1"), later]
    assert "guest 1" in sentences(checker.answers(observed), "answered twice")


def test_a_second_receipt_for_one_registration_is_named() -> None:
    observed, snapshot = drop()
    observed[0].receipts = {"c1", "c9"}
    assert "c1, c9" in sentences(checker.check(observed, snapshot), "answered twice")


def test_an_answer_given_to_two_registrations_is_named() -> None:
    observed, snapshot = drop()
    observed[1].decisions, observed[1].receipts = observed[0].decisions, observed[0].receipts
    found = sentences(checker.check(observed, snapshot), "shared answer")
    assert found == ("registration r1 was given to 2 registrations\nreceipt c1 was given to 2 registrations")


def test_an_answer_without_receipt_and_a_refusal_without_code_are_named() -> None:
    observed, snapshot = drop()
    mute = ObservedRegistration(name="guest 6", spots_count=1, begun=6, decisions=[Decision("REFUSED")])
    assert rules(checker.check([*observed, mute], snapshot)) == {"no receipt", "no code"}


@pytest.mark.parametrize(
    "turned_away",
    [{"rejected": 422, "decisions": []}, {"decisions": [Decision("REFUSED", code="EVENT_PAUSED")]}],
)
def test_a_row_behind_a_refusal_is_named(turned_away: dict[str, object]) -> None:
    observed, snapshot = drop()
    observed[4] = replace(observed[4], **turned_away)  # type: ignore[arg-type]
    assert "registration r5" in sentences(checker.check(observed, snapshot), "effect of a refusal")


@pytest.mark.parametrize("change", [{"name": "someone"}, {"spots_count": 2}, {"status": "CANCELLED"}])
def test_a_row_that_differs_from_the_answer_is_named(change: dict[str, object]) -> None:
    observed, snapshot = drop()
    altered = replace(snapshot, rows=changed(snapshot.rows, 0, **change))
    assert "registration r1, receipt c1" in sentences(checker.check(observed, altered), "altered")


def test_a_late_comer_confirmed_before_one_who_waits_is_named() -> None:
    observed, snapshot = drop()
    observed[2].begun = 4.6
    assert checker.check(observed, snapshot) == [
        Violation(
            "overtaken",
            "guest 3 (registration r3, receipt c3) is confirmed, and began after "
            "guest 4 (registration r4, receipt c4), still waiting, was answered",
        )
    ]


def test_those_who_overlap_in_time_may_come_in_any_order() -> None:
    observed, snapshot = drop()
    observed[2].begun = 4.5
    assert checker.check(observed, snapshot) == []


SPANS = st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(1, 2), st.sampled_from("CWRP"))
STATUSES = {"C": "CONFIRMED", "W": "WAITLIST", "R": "REFUSED"}


@given(st.lists(SPANS, max_size=12))
def test_the_fifo_check_agrees_with_comparing_everyone_with_everyone(
    spans: list[tuple[int, int, int, str]],
) -> None:
    observed = [
        ObservedRegistration(
            name=f"guest {number};",
            spots_count=size,
            begun=float(begun),
            accepted=None if kind == "R" else float(begun + length),
            decisions=[Decision(STATUSES[kind])] if kind in STATUSES else [],
        )
        for number, (begun, length, size, kind) in enumerate(spans)
    ]
    naive = {
        late.name
        for late in observed
        for early in observed
        if late.spots_count == early.spots_count
        and late.decisions == [Decision("CONFIRMED")]
        and early.decisions == [Decision("WAITLIST")]
        and early.accepted is not None
        and early.accepted < late.begun
    }
    found = [violation.sentence.split(";")[0] + ";" for violation in checker.fifo(observed)]
    assert sorted(found) == sorted(naive)


def test_a_gap_in_the_positions_is_named() -> None:
    observed, snapshot = drop()
    gap = replace(snapshot, rows=changed(snapshot.rows, 4, waitlist_position=3))
    assert checker.check(observed, gap) == [
        Violation("position", "registration r5 shows position 3 instead of 2"),
    ]


def test_a_position_on_a_confirmed_row_is_named() -> None:
    observed, snapshot = drop()
    odd = replace(snapshot, rows=changed(snapshot.rows, 0, waitlist_position=1))
    assert checker.check(observed, odd) == [
        Violation("position", "registration r1 shows position 1 instead of None"),
    ]


def test_rows_out_of_their_order_are_named() -> None:
    observed, snapshot = drop()
    shuffled = replace(snapshot, rows=changed(snapshot.rows, 1, seq=10))
    assert checker.check(observed, shuffled) == [
        Violation("order", "registration r2 is listed after r1, against their seq"),
    ]


def test_a_party_that_went_past_one_who_waits_is_named() -> None:
    observed, snapshot = drop(capacity=3, sizes=(1, 2, 2, 2))
    rows = changed(snapshot.rows, 1, status="WAITLIST", waitlist_position=1)
    rows = changed(rows, 2, status="CONFIRMED", waitlist_position=None)
    violations = checker.check(observed, replace(snapshot, rows=rows))
    assert sentences(violations, "barging") == "registration r3 is confirmed ahead of r2, which waits"


AUDIT: list[tuple[str, Callable[[Sequence[Entry]], list[Entry]], str]] = [
    ("audit gap", lambda kept: changed(kept, 4, number=6), "audit entry 6 (registration r5)"),
    ("audit chain", lambda kept: changed(kept, 2, previous_hash="forged"), "audit entry 3 (registration r3)"),
    ("audit chain", lambda kept: changed(kept, 2, hash="forged"), "audit entry 4 (registration r4)"),
    ("audit sum", lambda kept: changed(kept, 2, spots_reserved=2), "audit entry 3 (registration r3)"),
    (
        "audit replay",
        lambda kept: changed(kept, 2, from_status="WAITLIST"),
        "audit entry 3 (registration r3)",
    ),
    ("audit replay", lambda kept: [*kept[:4]], "registration r5 is WAITLIST, the audit says None"),
    (
        "audit delta",
        lambda kept: changed(kept, 4, spots_delta=1, spots_reserved=4),
        "audit entry 5 (registration r5)",
    ),
    (
        "audit replay",
        lambda kept: changed(kept, 4, spots_delta=1, spots_reserved=4),
        "event e1 counts 3, the audit says 4",
    ),
]


@pytest.mark.parametrize(("rule", "plant", "words"), AUDIT)
def test_an_audit_that_does_not_add_up_is_named(
    rule: str, plant: Callable[[Sequence[Entry]], list[Entry]], words: str
) -> None:
    observed, snapshot = drop()
    violations = checker.check(observed, replace(snapshot, entries=plant(snapshot.entries)))
    assert words in sentences(violations, rule)


def test_a_long_list_of_names_is_cut() -> None:
    observed, snapshot = drop(capacity=9, sizes=(1,) * 9)
    oversold = replace(snapshot, event=msgspec.structs.replace(snapshot.event, capacity=1))
    violations = checker.check(observed, oversold)
    assert sentences(violations, "oversold").endswith("beyond: r2, r3, r4, r5, r6 and 3 more")


def test_a_corrected_size_replays() -> None:
    _, snapshot = corrected(drop(capacity=6, sizes=(3, 2)), 0, 2)
    wrong = replace(snapshot, entries=changed(snapshot.entries, 2, spots_delta=0))

    assert list(checker.audit(snapshot)) == []
    assert "audit delta" in rules(checker.audit(wrong))
