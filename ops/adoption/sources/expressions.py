"""The SQL by which a mapped table is read: each meaning as an expression over the columns that have it."""

from collections.abc import Sequence

from psycopg import sql

from ops.adoption.sources.mapping import TableMapping

_ONE_EVENT_VALUES = ("capacity", "spotsReserved", "opensAt", "waitlistLimit", "maxSpotsPerRegistration")
_FLAGS = ("paused", "closed", "deleted", "unlimited")
_LISTS = ("closesAt", "over")

# Python's datetime has no infinity and no year outside these. A creation time beyond them counts as missing;
# any other time after the year 9998 as never, one before 1970 as long ago.
_CREATION = sql.SQL("CASE WHEN {0} BETWEEN '0001-01-02' AND '9999-12-30' THEN {0} END")
_TIME = sql.SQL("CASE WHEN {0} < '9999-01-01' THEN greatest({0}, '1970-01-01') END")
# Where a time is not set, Go and .NET write the year 1, also in seconds or milliseconds, or -infinity; MySQL
# writes zeros.
_TIME_IS_SET = sql.SQL("({0} >= '0001-01-02' AND {0} < '9999-01-01')")
_TEXT_IS_SET = sql.SQL(
    "(lower(trim({0}::text)) NOT IN ('', '0', 'f', 'false', 'n', 'no', 'off', 'null')"
    " AND {0}::text !~ '^\\s*(0000-00-00|0001-01-01)')"
)
_NUMBER_IS_SET = sql.SQL("{0} NOT IN (0, -62135596800, -62135596800000)")
_NULL = sql.SQL("NULL::text")


class Expressions:
    """The SQL that reads the columns of one table by their meaning."""

    def __init__(self, alias: str, table: TableMapping) -> None:
        self._alias = alias
        self._table = table
        self._categories = {column.name: column.category for column in table.source_table.columns}
        self._timed = {column.name for column in table.source_table.columns if column.kind == "time"}

    def column(self, meaning: str) -> sql.Identifier:
        """Return the column with a meaning that exactly one has."""
        return sql.Identifier(self._alias, self._table.of(meaning)[0])

    def order(self, meaning: str) -> sql.Composable:
        """Return the column with this meaning as rows are sorted by it: texts byte by byte."""
        column = self.column(meaning)
        is_sorted = self._categories[self._table.of(meaning)[0]] in ("D", "N")
        return column if is_sorted else sql.SQL('{}::text COLLATE "C"').format(column)

    def named(self, name: str) -> sql.Identifier:
        """Return the column of this name."""
        return sql.Identifier(self._alias, name)

    def texts(self, meaning: str) -> sql.Composable:
        """Return the text of the columns, joined by blanks, null without any."""
        texts = [sql.SQL("{}::text").format(self.named(name)) for name in self._table.of(meaning)]
        if len(texts) < 2:  # noqa: PLR2004 - one text stays as it is
            return texts[0] if texts else _NULL
        return sql.SQL("concat_ws(' ', {})").format(sql.SQL(", ").join(texts))

    def values(self, meaning: str) -> list[sql.Composable]:
        """Return the values of the columns in a type that Python can hold."""
        return [self._value(meaning, name) for name in self._table.of(meaning)]

    def value(self, meaning: str) -> sql.Composable:
        """Return the value of the column, null without one."""
        return next(iter(self.values(meaning)), _NULL)

    def flag(self, meaning: str, *, every: bool = False) -> sql.Composable:
        """Return whether any of the columns, or `every` one, has a value that says yes; null without any."""
        names = self._table.of(meaning)
        if not names:
            return sql.SQL("NULL::boolean") if every else sql.SQL("false")
        flags = [sql.SQL("coalesce({}, false)").format(self._is_set(name)) for name in names]
        return sql.SQL(" AND " if every else " OR ").join(flags)

    def choice(self, meaning: str) -> sql.Composable:
        """Return whether the column says yes; null where it has no value, or without one."""
        chosen = sql.SQL("CASE WHEN {}::text <> '' THEN {} END")
        for name in self._table.of(meaning):
            return chosen.format(self.named(name), self._is_set(name))
        return sql.SQL("NULL::boolean")

    def _is_set(self, name: str) -> sql.Composable:
        """Return whether the column says yes, or holds a time; null where it is null."""
        column, category = self.named(name), self._categories[name]
        if category == "B":
            return column
        if category == "D" and name in self._timed:
            return _TIME_IS_SET.format(column)
        return (_NUMBER_IS_SET if category == "N" else _TEXT_IS_SET).format(column)

    def _value(self, meaning: str, name: str) -> sql.Composable:
        column, category = self.named(name), self._categories[name]
        if category == "D" and name in self._timed:
            return (_CREATION if meaning == "createdAt" else _TIME).format(column)
        return column if category in ("B", "N") else sql.SQL("{}::text").format(column)


def of_event(event: Expressions, unclear_columns: Sequence[str]) -> sql.Composable:
    """Return what a SELECT of a `RawEvent` selects."""
    values: dict[str, sql.Composable] = {
        **{meaning: event.value(meaning) for meaning in (*_ONE_EVENT_VALUES, "createdAt")},
        **{meaning: event.texts(meaning) for meaning in ("id", "slug", "title", "status")},
        **{meaning: event.flag(meaning) for meaning in _FLAGS},
        "open": event.flag("open", every=True),
        **{
            f"{meaning}_{place:03}": value
            for meaning in _LISTS
            for place, value in enumerate(event.values(meaning))
        },
        **{meaning: event.choice(meaning) for meaning in ("waitlistEnabled", "autoPromote")},
    }
    filled = [
        sql.SQL("CASE WHEN {} IS NOT NULL THEN {} END").format(event.named(name), sql.Literal(name))
        for name in unclear_columns
    ]
    values["unclear_columns"] = sql.SQL("array_remove(ARRAY[{}]::text[], NULL)").format(
        sql.SQL(", ").join(filled)
    )
    return _select(values)


def of_registration(registration: Expressions, spots_each: int | None) -> sql.Composable:
    """Return what a SELECT of a `RawRegistration` selects."""
    return _select(
        {
            **{
                meaning: registration.texts(meaning)
                for meaning in ("id", "eventId", "name", "status", "email")
            },
            "spotsCount": next(iter(registration.values("spotsCount")), sql.Literal(spots_each)),
            "createdAt": registration.value("createdAt"),
            **{meaning: registration.flag(meaning) for meaning in ("deleted", "cancelled")},
        }
    )


def _select(values: dict[str, sql.Composable]) -> sql.Composable:
    named = [
        sql.SQL("{} AS {}").format(value, sql.Identifier(_snake(meaning)))
        for meaning, value in values.items()
    ]
    return sql.SQL(", ").join(named)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
