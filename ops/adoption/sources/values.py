"""Reads values of foreign columns: times and counts of any type (pure)."""

import math
import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any

_MILLISECONDS_FROM = 100_000_000_000
"""An integer time of at least this is in milliseconds, as JavaScript counts, else in seconds."""

_WHOLE = re.compile(r"([+-]?[0-9]{1,18})(?:\.0*)?")


class UnclearValueError(Exception):
    """The value cannot be read as what its column is said to be."""


def moment(
    value: Any,  # noqa: ANN401 - the column may have any type
    zone: tzinfo,
    *,
    date_ends: bool = False,
    midnight_ends: bool = False,
) -> datetime | None:
    """Return the moment, None where there is no value; a time without a zone is in `zone`.

    With `date_ends` a date stands for the end of its day, with `midnight_ends` a midnight too. MySQL's zero
    date is no value.
    """
    if isinstance(value, str):
        value = _from_text(value.strip())
    elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        value = _from_number(float(value))
    if value is None:
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value, ends = datetime.combine(value, time()), date_ends
    elif isinstance(value, datetime):
        ends = midnight_ends and value.time() == time()
    else:
        raise UnclearValueError
    local: datetime = value if value.tzinfo is not None else value.replace(tzinfo=zone)
    try:
        return (local + timedelta(days=1 if ends else 0)).astimezone(UTC)
    except OverflowError as error:
        raise UnclearValueError from error


def clear_moment(value: Any, zone: tzinfo) -> datetime | None:  # noqa: ANN401 - the column may have any type
    """Return the moment, None where the value is none or cannot be read as one."""
    try:
        return moment(value, zone)
    except UnclearValueError:
        return None


def whole(value: Any) -> int | None:  # noqa: ANN401 - the column may have any type
    """Return the value as a whole number, None if it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and (number := _WHOLE.fullmatch(value.strip())):
        return int(number[1])
    if isinstance(value, float | Decimal):
        return int(value) if math.isfinite(value) and value == int(value) else None
    return value if isinstance(value, int) else None


def _from_text(text: str) -> datetime | date | None:
    if not text or text.startswith("0000-00-00"):
        return None
    try:
        return date.fromisoformat(text) if len(text) == len("2026-01-01") else datetime.fromisoformat(text)
    except ValueError as error:
        raise UnclearValueError from error


def _from_number(number: float) -> datetime | None:
    if not number:
        return None
    try:
        return datetime.fromtimestamp(number / 1000 if number >= _MILLISECONDS_FROM else number, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UnclearValueError from error
