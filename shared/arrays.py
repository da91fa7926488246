"""Many values as one parameter: what a batch sends to PostgreSQL.

A driver turns a list into an array element by element, which costs more than all deciding. So whole
columns are encoded as JSON at once: of ids and numbers that is, but for its brackets, an array literal.
"""

from collections.abc import Iterable
from uuid import UUID

import msgspec


def ids(values: Iterable[UUID | None]) -> str:
    """Return a literal of `uuid[]`."""
    return _literal(values)


def numbers(values: Iterable[int]) -> str:
    """Return a literal of `integer[]` or `bigint[]`."""
    return _literal(values)


def digests(values: Iterable[bytes]) -> str:
    """Return a literal of `text[]` in hexadecimal, for `decode(…, 'hex')`."""
    return "{" + ",".join([value.hex() for value in values]) + "}"


def json(values: Iterable[object]) -> str:
    """Return a JSON array, for `jsonb_array_elements` or `jsonb_array_elements_text`."""
    return msgspec.json.encode(list(values)).decode()


def raw_json(values: Iterable[bytes]) -> str:
    """Return a JSON array of values that are JSON already."""
    return "[" + b",".join(values).decode() + "]"


def _literal(values: Iterable[object]) -> str:
    return "{" + json(values)[1:-1] + "}"
