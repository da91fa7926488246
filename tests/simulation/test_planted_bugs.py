"""Every invariant has teeth: bugs planted in the service, each caught by the checks that pass without it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import pytest
from sqlalchemy import Connection, make_url, text

from shared.domain import ids, outcomes
from shared.postgres import ledger
from shared.postgres.bounded import BoundedSession
from shared.postgres.ledger import NewCommand
from tests.simulation import histories, mutants, worlds
from tests.simulation.histories import (
    History,
    cancel,
    change,
    correct,
    delete,
    delete_event,
    erase,
    give_receipt,
    heal,
    history,
    minute,
    move,
    register,
)
from tests.simulation.in_memory import InMemory
from tests.simulation.in_postgres import InPostgres
from tests.simulation.model import HOLDER
from tests.simulation.mutants import Plant
from tests.simulation.worlds import Witness
from worker import load_registrations


@dataclass(frozen=True, kw_only=True)
class Bug:
    """A bug, a history that it spoils, and the numbers of the invariants whose breach gives it away."""

    name: str
    plant: Plant
    history: History
    caught: frozenset[str]


def numbers(objections: Sequence[str]) -> frozenset[str]:
    """Return what was broken: invariants by number, and `model` where the second opinion differs."""
    return frozenset(objection.partition(":")[0] for objection in objections)


_FOUR_WAIT = history(
    *[register(1)] * 4, change(capacity=3), register(1), delete(9), capacity=0, promoted_spots_max=1
)

IN_DECISIONS = [
    Bug(
        name="a cancelled registration frees its spots again when it is deleted",
        plant=mutants.frees_twice,
        history=history(register(1), register(1), move("CANCELLED", 1), delete(1)),
        caught=frozenset({"2", "11", "model"}),
    ),
    Bug(
        name="a demotion frees nothing",
        plant=mutants.frees_nothing_on_demotion,
        history=history(register(2), register(4), move("WAITLIST", 2)),
        caught=frozenset({"2", "11", "model"}),
    ),
    Bug(
        name="a newcomer takes what the head of the waitlist waits for",
        plant=mutants.lets_newcomers_barge,
        history=history(register(3), register(4), register(1)),
        caught=frozenset({"7", "model"}),
    ),
    Bug(
        name="a promotion does not look at the capacity",
        plant=mutants.promotes_without_looking_at_the_capacity,
        history=history(register(4), register(3), register(3), change(capacity=5), move("CANCELLED", 3)),
        caught=frozenset({"1", "7", "model"}),
    ),
    Bug(
        name="strict order skips a head that does not fit",
        plant=mutants.skips_the_head_under_strict_fifo,
        history=history(register(3), register(4), register(1), heal()),
        caught=frozenset({"7", "model"}),
    ),
    Bug(
        name="a command promotes whom it moved to the waitlist itself",
        plant=mutants.promotes_whom_it_moved_itself,
        history=history(register(2), move("WAITLIST", 1)),
        caught=frozenset({"7", "model"}),
    ),
    Bug(
        name="freed spots are offered to nobody",
        plant=mutants.promotes_nobody,
        history=history(register(4), register(2), delete(2)),
        caught=frozenset({"8", "model"}),
    ),
    Bug(
        name="somebody is promoted although promotion is switched off",
        plant=mutants.promotes_although_switched_off,
        history=history(register(4), register(2), delete(2), autoPromote=False),
        caught=frozenset({"7", "model"}),
    ),
    Bug(
        name="freed spots go to the waitlist of a paused event",
        plant=mutants.promotes_in_a_pause,
        history=history(register(4), register(2), change(paused=True), delete(2)),
        caught=frozenset({"7", "model"}),
    ),
    Bug(
        name="freed spots go to the waitlist after promotion has ended",
        plant=mutants.promotes_after_the_end,
        history=history(register(4), register(2), delete(2), promoteUntil=minute(2)),
        caught=frozenset({"7", "model"}),
    ),
    Bug(
        name="a follow-up promotes at an event that was deleted meanwhile",
        plant=mutants.promotes_at_a_deleted_event,
        history=history(
            *[register(1)] * 4, change(capacity=3), delete_event(), capacity=0, promoted_spots_max=1
        ),
        caught=frozenset({"7", "model"}),
    ),
    Bug(
        name="a holder cancels after the time for it",
        plant=mutants.lets_holders_cancel_for_ever,
        history=history(register(1), cancel(1), cancelUntil=minute(1)),
        caught=frozenset({"model"}),
    ),
    Bug(
        name="a full event asks for the address first",
        plant=mutants.asks_for_the_address_of_a_full_event,
        history=history(register(4, "ada@example.org"), register(1, "ada@example.org"), waitlistLimit=0),
        caught=frozenset({"model"}),
    ),
    Bug(
        name="a command promotes without a bound",
        plant=mutants.promotes_without_a_bound,
        history=_FOUR_WAIT,
        caught=frozenset({"14", "model"}),
    ),
    Bug(
        name="a bounded promotion has no follow-up",
        plant=mutants.forgets_the_follow_up,
        history=_FOUR_WAIT,
        caught=frozenset({"8", "model"}),
    ),
    Bug(
        name="another command promotes beside the follow-up",
        plant=mutants.promotes_beside_the_follow_up,
        history=_FOUR_WAIT,
        caught=frozenset({"8", "model"}),
    ),
    Bug(
        name="a party that cannot fit blocks the line",
        plant=mutants.holds_oversized_parties_in_line,
        history=history(register(3), register(5), register(1), change(capacity=4), capacity=6),
        caught=frozenset({"8", "model"}),
    ),
    Bug(
        name="a party that cannot fit takes room on the waitlist",
        plant=mutants.counts_oversized_parties,
        history=history(
            register(3), register(5), change(capacity=3), register(3), capacity=6, waitlistLimit=1
        ),
        caught=frozenset({"model"}),
    ),
    Bug(
        name="a party that can never fit is waitlisted",
        plant=mutants.takes_parties_that_never_fit,
        history=history(register(5)),
        caught=frozenset({"7", "model"}),
    ),
    Bug(
        name="a move to the tail keeps the old place",
        plant=mutants.keeps_the_place_when_moved_to_the_tail,
        history=history(register(4), register(1), move("WAITLIST", 2), register(4), heal()),
        caught=frozenset({"7", "model"}),
    ),
    Bug(
        name="a refused command has an effect",
        plant=mutants.enters_whom_it_refuses,
        history=history(register(2), register(3), paused=True),
        caught=frozenset({"7", "9", "model"}),
    ),
    Bug(
        name="another spelling of an email address is another holder",
        plant=mutants.takes_two_spellings_for_two_addresses,
        history=history(register(1, "ada@example.org"), register(1, "Ada@Example.org")),
        caught=frozenset({"12", "model"}),
    ),
    Bug(
        name="an admin confirms more than there is",
        plant=mutants.ignores_the_capacity_on_confirming,
        history=history(register(4), register(2), move("CONFIRMED", 1)),
        caught=frozenset({"1", "model"}),
    ),
    Bug(
        name="the capacity goes below what is confirmed",
        plant=mutants.lowers_the_capacity_below_what_is_confirmed,
        history=history(register(4), change(capacity=3)),
        caught=frozenset({"1", "model"}),
    ),
    Bug(
        name="a registration does not find its original place",
        plant=mutants.forgets_the_original_place,
        history=history(
            *[register(1)] * 3,
            *[move("WAITLIST", 3), move("CONFIRMED", 3), move("WAITLIST", 3, "original")],
            autoPromote=False,
        ),
        caught=frozenset({"7", "model"}),
    ),
    Bug(
        name="a party grows into the spots of those who wait",
        plant=mutants.lets_parties_grow_ahead,
        history=history(register(2), register(4), correct(2, spotsCount=3)),
        caught=frozenset({"7", "model"}),
    ),
    Bug(
        name="a holder makes the party larger",
        plant=mutants.lets_holders_grow,
        history=history(register(2), correct(1, HOLDER, spotsCount=3)),
        caught=frozenset({"7", "model"}),
    ),
    Bug(
        name="the trail tells a name",
        plant=mutants.writes_names_into_the_trail,
        history=history(register(2), correct(1, name="Bob")),
        caught=frozenset({"10", "model"}),
    ),
    Bug(
        name="a deleted event takes registrations",
        plant=mutants.takes_registrations_at_a_deleted_event,
        history=history(register(2), delete_event(), register(1), heal()),
        caught=frozenset({"10", "model"}),
    ),
]


@pytest.mark.parametrize("bug", IN_DECISIONS, ids=lambda bug: bug.name)
def test_a_bug_in_a_decision_is_caught(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worlds.run(InMemory(bug.history.settings), bug.history) == []

    bug.plant(monkeypatch)

    assert numbers(worlds.run(InMemory(bug.history.settings), bug.history)) == bug.caught


_WITHOUT_A_GUARD = mutants.statement(
    "SAVE_BATCH", ("AND (delta.spots <= 0 OR spots_reserved + delta.spots <= capacity)", "")
)
_COUNTS_ONE_TOO_MANY = mutants.statement(
    "SAVE_BATCH", ("= spots_reserved + delta.spots,", "= spots_reserved + delta.spots + 1,")
)
_FORGETS_WHAT_IS_SETTLED = mutants.statement(
    "SAVE_BATCH",
    ("DELETE FROM pending_command", "UPDATE pending_command SET command_id = command_id"),
    ("ON CONFLICT DO NOTHING", "ON CONFLICT (event_id, command_id) DO UPDATE SET body = excluded.body"),
    ("USING unnest(%(settled_event_ids)s", "FROM unnest(%(settled_event_ids)s"),
)

_TWO_AND_ONE_WAITS = (register(2), register(2), register(1), move("CANCELLED", 2))

IN_TRANSACTIONS = [
    Bug(
        name="the counter moves outside the guard and by too much, within the capacity",
        plant=mutants.both(_WITHOUT_A_GUARD, _COUNTS_ONE_TOO_MANY),
        history=history(register(2)),
        caught=frozenset({"2", "10", "model"}),
    ),
    Bug(
        name="the counter moves outside the guard and by too much, past the capacity",
        plant=mutants.both(_WITHOUT_A_GUARD, _COUNTS_ONE_TOO_MANY),
        history=history(register(4)),
        caught=frozenset({"model"}),  # the constraint behind the guard refuses it: answered `failed`
    ),
    Bug(
        name="the owner confirms without looking at the capacity, and without a guard",
        plant=mutants.both(_WITHOUT_A_GUARD, mutants.ignores_the_capacity_on_confirming),
        history=history(register(4), register(2), move("CONFIRMED", 1)),
        caught=frozenset({"model"}),  # likewise
    ),
    Bug(
        name="the trail has a gap",
        plant=mutants.leaves_a_gap_in_the_trail,
        history=history(register(2), register(1)),
        caught=frozenset({"4", "10", "model"}),
    ),
    Bug(
        name="the chain is broken",
        plant=mutants.breaks_the_chain,
        history=history(register(2), register(1)),
        caught=frozenset({"10"}),
    ),
    Bug(
        name="the trail is in another order than the decisions",
        plant=mutants.writes_entries_in_another_order,
        history=history(*_TWO_AND_ONE_WAITS),
        caught=frozenset({"7", "10", "11", "model"}),
    ),
    Bug(
        name="a settled command is decided and answered again",
        plant=_FORGETS_WHAT_IS_SETTLED,
        history=history(register(2), register(1)),
        caught=frozenset({"3", "9"}),
    ),
    Bug(
        name="a cancellation is answered and not written",
        plant=mutants.statement(
            "UPDATE_REGISTRATIONS", ("status = new.status", "status = registration.status")
        ),
        history=history(register(2), move("CANCELLED", 1), limit=1),
        caught=frozenset({"2", "10", "model"}),
    ),
    Bug(
        name="a move to the tail is written with the old place",
        plant=mutants.statement("UPDATE_REGISTRATIONS", ("seq = new.seq, ", "")),
        history=history(register(1), register(1), move("WAITLIST", 2), limit=1),
        caught=frozenset({"7", "model"}),
    ),
    Bug(
        name="a promotion overwrites the original place",
        plant=mutants.statement(
            "UPDATE_REGISTRATIONS",
            ("coalesce(registration.original_seq, new", "coalesce(new.original_seq, registration.seq, new"),
        ),
        history=history(
            *[register(1)] * 3,
            *[move("WAITLIST", 2, "tail"), delete(1), delete(3), move("WAITLIST", 2, "original")],
            limit=1,
            capacity=1,
        ),
        caught=frozenset({"7", "model"}),
    ),
    Bug(
        name="the waitlist is loaded without its heads",
        plant=mutants.statement(
            "READ_WAITLIST",
            ("/ size.spots + coalesce(leaving.parties, 0) + 2", "* 0"),
            module=load_registrations,
        ),
        history=history(*_TWO_AND_ONE_WAITS, limit=1),
        caught=frozenset({"8", "model"}),
    ),
    Bug(
        name="a smaller party is answered and not written",
        plant=mutants.statement("CORRECT_REGISTRATION", ("%(spots_count)s::integer", "spots_count")),
        history=history(register(2), correct(1, spotsCount=1), limit=1),
        caught=frozenset({"2", "10", "model"}),
    ),
    Bug(
        name="a new receipt is answered and not written",
        plant=mutants.statement("CORRECT_REGISTRATION", ("%(command_id)s::uuid", "command_id")),
        history=history(register(2), give_receipt(1)),
        caught=frozenset({"10", "model"}),
    ),
    Bug(
        name="an overbooked event is not noted as such",
        plant=mutants.statement("SAVE_SETTINGS", ("%(overbooked_from)s::integer IS NULL", "true")),
        history=history(register(4), change(capacity=3, allowOverbooked=True)),
        caught=frozenset({"model"}),  # the constraint refuses it: answered `failed`
    ),
    Bug(
        name="a deleted registration stays",
        plant=mutants.statement(
            "DELETE_REGISTRATIONS", ("DELETE FROM", "UPDATE"), ("USING", "SET name = name FROM")
        ),
        history=history(register(2), delete(1), limit=1),
        caught=frozenset({"2", "10", "model"}),
    ),
    Bug(
        name="an erased registration keeps its address",
        plant=mutants.statement("ERASE", ("email = NULL, email_key", "email_key")),
        history=history(register(1, "ada@example.org"), erase(1), limit=1),
        caught=frozenset({"15", "model"}),
    ),
]


@pytest.mark.parametrize("bug", IN_TRANSACTIONS, ids=lambda bug: bug.name)
def test_a_bug_in_a_transaction_is_caught(
    bug: Bug, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worlds.run(InPostgres(connection, bug.history.settings), bug.history) == []

    bug.plant(monkeypatch)

    assert numbers(worlds.run(InPostgres(connection, bug.history.settings), bug.history)) == bug.caught


def test_unprevented_overselling_is_caught(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    oversold = history(register(4), register(2), move("CONFIRMED", 1))
    with connection.begin():
        connection.execute(text("ALTER TABLE event DROP CONSTRAINT event_not_oversold"))
    assert worlds.run(InPostgres(connection, oversold.settings), oversold) == []

    mutants.both(_WITHOUT_A_GUARD, mutants.ignores_the_capacity_on_confirming)(monkeypatch)

    assert numbers(worlds.run(InPostgres(connection, oversold.settings), oversold)) == {"1", "model"}


def test_a_key_that_names_two_commands_is_caught(database: str, connection: Connection) -> None:
    assert _asked_twice_under_one_key(database, connection) == []

    with connection.begin():
        connection.execute(text("ALTER TABLE idempotency_key DROP CONSTRAINT idempotency_key_pkey"))

    assert numbers(_asked_twice_under_one_key(database, connection)) == {"4"}


def _asked_twice_under_one_key(database: str, connection: Connection) -> list[str]:
    world = InPostgres(connection, histories.SETTINGS)
    asked = NewCommand(
        event_id=world.event_id,
        id=ids.new_id(),
        kind="register",
        payload=b'{"name":"Ada"}',
        actor="public",
        idempotency_key=b"key",
        fingerprint=b"body",
    )
    asyncio.run(_accept(database, [asked, msgspec.structs.replace(asked, id=ids.new_id())]))
    witness = Witness(world, histories.SETTINGS)
    witness.drain()
    return witness.objections


async def _accept(database: str, asked: list[NewCommand]) -> None:
    plain = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    async with await BoundedSession.connect(plain) as session:
        await ledger.prepare(session)
        await ledger.accept(session, asked)


def test_a_rewritten_outcome_is_caught(connection: Connection) -> None:
    world = InPostgres(connection, histories.SETTINGS)
    witness = Witness(world, histories.SETTINGS)
    world.accept(list(worlds.asked(history(register(2)))))
    witness.drain()
    assert witness.objections == []

    outcome = outcomes.Waitlisted(
        registration_id=ids.registration_id(worlds.command_id(0)), spots_count=2, position=1
    )
    with connection.begin():
        connection.execute(
            text("UPDATE outcome SET body = CAST(:outcome AS jsonb)"),
            {"outcome": msgspec.json.encode(outcome).decode()},
        )
    witness.look()

    assert numbers(witness.objections) == {"3", "4"}
