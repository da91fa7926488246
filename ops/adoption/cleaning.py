"""Turns events and registrations of an existing system into valid ones, or gives the reason (pure)."""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from ops.adoption.report import Code, Problem
from ops.adoption.source import RawEvent, RawRegistration
from shared.domain import texts
from shared.domain.commands import EMAIL_LENGTH_MAX, NAME_LENGTH_MAX, SPOTS_MAX, Status

ADOPTED = UUID("a567bcc8-4967-4672-96a7-146c52e11226")
"""The namespace of ids that are no UUIDs in the source. It never changes: clients compute ids with it."""

SLUG_LENGTH_MAX = 100

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_BETWEEN_WORDS = re.compile(r"[^a-z0-9]+")
_STATUSES = {status.value: status for status in Status}


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanEvent:
    """An event that can be taken; `spots_reserved` is the source's counter, None when it has none."""

    source_id: str
    id: UUID
    slug: str
    title: str
    capacity: int
    spots_reserved: int | None
    created_at: datetime | None


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

    @property
    def spots_held(self) -> int:
        """The spots of the capacity that the registration takes."""
        return self.spots_count if self.status is Status.CONFIRMED else 0


def adopted_id(text: str) -> UUID:
    """Return the adopted id of a source's id: the same UUID, or else `uuid5(ADOPTED, text)`."""
    return UUID(text) if _UUID.fullmatch(text) else uuid5(ADOPTED, text)


def event(raw: RawEvent) -> tuple[CleanEvent | None, list[Problem]]:
    """Return the valid form of the event, None if it has none, and the event's problems."""
    problems = []

    def note(code: Code, detail: str) -> None:
        problems.append(Problem(code=code, event_id=raw.id, detail=detail))

    slug = _slug(raw.slug or "")
    if not slug:
        note(Code.SLUG_UNUSABLE, "the slug has no letter or digit to make one of")
    elif slug != raw.slug:
        note(Code.SLUG_CHANGED, f"the slug is {slug} now")
    if not _is_count(raw.capacity, 0):
        note(Code.CAPACITY_INVALID, f"the capacity must be 0 to {SPOTS_MAX}, not {raw.capacity}")
    title = texts.printable(raw.title or "")[:NAME_LENGTH_MAX].strip() or slug
    if title != raw.title:
        note(Code.TITLE_CHANGED, "the title was empty, too long or held control characters")
    if not slug or not _is_count(raw.capacity, 0):
        return None, problems
    clean = CleanEvent(
        source_id=raw.id,
        id=adopted_id(raw.id),
        slug=slug,
        title=title,
        capacity=raw.capacity,
        spots_reserved=raw.spots_reserved if isinstance(raw.spots_reserved, int) else None,
        created_at=_utc(raw.created_at),
    )
    return clean, problems


def registration(raw: RawRegistration) -> tuple[CleanRegistration | None, list[Problem]]:
    """Return the valid form of the registration, None if it has none, and the registration's problems."""
    name, status = texts.printable(raw.name or ""), _STATUSES.get(raw.status or "")
    reason = _against(raw, name, status)
    if reason is not None or status is None:
        return None, [] if reason is None else [_problem(raw, *reason)]
    email = None if raw.email is None else _email(raw.email)
    clean = CleanRegistration(
        source_id=raw.id,
        id=adopted_id(raw.id),
        name=name[:NAME_LENGTH_MAX],
        email=email,
        email_key=None if email is None else texts.email_key(email),
        spots_count=raw.spots_count,
        status=status,
        created_at=_utc(raw.created_at),
    )
    return clean, _changes(raw, clean, name)


def one_holder_each(
    event_id: str, batch: Sequence[CleanRegistration], held: Collection[str]
) -> tuple[list[CleanRegistration], list[Problem]]:
    """Remove the address of each active registration that shares it with an earlier one or with `held`."""
    seen, kept, problems = set(held), [], []
    for clean in batch:
        if clean.email_key is None or clean.status is Status.CANCELLED or clean.email_key not in seen:
            kept.append(clean)
        else:
            kept.append(replace(clean, email=None, email_key=None))
            detail = "an earlier active registration of the event has the same email address, and keeps it"
            problems.append(
                Problem(
                    code=Code.EMAIL_TAKEN, event_id=event_id, registration_id=clean.source_id, detail=detail
                )
            )
        if clean.email_key is not None and clean.status is not Status.CANCELLED:
            seen.add(clean.email_key)
    return kept, problems


def spots_confirmed(raw: RawRegistration) -> int:
    """Return the registration's part of the source's confirmed spots, also if it is left out."""
    return raw.spots_count if raw.status == Status.CONFIRMED and isinstance(raw.spots_count, int) else 0


def _against(raw: RawRegistration, name: str, status: Status | None) -> tuple[Code, str] | None:
    if status is None:
        known = (
            "no status" if raw.status is None else f"the unknown status {texts.printable(raw.status)[:40]!r}"
        )
        return Code.STATUS_UNKNOWN, f"it has {known}"
    if not _is_count(raw.spots_count, 1):
        return (
            Code.SPOTS_COUNT_INVALID,
            f"{status}: the spots must be 1 to {SPOTS_MAX}, not {raw.spots_count}",
        )
    if not name:
        return Code.NAME_EMPTY, f"{status}, {raw.spots_count} spots: the name is empty"
    return None


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
    if clean.email is None and raw.email:
        problems.append(_problem(raw, Code.EMAIL_UNUSABLE, "it is no email address; there is none now"))
    if raw.created_at is None:
        problems.append(_problem(raw, Code.CREATED_AT_UNUSABLE, "its time is the time of the adoption now"))
    return problems


def _problem(raw: RawRegistration, code: Code, detail: str) -> Problem:
    return Problem(code=code, event_id=raw.event_id, registration_id=raw.id, detail=detail)


def _slug(text: str) -> str:
    if len(text) <= SLUG_LENGTH_MAX and _SLUG.fullmatch(text):
        return text
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return _BETWEEN_WORDS.sub("-", ascii_text).strip("-")[:SLUG_LENGTH_MAX].rstrip("-")


def _email(text: str) -> str | None:
    """Return the address in normal form, as registering stores it, or unchanged if that would refuse it."""
    address = texts.printable(text)
    if len(address) > EMAIL_LENGTH_MAX or "@" not in address.strip("@"):
        return None
    try:
        return texts.email_address(address)
    except ValueError:
        return None if " " in address else address


def _utc(at: datetime | None) -> datetime | None:
    """Read a time without a zone as UTC, as Prisma stores it."""
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def _is_count(value: Any, least: int) -> bool:  # noqa: ANN401 - the column may have any type
    return isinstance(value, int) and least <= value <= SPOTS_MAX
