"""Many values as one parameter: what a batch sends to PostgreSQL.

A driver turns a list into an array element by element, which costs more than all deciding. So ids and
digests go as the bytes that PostgreSQL keeps, which it need not parse; whole columns of numbers and JSON
go as text that is encoded at once: of numbers that is, but for its brackets, an array literal.
"""

import struct
from collections.abc import Iterable, Sequence
from uuid import UUID

import msgspec
import psycopg
from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format

# As PostgreSQL's array_recv reads it: dimensions, whether there are nulls, the elements' type, how many they
# are, the first one's number; then each element after its length.
_HEADER = struct.Struct("!iiIii")
_LENGTH = struct.Struct("!i")
_NULL = _LENGTH.pack(-1)
_ID_LENGTH = _LENGTH.pack(16)


class Ids(bytes):
    """A `uuid[]` in PostgreSQL's binary format."""


class Digests(bytes):
    """A `bytea[]` in PostgreSQL's binary format."""


class _AsItIs(Dumper):
    format = Format.BINARY

    def dump(self, obj: bytes) -> bytes:
        return obj


class _IdsDumper(_AsItIs):
    oid = types["uuid"].array_oid


class _DigestsDumper(_AsItIs):
    oid = types["bytea"].array_oid


# Every connection that is made from now on knows them.
psycopg.adapters.register_dumper(Ids, _IdsDumper)
psycopg.adapters.register_dumper(Digests, _DigestsDumper)


def ids(values: Iterable[UUID | None]) -> Ids:
    """Return a `uuid[]`."""
    elements = [_NULL if value is None else _ID_LENGTH + value.bytes for value in values]
    return Ids(_array(types["uuid"].oid, elements))


def digests(values: Iterable[bytes | None]) -> Digests:
    """Return a `bytea[]`."""
    elements = [_NULL if value is None else _LENGTH.pack(len(value)) + value for value in values]
    return Digests(_array(types["bytea"].oid, elements))


def numbers(values: Iterable[int]) -> str:
    """Return a literal of `integer[]` or `bigint[]`."""
    return "{" + json(values)[1:-1] + "}"


def tids(values: Iterable[str]) -> str:
    """Return a literal of `tid[]`, of rows' places such as `(0,1)`."""
    return "{" + ",".join(f'"{value}"' for value in values) + "}"


def json(values: Iterable[object]) -> str:
    """Return a JSON array, for `jsonb_array_elements` or `jsonb_array_elements_text`."""
    return msgspec.json.encode(list(values)).decode()


def raw_json(values: Iterable[bytes]) -> str:
    """Return a JSON array of values that are JSON already."""
    return "[" + b",".join(values).decode() + "]"


def _array(element_type: int, elements: Sequence[bytes]) -> bytes:
    return _HEADER.pack(1, 1, element_type, len(elements), 1) + b"".join(elements)
