"""Turns each column of values into one parameter, in the form that costs PostgreSQL least.

A driver turns a list into an array element by element, which costs more than all decisions. So a column is
sent as the bytes that PostgreSQL's `array_recv` reads. A column of numbers is sent as an array literal, which
is JSON except for its brackets. Each statement casts its parameters (`:'ids'::uuid[]`); the server takes a
parameter's type from the cast.
"""

import struct
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar
from uuid import UUID

import msgspec
import psycopg
from psycopg.postgres import types
from psycopg.types.string import BytesBinaryDumper

_Value = TypeVar("_Value")

# The dimensions, the flag for nulls, the elements' type, their count, the first element's number.
_HEADER = struct.Struct("!iiIii")
_LENGTH = struct.Struct("!i")
_NULL = _LENGTH.pack(-1)


class Array(bytes):
    """An array in PostgreSQL's binary format."""


class _ArrayDumper(BytesBinaryDumper):
    oid = 0  # the server takes the type from the statement's cast


psycopg.adapters.register_dumper(Array, _ArrayDumper)  # for every connection that is made from now on


def _array(element: str, encode: Callable[[_Value], bytes], values: Iterable[_Value | None]) -> Array:
    elements = [
        _NULL if value is None else _LENGTH.pack(len(encoded := encode(value))) + encoded for value in values
    ]
    return Array(_HEADER.pack(1, 1, types[element].oid, len(elements), 1) + b"".join(elements))


_Encoder = Callable[[Iterable[_Value | None]], Array]
uuids: _Encoder[UUID] = partial(_array, "uuid", lambda value: value.int.to_bytes(16))
digests: _Encoder[bytes] = partial(_array, "bytea", lambda value: value)
texts: _Encoder[str] = partial(_array, "text", str.encode)
jsons: _Encoder[bytes] = partial(_array, "jsonb", lambda value: b"\x01" + value)
"""Return a `uuid[]`, `bytea[]`, `text[]` or `jsonb[]`; the values of a `jsonb[]` are JSON already."""


def numbers(values: Iterable[int | None]) -> str:
    """Return a literal of `integer[]` or `bigint[]`."""
    return "{" + msgspec.json.encode(list(values))[1:-1].decode() + "}"
