"""The statements that save the changes of decisions."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from shared.domain.event import EventSettings, Policy
from tests.simulation.protocol.memory.database import Transaction
from tests.simulation.protocol.memory.rows import (
    EVENTS,
    Command,
    Event,
    Parameters,
    Read,
    Registration,
    inserted,
    text,
)


async def save_batch(tx: Transaction, p: Parameters) -> Read:
    """`save_batch.sql`."""
    moved = await _move(tx, p)
    for row in _entered(p):
        event_id, registration = row
        if not await inserted(tx, "registration", event_id, registration.id, registration):
            raise psycopg.errors.UniqueViolation("registration_pkey")
        _check_registration(tx, event_id, registration)
    for event_id, entry in _noted(tx, p):
        if not await inserted(tx, "entry", event_id, entry["number"], entry):
            raise psycopg.errors.UniqueViolation("audit_entry_pkey")
    told, settled = 0, 0
    for event_id, id_, seq, outcome in _columns(p, "settled", "event_ids", "ids", "seqs", "outcomes"):
        told += await inserted(tx, "outcome", event_id, id_, text(outcome))
        await tx.lock("pending", event_id, seq)
        if tx.get("pending", event_id, seq) is not None:
            await tx.write("pending", event_id, seq, None)
            settled += 1
    for event_id, id_ in _columns(p, "released", "event_ids", "ids"):
        for key, (command_id, _) in list(tx.rows("key", event_id).items()):
            if command_id == id_:
                await tx.write("key", event_id, key, None)
    return [(moved, min(told, settled))]


def _columns(p: Parameters, prefix: str, *names: str) -> Iterable[tuple[Any, ...]]:
    return zip(*(p[f"{prefix}_{name}"] for name in names), strict=True)


async def _move(tx: Transaction, p: Parameters) -> int:
    moved = 0
    for event_id, spots, waiting, entries in _columns(p, "moved", "event_ids", "spots", "waiting", "entries"):
        await tx.lock(*EVENTS, event_id)
        event: Event = tx.get(*EVENTS, event_id)
        if spots <= 0 or event.spots_reserved + spots <= event.settings.capacity:
            await tx.write(*EVENTS, event_id, event.moved(spots, waiting, entries).checked())
            moved += 1
    return moved


def _entered(p: Parameters) -> Iterable[tuple[UUID, Registration]]:
    names = (
        "event_ids",
        "ids",
        "seqs",
        "command_ids",
        "names",
        "emails",
        "email_keys",
        "spots_counts",
        "statuses",
    )
    for event_id, id_, seq, command_id, name, email, email_key, spots_count, status in _columns(
        p, "entered", *names
    ):
        yield (
            event_id,
            Registration(
                id=id_,
                seq=seq,
                original_seq=None,
                command_id=command_id,
                name=name,
                email=email,
                email_key=email_key,
                spots_count=spots_count,
                status=str(status),
            ),
        )


def _noted(tx: Transaction, p: Parameters) -> Iterable[tuple[UUID, dict[str, Any]]]:
    names = (
        *("number", "hash", "command_id", "kind", "actor", "reason", "registration_id"),
        *("from_status", "to_status", "before_after", "spots_delta", "spots_reserved"),
    )
    plural = {name: f"{name}s" for name in names} | {"hash": "hashes", "spots_reserved": "spots_reserved"}
    plural |= {name: f"{name}es" for name in ("from_status", "to_status")}
    for event_id, *values in _columns(p, "noted", "event_ids", *(plural[name] for name in names)):
        yield event_id, {**dict(zip(names, values, strict=True)), "at": tx.now}


def _check_registration(tx: Transaction, event_id: UUID, row: Registration) -> None:
    for other in tx.rows("registration", event_id).values():
        if other.id == row.id:
            continue
        if other.seq == row.seq:
            raise psycopg.errors.UniqueViolation("registration_place_key")
        active = "CANCELLED" not in (row.status, other.status)
        if active and row.email_key is not None and other.email_key == row.email_key:
            raise psycopg.errors.UniqueViolation("registration_holder_key")
        if other.command_id == row.command_id:
            raise psycopg.errors.UniqueViolation("registration_command_key")


async def save_settings(tx: Transaction, p: Parameters) -> Read:
    await tx.lock(*EVENTS, p["event_id"])
    event: Event = tx.get(*EVENTS, p["event_id"])
    highest = max(p["capacity"], p["overbooked_from"] or 0)
    if p["spots"] > 0 and event.spots_reserved + p["spots"] > highest:
        return 0
    values = {name: p[name] for name in EventSettings.__struct_fields__}
    settings = EventSettings(**{**values, "promotion_policy": Policy(values["promotion_policy"])})
    beyond = max(event.spots_reserved + p["spots"] - p["capacity"], 0)
    after = msgspec.structs.replace(
        msgspec.structs.replace(event, settings=settings).moved(p["spots"], p["waiting"], p["entries"]),
        overbooked_spots=beyond if p["overbooked_from"] is not None else min(event.overbooked_spots, beyond),
    )
    await tx.write(*EVENTS, event.id, after.checked())
    return 1


async def save_follow_up(tx: Transaction, p: Parameters) -> Read:
    event_id, id_ = p["event_id"], p["id"]
    tx.database.last_number += 1
    seq = tx.database.last_number
    command = Command(
        id=id_,
        seq=seq,
        kind="promote_waitlist",
        payload="{}",
        actor="system",
        version=1,
        accepted_at=p["accepted_at"],
    )
    if not await inserted(tx, "command", event_id, id_, command):
        raise psycopg.errors.UniqueViolation("command_pkey")
    await tx.write("pending", event_id, seq, id_)
    event = tx.get(*EVENTS, event_id)
    await tx.write(*EVENTS, event_id, msgspec.structs.replace(event, follow_up_id=id_))
    return 1


async def update_registrations(tx: Transaction, p: Parameters) -> Read:
    updated = 0
    for event_id, id_, status, seq, original_seq in zip(
        *(p[name] for name in ("event_ids", "ids", "statuses", "seqs", "original_seqs")), strict=True
    ):
        await tx.lock("registration", event_id, id_)
        row = tx.get("registration", event_id, id_)
        if row is not None:
            first = row.original_seq if row.original_seq is not None else original_seq
            after = msgspec.structs.replace(row, status=str(status), seq=seq, original_seq=first)
            await tx.write("registration", event_id, id_, after)
            _check_registration(tx, event_id, after)
            updated += 1
    return updated


async def delete_registrations(tx: Transaction, p: Parameters) -> Read:
    deleted = 0
    for event_id, id_ in zip(p["event_ids"], p["ids"], strict=True):
        await tx.lock("registration", event_id, id_)
        if tx.get("registration", event_id, id_) is not None:
            await tx.write("registration", event_id, id_, None)
            deleted += 1
    return deleted


async def note_trouble(tx: Transaction, p: Parameters) -> Read:
    await tx.write("trouble", p["event_id"], p["command_id"], p["error"])
    return 1


async def forget_trouble(tx: Transaction, p: Parameters) -> Read:
    for event_id in p["event_ids"]:
        if tx.get("trouble", event_id, p["command_id"]) is not None:
            await tx.write("trouble", event_id, p["command_id"], None)
    return 0
