"""Rows that a statement is given: as arrays, or as plain values where it is one of each.

Arrays make many rows cheap, and one dear: PostgreSQL sets up a function a column, to yield one element.
"""

from collections.abc import Callable, Collection, Iterable
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from shared.postgres import arrays


class Column(NamedTuple):
    """A type of PostgreSQL's, what yields elements of it from one parameter, and encoders of many and one."""

    type: str
    elements: str
    many: Callable[[Iterable[Any]], str | bytes]
    one: Callable[[Any], str | None]


def _or_null(encode: Callable[[Any], str]) -> Callable[[Any], str | None]:
    return lambda value: None if value is None else encode(value)


ID = Column("uuid", "unnest(CAST({} AS uuid[]))", arrays.ids, _or_null(lambda id_: id_.hex))
DIGEST = Column(
    "bytea", "unnest(CAST({} AS bytea[]))", arrays.digests, _or_null(lambda digest: rf"\x{digest.hex()}")
)
INTEGER = Column("integer", "unnest(CAST({} AS integer[]))", arrays.numbers, _or_null(str))
BIGINT = Column("bigint", "unnest(CAST({} AS bigint[]))", arrays.numbers, _or_null(str))
TID = Column("tid", "unnest(CAST({} AS tid[]))", arrays.tids, str)
TEXT = Column("text", "jsonb_array_elements_text(CAST({} AS jsonb))", arrays.json, _or_null(str.__str__))
JSON = Column(
    "jsonb",
    "jsonb_array_elements(CAST({} AS jsonb))",
    arrays.json,
    lambda value: msgspec.json.encode(value).decode(),
)
RAW_JSON = Column("jsonb", JSON.elements, arrays.raw_json, bytes.decode)


class Rows:
    """An item of a statement's FROM list, which stands in its text as `{name}`.

    `{name_count}` stands for the number of rows, for which the first column is an `ID`. When `numbered`,
    their place is one more column: 1, 2, …
    """

    def __init__(self, name: str, /, *, numbered: bool = False, **columns: Column) -> None:
        self._name = name
        self._columns = columns
        self._place = ["place"] if numbered else []
        self._parameters = {column: f"{name}_{column}" for column in columns}

    def of(self, items: Collection[object], /, **columns: Iterable[object]) -> "Given":
        """Return a row for each item, to be `stated` once: of its attributes, and of these columns instead.

        None is NULL, and in `JSON` its null; a `TID` and a `RAW_JSON` are always there.
        """
        attributes = {c: map(attrgetter(c), items) for c in self._columns if c not in columns}
        return Given(self, len(items), {**attributes, **columns})

    def text(self, *, one: bool) -> dict[str, str]:
        """Return what is to stand in a statement's text, for one row or for however many."""
        parameters = {name: f"%({parameter})s" for name, parameter in self._parameters.items()}
        first, column = next(iter(self._columns.items()))
        if one:
            row = [f"CAST({parameters[name]} AS {c.type}) AS {name}" for name, c in self._columns.items()]
            row += [f"1 AS {place}" for place in self._place]
            return {self._name: f"(SELECT {', '.join(row)}) AS {self._name}", f"{self._name}_count": "1"}
        elements = ", ".join(c.elements.format(parameters[name]) for name, c in self._columns.items())
        ordinality = " WITH ORDINALITY" if self._place else ""
        names = ", ".join([*self._columns, *self._place])
        return {
            self._name: f"ROWS FROM ({elements}){ordinality} AS {self._name} ({names})",
            f"{self._name}_count": f"cardinality(CAST({parameters[first]} AS {column.type}[]))",
        }

    def parameters(self, columns: dict[str, Iterable[object]], *, one: bool) -> dict[str, object]:
        """Return the parameters that go with that text."""
        parameters: dict[str, object] = {}
        for name, values in columns.items():
            column = self._columns[name]
            parameters[self._parameters[name]] = column.one(*values) if one else column.many(values)
        return parameters


class Given(NamedTuple):
    """Rows for a statement."""

    rows: Rows
    size: int
    columns: dict[str, Iterable[object]]


def stated(statement: str, *given: Given) -> tuple[bytes, dict[str, object]]:
    """Return the text and the parameters of a statement that is given these rows.

    They are plain values where each of these is one row, and arrays where any is none, or more than one.
    """
    one = all(some.size == 1 for some in given)
    parameters: dict[str, object] = {}
    for some in given:
        parameters |= some.rows.parameters(some.columns, one=one)
    return text(statement, *(some.rows for some in given), one=one), parameters


@cache
def text(statement: str, *rows: Rows, one: bool) -> bytes:
    """Return a statement's text for one row of each, or for however many."""
    there: dict[str, str] = {}
    for some in rows:
        there |= some.text(one=one)
    return statement.format_map(there).encode()
