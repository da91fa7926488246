"""The mapping of a source: what each of its columns and statuses means, guessed, printed, edited, read.

A mapping file is TOML and may be partial: what it does not say is guessed by name (`meanings`).
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from ops.adoption import links
from ops.adoption.links import AdoptionError, Link
from ops.adoption.report import Code, Problem, ReportedColumn
from ops.adoption.sources import meanings, survey
from ops.adoption.sources.meanings import IGNORED, KNOWN, MANY, NOT_UNDERSTOOD, REQUIRED
from ops.adoption.sources.survey import SourceTable
from shared.domain.commands import SPOTS_MAX


class _TableFile(msgspec.Struct, forbid_unknown_fields=True):
    table: str | None = None
    schema: str | None = None
    columns: dict[str, str] = {}
    statuses: dict[str, str] = {}


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """A mapping as it is written."""

    time_zone: str | None = None
    zero_capacity: Literal["ask", "unlimited", "waitlist"] = "ask"
    no_capacity: Literal["ask", "unlimited"] = "ask"
    spots_each: Annotated[int, msgspec.Meta(ge=1, le=SPOTS_MAX)] | None = None
    event: _TableFile = msgspec.field(default_factory=_TableFile)
    registration: _TableFile = msgspec.field(default_factory=_TableFile)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableMapping:
    """A table of the source: the meaning of every column and of every status."""

    role: str
    source_table: SourceTable
    columns: Mapping[str, str]
    statuses: Mapping[str, str]
    status_counts: Mapping[str, int]

    def of(self, meaning: str) -> list[str]:
        """Return the columns with this meaning, in the order of the mapping."""
        return [name for name, meant in self.columns.items() if meant == meaning]

    def status(self, value: str | None) -> str:
        """Return the meaning of a status, of which null is an empty text; `NOT_UNDERSTOOD` without one."""
        return self.statuses.get(value or "") or meanings.status(self.role, value or "")

    @property
    def unclear_columns(self) -> list[str]:
        """The date and flag columns that are not understood."""
        return [
            column.name
            for column in self.source_table.columns
            if column.may_close and self.columns[column.name] == NOT_UNDERSTOOD
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceMapping:
    """The meaning of a source's two tables, its capacities and its times.

    `unsaid_zone` is the time zone of the source's database if it is not UTC, and if no mapping file gives a
    zone for the times without one.
    """

    event: TableMapping
    registration: TableMapping
    zone: ZoneInfo
    unsaid_zone: str | None
    zero_capacity: str
    no_capacity: str
    spots_each: int | None

    def problems(self) -> list[Problem]:
        """Return the problem of times without a zone that may be in the database's own, not in UTC."""
        if self.unsaid_zone is None or not any(
            column.honoured and column.rows_with_value and column.type.endswith("without time zone")
            for column in self.reported()
        ):
            return []
        detail = (
            f"times without a zone are taken as UTC, and the source's database is in {self.unsaid_zone}; "
            "say in a mapping what they are (time_zone)"
        )
        return [Problem(code=Code.TIME_ZONE_ASSUMED, event_id=None, detail=detail)]

    def reported(self) -> list[ReportedColumn]:
        """Return every column of both tables, as the report lists it."""
        return [
            ReportedColumn(
                table=table.source_table.name,
                column=column.name,
                type=column.type,
                meaning=table.columns[column.name],
                honoured=table.columns[column.name] not in (IGNORED, NOT_UNDERSTOOD),
                rows_with_value=column.filled,
                rows=table.source_table.rows,
            )
            for table in (self.event, self.registration)
            for column in table.source_table.columns
        ]


def of(link: Link, schema: str | None, file: Path | None) -> SourceMapping:
    """Return the mapping of a source: the file's, with guesses for what the file does not say.

    Raises `AdoptionError` if the file is no mapping of this source.
    """
    written = _read(file)
    own_zone = links.own_zone(link)
    try:
        zone = ZoneInfo("UTC" if written.time_zone is None else written.time_zone)
    except (KeyError, ValueError, OSError) as error:
        raise AdoptionError(f"the mapping's time_zone {written.time_zone!r} is unknown") from error
    return SourceMapping(
        event=_table(link, "event", schema, written.event),
        registration=_table(link, "registration", schema, written.registration),
        zone=zone,
        unsaid_zone=own_zone if written.time_zone is None else None,
        zero_capacity=written.zero_capacity,
        no_capacity=written.no_capacity,
        spots_each=written.spots_each,
    )


def check(mapping: SourceMapping) -> None:
    """Raise `AdoptionError` if a column is missing that an adoption cannot do without."""
    for role, table in (("event", mapping.event), ("registration", mapping.registration)):
        missing = [
            f'"{meaning}"'
            for meaning in REQUIRED[role]
            if not table.of(meaning) and (meaning != "spotsCount" or mapping.spots_each is None)
        ]
        if missing:
            raise AdoptionError(
                f'the source\'s table "{table.source_table.name}" has no column {", ".join(missing)}; '
                "if another column means that, say so in a mapping (--print-mapping, --mapping)"
            )


def printed(mapping: SourceMapping) -> str:
    """Return the mapping as a file that can be edited and given back."""
    own_zone = f"; the database's own is {mapping.unsaid_zone}" if mapping.unsaid_zone else ""
    lines = [
        "# The meaning of each column of the source. Edit this file, and give it back as --mapping FILE.",
        f'time_zone = "{mapping.zone.key}"    # of times without a zone{own_zone}',
        f'zero_capacity = "{mapping.zero_capacity}"    # "unlimited" or "waitlist"; "ask" leaves events out',
        f'no_capacity = "{mapping.no_capacity}"    # null or negative: "unlimited"; "ask" leaves events out',
        f"spots_each = {mapping.spots_each}"
        if mapping.spots_each
        else "# spots_each = 1    # without a column",
        *_printed_table("event", mapping.event),
        *_printed_table("registration", mapping.registration),
    ]
    return "\n".join(lines) + "\n"


def _read(file: Path | None) -> _File:
    if file is None:
        return _File()
    try:
        return msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8-sig")), _File)
    except (OSError, UnicodeDecodeError) as error:
        raise AdoptionError(f"the mapping {file} cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise AdoptionError(f"the mapping {file} is not valid: {error}") from error


def _table(link: Link, role: str, schema: str | None, written: _TableFile) -> TableMapping:
    source_table = survey.table(link, role, schema=written.schema or schema, name=written.table)
    guessed = meanings.guess(role, source_table.columns)
    _check_columns(role, guessed, written.columns)
    # A meaning that the file gives to a column is no longer guessed for another one.
    given = set(written.columns.values()) - MANY - {IGNORED, NOT_UNDERSTOOD}
    columns = written.columns | {
        name: NOT_UNDERSTOOD if meaning in given else meaning
        for name, meaning in guessed.items()
        if name not in written.columns
    }
    counts = {
        value: count
        for name, meaning in columns.items()
        if meaning == "status"
        for value, count in survey.statuses(link, source_table, name)
    }
    statuses = {value: meanings.status(role, value) for value in counts} | written.statuses
    _check_meanings("status", written.statuses, [*meanings.STATUSES[role], NOT_UNDERSTOOD])
    return TableMapping(
        role=role, source_table=source_table, columns=columns, statuses=statuses, status_counts=counts
    )


def _check_columns(role: str, guessed: Mapping[str, str], written: Mapping[str, str]) -> None:
    for name in written:
        if name not in guessed:
            raise AdoptionError(f"the mapping names a column {name!r}, which the table of {role}s has not")
    _check_meanings("column", written, sorted({*KNOWN[role], IGNORED, NOT_UNDERSTOOD}))
    many = MANY if role == "registration" else MANY - {"name"}
    for meaning in set(written.values()) - many - {IGNORED, NOT_UNDERSTOOD}:
        if list(written.values()).count(meaning) > 1:
            raise AdoptionError(f"the mapping gives the meaning {meaning!r} to more than one column")


def _check_meanings(kind: str, written: Mapping[str, str], allowed: Sequence[str]) -> None:
    for name, meaning in written.items():
        if meaning not in allowed:
            known = ", ".join(allowed)
            raise AdoptionError(f"the mapping says {meaning!r} of the {kind} {name!r}; it may say {known}")


def _printed_table(role: str, table: TableMapping) -> Iterator[str]:
    source_table = table.source_table
    yield f"\n[{role}]\nschema = {_quoted(source_table.schema)}\ntable = {_quoted(source_table.name)}"
    yield f"\n[{role}.columns]    # one of: {', '.join(KNOWN[role])}, {NOT_UNDERSTOOD}"
    missing = [meaning for meaning in REQUIRED[role] if not table.of(meaning)]
    if missing:
        yield f"# still to be named: {', '.join(missing)}"
    columns: dict[str, Any] = {column.name: column for column in source_table.columns}
    for name, meaning in table.columns.items():
        column = columns[name]
        closes = (
            "; closes every event with a value" if role == "event" and name in table.unclear_columns else ""
        )
        yield (
            f"{_quoted(name)} = {_quoted(meaning)}    "
            f"# {column.type}, a value in {column.filled} of {source_table.rows} rows{closes}"
        )
    allowed = ", ".join([*meanings.STATUSES[role], NOT_UNDERSTOOD])
    yield f"\n[{role}.statuses]    # one of: {allowed}"
    for value, meaning in table.statuses.items():
        count = table.status_counts.get(value, 0)
        yield f"{_quoted(value)} = {_quoted(meaning)}    # {count} rows"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
