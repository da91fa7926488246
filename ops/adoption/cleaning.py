"""Turns registrations of an existing system into valid ones, or gives the reason (pure)."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID, uuid5

import msgspec

from ops.adoption.report import Code, Problem
from ops.adoption.sources import values
from ops.adoption.sources.mapping import SourceMapping
from ops.adoption.sources.meanings import NOT_UNDERSTOOD
from ops.adoption.sources.source import RawRegistration
from shared.domain import ids, texts
from shared.domain.commands import EMAIL_LENGTH_MAX, NAME_LENGTH_MAX, SPOTS_MAX, Status

ADOPTED = UUID("a567bcc8-4967-4672-96a7-146c52e11226")
"""The namespace of ids that are no UUIDs in the source. It never changes: clients compute ids with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanRegistration:
    """A registration that can be taken."""

    source_id: str
    id: UUID
    name: str
    email: str | None
    email_key: str | None
    spots_count: int
    status: Status
    created_at: datetime | None


def adopted_id(text: str) -> UUID:
    """Return the adopted id of a source's id: the same UUID, or else `uuid5(ADOPTED, text)`."""
    return UUID(text) if re.fullmatch(ids.PATTERN, text) else uuid5(ADOPTED, text)


def registration(
    raw: RawRegistration, mapping: SourceMapping
) -> tuple[CleanRegistration | None, list[Problem]]:
    """Return the valid form of the registration, None if it has none, and the registration's problems."""
    meaning, name = status(raw, mapping), texts.printable(raw.name or "")
    spots = values.whole(raw.spots_count)
    reason = _against(raw, meaning, name, spots)
    if reason is not None:
        return None, [left_out(raw, *reason)]
    assert spots is not None, "a registration without spots is left out"
    email = None if raw.email is None else _email(raw.email)
    clean = CleanRegistration(
        source_id=raw.id,
        id=adopted_id(raw.id),
        name=name[:NAME_LENGTH_MAX],
        email=email,
        email_key=None if email is None else texts.email_key(email),
        spots_count=spots,
        status=Status(meaning),
        created_at=values.clear_moment(raw.created_at, mapping.zone),
    )
    return clean, [*_changes(raw, clean, name), *_cancellation(raw, mapping, spots)]


def status(raw: RawRegistration, mapping: SourceMapping) -> str:
    """Return what the registration's status and its columns of deletion and cancellation mean together."""
    meaning = mapping.registration.status(raw.status)
    if raw.deleted or meaning == "DELETED":
        return "DELETED"
    return Status.CANCELLED.value if raw.cancelled else meaning


def one_holder_each(
    event_id: str, batch: Sequence[CleanRegistration], held: Collection[str]
) -> tuple[list[CleanRegistration], list[Problem]]:
    """Remove the address of each active registration that shares it with an earlier one or with `held`."""
    taken = Problem(
        code=Code.EMAIL_TAKEN,
        event_id=event_id,
        detail="an earlier active registration of the event has the same email address, and keeps it",
    )
    seen, kept, problems = set(held), [], []
    for clean in batch:
        key = None if clean.status is Status.CANCELLED else clean.email_key
        if key in seen:
            problems.append(msgspec.structs.replace(taken, registration_id=clean.source_id))
            kept.append(replace(clean, email=None, email_key=None))
        else:
            kept.append(clean)
        if key is not None:
            seen.add(key)
    return kept, problems


def spots_confirmed(raw: RawRegistration, mapping: SourceMapping) -> int:
    """Return the registration's part of the source's confirmed spots, also if it is left out."""
    return spots_asked(raw) if status(raw, mapping) == Status.CONFIRMED else 0


def spots_asked(raw: RawRegistration) -> int:
    """Return the registration's spots, 0 if they are no count."""
    return max(values.whole(raw.spots_count) or 0, 0)


def _against(raw: RawRegistration, meaning: str, name: str, spots: int | None) -> tuple[Code, str] | None:
    if meaning == "DELETED":
        return Code.REGISTRATION_DELETED, "the source has it as deleted or archived"
    if meaning == NOT_UNDERSTOOD:
        value = texts.printable(raw.status or "")[:40]
        known = "no status" if raw.status is None else f"the unknown status {value!r}"
        return Code.STATUS_UNKNOWN, f"it has {known}"
    if spots is None or not 1 <= spots <= SPOTS_MAX:
        value = texts.printable(str(raw.spots_count))[:40]
        return Code.SPOTS_COUNT_INVALID, f"{meaning}: the spots must be 1 to {SPOTS_MAX}, not {value}"
    if not name:
        return Code.NAME_EMPTY, f"{meaning}, {spots} spots: the name is empty"
    return None


def _cancellation(raw: RawRegistration, mapping: SourceMapping, spots: int) -> list[Problem]:
    said = mapping.registration.status(raw.status)
    if not raw.cancelled or said == Status.CANCELLED:
        return []
    columns = ", ".join(mapping.registration.of("cancelled"))
    was = texts.printable(raw.status or "")[:40] or "null"
    detail = f"its status was {was}, {spots} spots; it is CANCELLED by {columns}"
    return [_problem(raw, Code.STATUS_CHANGED, detail)]


def _changes(raw: RawRegistration, clean: CleanRegistration, name: str) -> list[Problem]:
    problems = []
    if name != raw.name:
        problems.append(
            _problem(raw, Code.NAME_CHANGED, "control characters and outer white space were removed")
        )
    if len(name) > NAME_LENGTH_MAX:
        problems.append(
            _problem(raw, Code.NAME_CUT, f"the name was longer than {NAME_LENGTH_MAX} characters")
        )
    if clean.email is None and texts.printable(raw.email or ""):
        problems.append(_problem(raw, Code.EMAIL_UNUSABLE, "it is no email address; there is none now"))
    if clean.created_at is None:
        problems.append(_problem(raw, Code.CREATED_AT_UNUSABLE, "its time is the time of the adoption now"))
    return problems


def left_out(raw: RawRegistration, code: Code, detail: str) -> Problem:
    """Return the problem for which the registration is left out."""
    return msgspec.structs.replace(_problem(raw, code, detail), registrations=1, spots=spots_asked(raw))


def _problem(raw: RawRegistration, code: Code, detail: str) -> Problem:
    return Problem(code=code, event_id=raw.event_id, registration_id=raw.id, detail=detail)


def _email(text: str) -> str | None:
    """Return the address in normal form, as registering stores it, or unchanged if that would refuse it."""
    address = texts.printable(text)
    if len(address) > EMAIL_LENGTH_MAX or "@" not in address.strip("@"):
        return None
    try:
        return texts.email_address(address)
    except ValueError:
        return None if " " in address else address
