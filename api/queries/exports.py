"""Exports of an event's registrations, as PostgreSQL's COPY gives them from one snapshot."""

import asyncio
from collections.abc import AsyncGenerator
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

import psycopg
from psycopg import sql
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.edge.problems import ProblemType

SECONDS_MAX = 600
_AT_ONCE_MAX = 2
_RETRY = {"retry-after": "10"}
_CHUNK_BYTES = 32_768

_RFC_3339 = """to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_CREATED_AT, _UPDATED_AT = _RFC_3339.format("created_at"), _RFC_3339.format("updated_at")

# A spreadsheet takes a cell for a formula by its first sign, behind blanks of any kind. A spreadsheet that
# expects another separator cuts a cell in two, and the second half may be a formula as well.
_BLANK = r"[\u0001-\u0020\u007f-\u00a0\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u2064\u3000\ufeff]"
_SIGN = r"[=+@\u2212\ufe62\ufe63\ufe66\ufe6b\uff0b\uff0d\uff1d\uff20-]"
_FORMULA = rf"(^|[,;\t\r\n])(?=[\t\r\n]|{_BLANK}*{_SIGN})"
# It takes a cell of digits for a number or a date: 007 would become 7, 1E5 100000, and 1/2 a day.
_NUMBER = r"^(?=[^[:alpha:]]*[0-9][^[:alpha:]]*([eE][+-]?[0-9]+)?$)"
_CELL = rf"regexp_replace({{0}}, '{_FORMULA}|{_NUMBER}', '\1''', 'g') AS {{0}}"
_REGISTRATIONS = """
    (SELECT id, seq, CASE WHEN {personal} THEN name END AS name, CASE WHEN {personal} THEN email END AS email,
            spots_count, status, created_at, updated_at
     FROM registration WHERE event_id = {event_id}) AS registration
"""
_CSV = f"""
    COPY (SELECT id, seq, {_CELL.format("name")}, {_CELL.format("email")}, spots_count AS "spotsCount",
                 status, {_CREATED_AT} AS "createdAt", {_UPDATED_AT} AS "updatedAt"
          FROM {_REGISTRATIONS} ORDER BY seq)
    TO STDOUT WITH (FORMAT csv, HEADER, FORCE_QUOTE (name, email), DELIMITER {{separator}})
"""
# JSON holds no raw control characters, so quoting by one of them leaves every line as it is. Readers that
# take other characters for the end of a line as well get these as escapes.
_NDJSON = rf"""
    COPY (SELECT replace(replace(replace(json_build_object(
                     'id', id, 'seq', seq, 'name', name, 'email', email, 'spotsCount', spots_count,
                     'status', status, 'createdAt', {_CREATED_AT}, 'updatedAt', {_UPDATED_AT}
                 )::text, U&'\0085', '\u0085'), U&'\2028', '\u2028'), U&'\2029', '\u2029')
          FROM {_REGISTRATIONS} ORDER BY seq)
    TO STDOUT WITH (FORMAT csv, QUOTE E'\x01', DELIMITER {{separator}})
"""


class Separator(StrEnum):
    """The character between the cells of a CSV file: a spreadsheet expects the one of its language."""

    COMMA = "comma"
    SEMICOLON = "semicolon"


class ExportFormat(NamedTuple):
    """The statement of an export, its media type, its beginning and the end of each of its lines."""

    statement: str
    media_type: str
    separator: str
    begin: str
    line_end: bytes


NDJSON = ExportFormat(_NDJSON, "application/x-ndjson", "\x02", "", b"\n")
CSV = {
    separator: ExportFormat(
        _CSV, "text/csv; charset=utf-8", character, "\N{ZERO WIDTH NO-BREAK SPACE}", b"\r\n"
    )
    for separator, character in ((Separator.COMMA, ","), (Separator.SEMICOLON, ";"))
}
"""CSV as spreadsheets open it: a byte order mark, since they guess the encoding, and lines by RFC 4180."""


class Exports:
    """Runs exports in places of their own, so many at once that other reads of admins have a place too."""

    def __init__(self, engine: AsyncEngine, connections_max: int) -> None:
        self._engine = engine
        self._places = asyncio.Semaphore(max(1, min(_AT_ONCE_MAX, connections_max - 1)))

    async def begin(
        self, export_format: ExportFormat, event_id: UUID, *, personal: bool
    ) -> tuple[bytes, AsyncGenerator[bytes, None]]:
        """Return the first chunk of an export and the generator of the others, which holds its place.

        Names and email addresses are empty unless `personal`.

        Raises a problem if all places are taken or the database does not answer.
        """
        if self._places.locked():
            raise ProblemType.EXPORT_BUSY.error(headers=_RETRY)
        chunks = self._chunks(export_format, event_id, personal=personal)
        try:
            return await anext(chunks), chunks
        except PoolTimeoutError as error:
            raise ProblemType.EXPORT_BUSY.error(headers=_RETRY) from error
        except psycopg.OperationalError as error:
            raise ProblemType.LEDGER_UNAVAILABLE.error() from error

    async def _chunks(
        self, export_format: ExportFormat, event_id: UUID, *, personal: bool
    ) -> AsyncGenerator[bytes, None]:
        """Yield the export in chunks; close the generator early to end the statement and free its place."""
        statement = sql.SQL(export_format.statement).format(
            event_id=sql.Literal(event_id),
            personal=sql.Literal(personal),
            separator=sql.Literal(export_format.separator),
        )
        async with self._places, self._engine.connect() as connection:
            try:
                await connection.execution_options(isolation_level="READ COMMITTED")
                driver = (await connection.get_raw_connection()).driver_connection
                assert isinstance(driver, psycopg.AsyncConnection), "the engine's driver is psycopg"
                async with driver.cursor() as cursor:
                    await cursor.execute(f"SET LOCAL statement_timeout = '{SECONDS_MAX}s'")
                    chunk = bytearray(export_format.begin.encode())
                    async with cursor.copy(statement) as copy:
                        async for line in copy:  # libpq gives whole lines
                            chunk += line[:-1]
                            chunk += export_format.line_end
                            if len(chunk) >= _CHUNK_BYTES:
                                yield bytes(chunk)
                                chunk.clear()
                                await asyncio.sleep(0)  # a row that is there already suspends nothing
                    yield bytes(chunk)
            except BaseException:
                await connection.invalidate()  # closed: a connection in the middle of a statement is no use
                raise
