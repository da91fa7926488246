"""Opens the two databases of an adoption: the source and the target."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import IsolationLevel
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from shared import urls
from shared.errors import ExpectedError
from shared.postgres import connections, session_settings

Link = psycopg.Connection[tuple[Any, ...]]

_APPLICATION = "admitone-adoption"
_CONNECT_SECONDS_MAX = 5
LOCK_SECONDS_MAX = 10
_DRIVERS = {"postgres", "postgresql", "postgresql+psycopg"}
# Parameters of a URL that Prisma reads and libpq refuses.
_PRISMA_PARAMETERS = {
    "connection_limit",
    "pgbouncer",
    "pool_timeout",
    "schema",
    "socket_timeout",
    "sslidentity",
    "statement_cache_size",
}


class AdoptionError(ExpectedError):
    """The adoption cannot be done as asked, or cannot go on; the message is one line that says why."""


_OWN_ZONE = """
    SELECT CASE WHEN bool_or(at AT TIME ZONE current_setting('TimeZone') <> at AT TIME ZONE 'UTC')
                THEN current_setting('TimeZone') END
    FROM (VALUES (timestamptz '2026-01-01Z'), ('2026-07-01Z')) AS moment (at)
"""


def source(url: str) -> tuple[Link, str | None]:
    """Open the source, and return it with the schema that its URL names, if any.

    Every transaction sees one snapshot and can write nothing.
    """
    parsed = _parse(url)
    schema = parsed.query.get("schema")
    if isinstance(schema, tuple):
        raise AdoptionError("the source's URL names more than one schema")
    address = parsed.difference_update_query(_PRISMA_PARAMETERS)
    if address.query.get("sslaccept") == "accept_invalid_certs":  # libpq verifies none by itself
        address = address.difference_update_query(["sslaccept"])
    try:
        urls.check_host(address.host)
        urls.check_database_tls(address.query)
    except ValueError as error:
        raise AdoptionError(f"the source's URL {error}") from error
    options = f"{session_settings.READING['options']} {parsed.query.get('options', '')}"
    link = _connect(address, "source", **{**session_settings.READING, "options": options})
    link.isolation_level = IsolationLevel.REPEATABLE_READ
    link.read_only = True
    return link, schema or None


def own_zone(source_link: Link) -> str | None:
    """Return the time zone of the source's database, None for UTC; the session is in UTC from now on."""
    zone: str | None = value(source_link.execute(_OWN_ZONE))
    source_link.execute("SET timezone = 'UTC'")
    return zone


def target(url: str) -> Link:
    """Open the target, which must take writes; a statement waits at most `LOCK_SECONDS_MAX` for a lock."""
    arguments = {**session_settings.ARGUMENTS, "target_session_attrs": "read-write"}
    link = _connect(_parse(url), "target", **arguments)
    link.execute(f"SET lock_timeout = '{LOCK_SECONDS_MAX}s'")
    return link


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn a database's errors into an `AdoptionError` of one line."""
    try:
        yield
    except psycopg.Error as error:
        raise AdoptionError(f"a database refused: {first_line(error)}") from error


def value(cursor: psycopg.Cursor[tuple[Any, ...]]) -> Any:  # noqa: ANN401 - of any type
    """Return the only value of a statement."""
    row = cursor.fetchone()
    assert row is not None, "a SELECT without FROM, or of an aggregate, has a row"
    return row[0]


def first_line(error: psycopg.Error) -> str:
    """Return the error's message without its context, which may quote a row."""
    text = error.diag.message_primary or str(error) or type(error).__name__
    return text.strip().splitlines()[0]


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise AdoptionError(
            "the source is not a database URL, such as postgresql://user:password@host/name"
        ) from error
    if parsed.drivername not in _DRIVERS:
        raise AdoptionError(f"the source must be a postgresql:// URL, not {parsed.drivername}://")
    return parsed.set(drivername="postgresql")


def _connect(url: URL, role: str, **arguments: str) -> Link:
    address = urls.libpq_arguments(url.render_as_string(hide_password=False))
    arguments |= {"application_name": _APPLICATION}
    try:
        return psycopg.connect(**address | arguments, autocommit=True, connect_timeout=_CONNECT_SECONDS_MAX)
    except psycopg.Error as error:
        if connections.is_read_only(error):
            raise AdoptionError(
                f"the {role} takes no writes: it is a standby, or its database is read-only "
                "(default_transaction_read_only), which AdmitOne does not override"
            ) from error
        raise AdoptionError(f"the {role} cannot be opened: {first_line(error)}") from error
