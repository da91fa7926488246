"""The judge of the fault harness rejects each planted violation, and is content with a faithful event."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from shared.domain import ids
from tests.chaos.history import Operation
from tests.chaos.judge import again, judge, replay
from tests.chaos.judge.evidence import Command, Entry, EventEvidence, Row
from tests.chaos.wishes import SETTINGS
from tests.simulation.model import Json, Model, Told

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
EVENT = "00000000-0000-7000-8000-000000000001"
SHOWN = {"event_changed": "DONE", "status_changed": "DONE", "deleted": "DONE"}
Wish = tuple[str, Json]


def register(spots: int = 1, **more: Any) -> Wish:
    return "register", {"spotsCount": spots, **more}


def change(**settings: Any) -> Wish:
    return "change_event", settings


def move(number: int, status: str) -> Wish:
    return "change_status", {"registrationId": registration(number), "status": status}


def command_id(number: int) -> str:
    return str(UUID(int=(number + 1) << 80 | 0x7 << 76 | 0x2 << 62 | number))


def registration(number: int) -> str:
    return str(ids.registration_id(UUID(command_id(number))))


def faithful(*wishes: Wish, **settings: Any) -> EventEvidence:
    """Return an event as a faithful service leaves it, after one wish a second from one client each."""
    first = {**SETTINGS, "slug": "a-drop", "title": "A drop", "capacity": 2, **settings}
    model, commands, operations = Model(first, replay.PROMOTED_SPOTS_MAX), [], []
    entries: list[Entry] = []
    for number, (kind, asked) in enumerate(wishes):
        mark = f"chaos {number}"
        payload = {**asked, "name" if kind == "register" else "reason": mark}
        at, id_ = START + timedelta(seconds=number), command_id(number)
        told = Told(
            id=id_,
            seq=10 * number + 10,
            kind=kind,
            payload=payload,
            accepted_at=at,
            registration_id=registration(number),
            follow_up_id=str(ids.follow_up_id(UUID(id_))),
        )
        before, written = dict(model.settings), len(model.trail)
        outcome = model.decide(told)
        if kind == "change_event":
            after = {name: [before[name], model.settings[name]] for name in outcome.get("changed", ())}
            model.trail[written:] = [
                fact | ({"beforeAfter": after} if fact["kind"] == kind else {})
                for fact in model.trail[written:]
            ]
        entries += [_entry(fact, len(entries) + n, at) for n, fact in enumerate(model.trail[written:], 1)]
        commands.append(
            Command(
                id=id_,
                seq=told.seq,
                kind=kind,
                payload=payload,
                actor="public",
                accepted_at=at,
                outcome=outcome,
                settled_at=at,
            )
        )
        operations.append(_operation(number, kind, mark, outcome))
    rows = [
        Row(
            id=party.id,
            seq=party.place,
            command_id=party.receipt,
            name=party.name,
            email=party.email,
            spots_count=party.spots,
            status=party.status,
        )
        for party in model.parties
    ]
    columns = {
        "".join(f"_{c.lower()}" if c.isupper() else c for c in n): v for n, v in model.settings.items()
    }
    counters = {
        "spots_reserved": model.confirmed_spots(),
        "waitlist_length": len(model.waiting()),
        "overbooked_spots": model.overbooked,
        "audit_seq": len(entries),
    }
    made = EventEvidence(
        id=EVENT,
        first=first,
        now=columns | counters,
        commands=commands,
        rows=rows,
        operations=operations,
        epoch=START.timestamp(),
    )
    return chained(made, entries)


def _entry(fact: Json, number: int, at: datetime) -> Entry:
    return Entry(
        number=number,
        command_id=fact["commandId"],
        kind=fact["kind"],
        actor="public",
        reason=None,
        registration_id=fact["registrationId"],
        from_status=fact["fromStatus"],
        to_status=fact["toStatus"],
        before_after=fact["beforeAfter"],
        spots_delta=fact["spotsDelta"],
        spots_reserved=fact["spotsReserved"],
        at=at,
        hash=b"",
    )


def _operation(number: int, kind: str, mark: str, outcome: Json) -> Operation:
    status = {"confirmed": "CONFIRMED", "waitlisted": "WAITLIST"}.get(outcome["outcome"])
    told = f"REFUSED {outcome['code']}" if "code" in outcome else status or SHOWN[outcome["outcome"]]
    return Operation(
        number=number,
        kind=kind,
        event_id=EVENT,
        mark=mark,
        keyed=True,
        begun=float(number),
        accepted=number + 0.5,
        decided=number + 0.5,
        attempts=1,
        receipt=command_id(number),
        registration_id=outcome.get("registrationId"),
        told=[told],
    )


def chained(event: EventEvidence, entries: Sequence[Entry]) -> EventEvidence:
    """Return the event with these audit entries, each chained to the one before."""
    last, linked = bytes(32), []
    for entry in entries:
        last = replay.digest(last, event.id, entry)
        linked.append(msgspec.structs.replace(entry, hash=last))
    return msgspec.structs.replace(event, entries=linked)


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
}


@pytest.mark.parametrize("event", [FULL, BUSY], ids=["full", "busy"])
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


def test_an_attempt_without_an_answer_may_be_accepted() -> None:
    unknown = with_operation(FULL, 3, receipt=None, told=[], accepted=None, doubtful=True)

    assert judge.check(unknown) == []
