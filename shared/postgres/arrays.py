"""Columns of values as one parameter each, in the form in which PostgreSQL takes them at the least cost.

A driver turns a list into an array element by element, at more than the cost of all decisions. So a column
goes as the bytes that PostgreSQL's `array_recv` reads. A column of numbers goes as an array literal, which
is JSON but for its brackets. Each statement casts its parameters (`:'ids'::uuid[]`); the server takes a
parameter's type from the cast.
"""

import struct
from collections.abc import Iterable
from uuid import UUID

import msgspec
import psycopg
from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format

# Dimensions, whether there are nulls, the elements' type, their count, the first one's number.
_HEADER = struct.Struct("!iiIii")
_LENGTH = struct.Struct("!i")
_NULL = _LENGTH.pack(-1)
_JSONB_VERSION = b"\x01"
_UUID, _BYTEA, _TEXT, _JSONB = (types[name].oid for name in ("uuid", "bytea", "text", "jsonb"))


class Array(bytes):
    """An array in PostgreSQL's binary format."""


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: bytes) -> bytes:
        return obj


psycopg.adapters.register_dumper(Array, _ArrayDumper)  # for every connection that is made from now on


def uuids(values: Iterable[UUID | None]) -> Array:
    """Return a `uuid[]`."""
    return _array(_UUID, (None if value is None else value.bytes for value in values))


def digests(values: Iterable[bytes | None]) -> Array:
    """Return a `bytea[]`."""
    return _array(_BYTEA, values)


def texts(values: Iterable[str | None]) -> Array:
    """Return a `text[]`."""
    return _array(_TEXT, (None if value is None else value.encode() for value in values))


def jsons(values: Iterable[bytes | None]) -> Array:
    """Return a `jsonb[]` of values that are JSON already."""
    return _array(_JSONB, (None if value is None else _JSONB_VERSION + value for value in values))


def numbers(values: Iterable[int]) -> str:
    """Return a literal of `integer[]` or `bigint[]`."""
    return "{" + msgspec.json.encode(list(values))[1:-1].decode() + "}"


def _array(element_type: int, values: Iterable[bytes | None]) -> Array:
    elements = [_NULL if value is None else _LENGTH.pack(len(value)) + value for value in values]
    return Array(_HEADER.pack(1, 1, element_type, len(elements), 1) + b"".join(elements))
