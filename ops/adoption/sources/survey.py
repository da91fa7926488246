"""Surveys a source: its two tables, all their columns, and how many rows have a value in each."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from ops.adoption.links import AdoptionError, Link
from ops.adoption.sources.meanings import TABLES, Column, normal

STATUSES_MAX = 50

_TABLES = """
    SELECT namespace.nspname::text, class.relname::text, pg_table_is_visible(class.oid) AS visible
    FROM pg_class AS class JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE class.relkind IN ('r', 'p', 'v', 'm', 'f') AND namespace.nspname NOT LIKE 'pg\\_%%'
      AND namespace.nspname <> 'information_schema' AND NOT class.relispartition
      AND CASE WHEN %(schema)s::text IS NULL THEN true ELSE namespace.nspname = %(schema)s END
      AND (class.relname = %(name)s OR %(name)s::text IS NULL)
      AND NOT EXISTS (SELECT FROM pg_attribute AS ours WHERE ours.attrelid = class.oid
                      AND ours.attname IN ('audit_seq', 'email_key') AND NOT ours.attisdropped)
    ORDER BY 1, 2
"""
# A domain has the category of its base type.
_COLUMNS = """
    SELECT attname::text, format_type(atttypid, atttypmod), type.typcategory::text,
           format_type(coalesce(nullif(type.typbasetype, 0), type.oid), NULL)
    FROM pg_attribute JOIN pg_type AS type ON type.oid = atttypid
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
    ORDER BY attnum
"""
_LOOKS_LIKE_A_DATE = sql.SQL(
    r"bool_and({column}::text ~ '^\s*(\d\d\d\d-\d\d?-\d\d?|\d\d?[./]\d\d?[./]\d\d\d?\d?)([T ].*)?$')"
    " FILTER (WHERE {column}::text <> '')"
)
_LOOKS_LIKE_A_FLAG = sql.SQL(
    "bool_and(lower(trim({column}::text)) IN ('0', '1', 't', 'f', 'true', 'false', 'y', 'n', 'yes', 'no',"
    " 'on', 'off')) FILTER (WHERE {column}::text <> '')"
)
_NEVER = sql.SQL("false")
_TEXTS, _NUMBERS, _BITS = "S", "N", "V"
_SEVERAL, _DATES = ("A", "R"), ("date", "timestamp", "tsrange", "tstz", "tsmulti")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceTable:
    """A table of the source: schema and name, its number of rows, and its columns in their order."""

    schema: str
    name: str
    rows: int
    columns: Sequence[Column]

    @property
    def identifier(self) -> sql.Identifier:
        """The table's name as SQL."""
        return sql.Identifier(self.schema, self.name)


def table(link: Link, role: str, *, schema: str | None, name: str | None) -> SourceTable:
    """Survey the table of events or of registrations; without a name, the one with a known name.

    AdmitOne's own tables are never taken for the source's. Raises `AdoptionError` if there is no such table,
    or if there are several, in one schema or in others: their registrations would be taken for each other's.
    """
    found = link.execute(_TABLES, {"schema": schema, "name": name}).fetchall()
    if name is None:
        found = [row for row in found if normal(str(row[1])) in TABLES[role]]
    visible = [row for row in found if row[2]] or found
    if not visible:
        asked = f'"{name or role.capitalize()}"'
        where = f'"{schema}".{asked}' if schema else asked
        raise AdoptionError(
            f"the source has no table {where}; if it has another name, write [{role}] and "
            'table = "its name" into a file, and give that as --mapping'
        )
    if len(visible) > 1:
        names = ", ".join(f'"{row[0]}"."{row[1]}"' for row in visible)
        raise AdoptionError(
            f"the source has several tables of {role}s: {names}; write [{role}] with schema and table into a "
            "file, and give that as --mapping"
        )
    return _survey(link, *visible[0][:2])


def statuses(link: Link, source_table: SourceTable, column: str) -> list[tuple[str, int]]:
    """Return the values of a column of statuses, the first `STATUSES_MAX`, each with its number of rows.

    A null is an empty text.
    """
    query = sql.SQL(
        "SELECT coalesce({column}::text, '') COLLATE \"C\", count(*) FROM {table} GROUP BY 1"
        " ORDER BY 1 LIMIT {limit}"
    )
    parts = {"column": sql.Identifier(column), "table": source_table.identifier, "limit": STATUSES_MAX}
    return [(value, count) for value, count in link.execute(query.format(**parts))]


def _survey(link: Link, schema: str, name: str) -> SourceTable:
    identifier = sql.Identifier(schema, name)
    described = link.execute(_COLUMNS, [identifier.as_string(link)]).fetchall()
    counts: list[sql.Composable] = [sql.SQL("count(*)")]
    for column, _, category, base in described:
        named = sql.Identifier(column)
        textual, small = category in (_TEXTS, _BITS), category == _NUMBERS and base != "money"
        counts.append(sql.SQL("count({})").format(named))
        counts.append(_LOOKS_LIKE_A_DATE.format(column=named) if textual else _NEVER)
        counts.append(_LOOKS_LIKE_A_FLAG.format(column=named) if textual or small else _NEVER)
    query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(counts), identifier)
    rows, *facts = link.execute(query).fetchone() or [0]
    columns = [
        Column(
            name=column,
            type=shown,
            kind=_kind(column, category, base, dates=bool(facts[i + 1]), flags=bool(facts[i + 2])),
            category=category,
            filled=facts[i],
        )
        for i, (column, shown, category, base) in zip(range(0, len(facts), 3), described, strict=True)
    ]
    return SourceTable(schema=schema, name=name, rows=rows, columns=columns)


def _kind(name: str, category: str, base: str, *, dates: bool, flags: bool) -> str:
    """Return the kind of a column: a text or number that only holds dates or flags counts as such."""
    if category == "D":
        return "other" if base.startswith("time ") else "time"
    if category in _SEVERAL and base.startswith(_DATES):
        return "time"
    if category in ("B", "E"):
        return "flag"
    if category == _NUMBERS:
        said = normal(name).startswith(("is", "has", "allow", "enable", "can", "should"))
        return "flag" if flags and (said or base == "smallint") else "number"
    if category not in (_TEXTS, _BITS):
        return "other"
    return "time" if dates else "flag" if flags else "text"
