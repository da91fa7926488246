"""The statements that accept commands."""

from collections.abc import Iterable
from uuid import UUID

import psycopg

from tests.simulation.protocol.memory.database import Transaction
from tests.simulation.protocol.memory.rows import Command, Parameters, Read, inserted, text


async def accept(tx: Transaction, p: Parameters) -> Read:
    """`accept_commands.sql`."""
    columns = ("event_ids", "ids", "kinds", "payloads", "actors", "versions", "idempotency_keys")
    new = list(zip(*(p[name] for name in columns), p["former_keys"], p["fingerprints"], strict=True))
    if tx.database.last_number < p["last_number"]:
        return [(0, None, 1)]
    there = known(tx, [(event_id, id_) for event_id, id_, *_ in new])
    # Keys are looked for as they were at the statement's beginning; those that were there are not written.
    keyed = [
        one
        for one in new
        if one[6] is not None
        and all(key is None or tx.get("key", one[0], key) is None for key in (one[6], one[7]))
    ]
    bound = set()
    for event_id, id_, *_, key, _, fingerprint in sorted(keyed, key=lambda one: (one[0], one[6])):
        if (event_id, id_) not in there and await inserted(tx, "key", event_id, key, (id_, fingerprint)):
            bound.add(id_)
    seqs = []
    in_vain: list[UUID] = []
    for event_id, id_, kind, payload, actor, version, key, *_ in new:
        if key is not None and id_ not in bound:
            continue
        tx.database.last_number += 1  # a number is drawn before the conflict is seen
        seq = tx.database.last_number
        command = Command(
            id=id_,
            seq=seq,
            kind=kind,
            payload=text(payload),
            actor=actor,
            version=version,
            accepted_at=tx.now,
        )
        if await inserted(tx, "command", event_id, id_, command):
            await tx.write("pending", event_id, seq, id_)
            seqs.append(seq)
        elif key is not None:
            in_vain.append(id_)
    check(in_vain)
    return [(len(seqs), max(seqs, default=None), 1)]


def check(in_vain: list[UUID]) -> None:
    """Fail if the statement bound the keys of these commands, which were there already."""
    if in_vain:
        raise psycopg.errors.DivisionByZero("division by zero")


def known(tx: Transaction, commands: Iterable[tuple[UUID, UUID]]) -> set[tuple[UUID, UUID]]:
    """Return those of these `(event_id, id)` that the ledger has."""
    return {place for place in commands if tx.get("command", *place) is not None}


async def find_commands(tx: Transaction, p: Parameters) -> Read:
    """`find_commands.sql`."""
    asked = zip(p["event_ids"], p["ids"], p["former_keys"], p["idempotency_keys"], strict=True)
    found = []
    for event_id, id_, *keys in asked:
        rows = (tx.get("key", event_id, key) for key in keys if key is not None)
        named = next((row for row in rows if row is not None), (None, None))
        found.append((tx.get("command", event_id, id_) is not None, *named))
    return found


async def draw(tx: Transaction, _: Parameters) -> Read:
    tx.database.last_number += 1
    return [(tx.database.last_number, 0)]


async def last_number(tx: Transaction, _: Parameters) -> Read:
    return [(tx.database.last_number,)]


async def confirm(_: Transaction, __: Parameters) -> Read:
    return [(0, None)]
