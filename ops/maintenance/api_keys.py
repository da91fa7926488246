"""Organisers and API keys, for operators: create, list and revoke keys, and give events to an organiser."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from sqlalchemy import Connection, text

from shared.domain.access import Principal
from shared.errors import ExpectedError
from shared.postgres import connections, durability, keys

CREATED_BY = "operator"
_LISTED_MAX = 1_000_000
_ASSIGN = text("""
    UPDATE event SET organiser_id = :organiser_id
    WHERE slug = ANY(:names) OR id::text = ANY(:names) RETURNING slug, id::text AS id
""")

Key = Mapping[str, Any]
"""An API key as it may be shown."""


class KeysError(ExpectedError):
    """An API key or an event is not there; the message names it."""

    exit_status = 1


def create(database_url: str, principal: Principal, *, organiser: str | None, days: int) -> tuple[str, Key]:
    """Make an API key for this principal and return it, with what may be shown; raises `KeyRefused`."""
    with _writing(database_url) as connection:
        key, stored = keys.create(
            connection, principal, organiser_name=organiser, days=days, created_by=CREATED_BY
        )
        return key, _plain(stored)


def listed(database_url: str) -> list[Key]:
    """Return all API keys by prefix, the ended ones included."""
    with connections.operator_engine(database_url).connect() as connection:
        return [_plain(key) for key in keys.stored(connection, limit=_LISTED_MAX)]


def revoke(database_url: str, prefix: str) -> Key:
    """Revoke an API key; raises `KeysError` if there is none with this prefix."""
    with _writing(database_url) as connection:
        revoked = keys.revoke(connection, prefix)
    if revoked is None:
        raise KeysError(f"there is no API key {prefix}")
    return _plain(revoked)


def assign(database_url: str, organiser: str, names: Sequence[str]) -> list[str]:
    """Give events, by slug or id, to an organiser; return their slugs. All or none, else `KeysError`."""
    with _writing(database_url) as connection:
        values = {"organiser_id": keys.organiser(connection, organiser), "names": list(names)}
        rows = connection.execute(_ASSIGN, values).all()
        unknown = set(names) - {row.slug for row in rows} - {row.id for row in rows}
        if unknown:
            raise KeysError(f"there is no event {', '.join(sorted(unknown))}; no event was given away")
        return sorted(row.slug for row in rows)


@contextmanager
def _writing(database_url: str) -> Iterator[Connection]:
    """Commit what the block writes; raises `KeysError` if the wait for a synchronous standby is cut off."""
    with connections.operator_engine(database_url, writes=True).connect() as connection:
        session = connection.connection.driver_connection
        assert isinstance(session, psycopg.Connection), "the driver is psycopg"
        cut_off = durability.watch_commits(session)
        with connection.begin():
            yield connection
        if cut_off:
            raise KeysError("the change may not be on the synchronous standby: look, and make it again")


def show(stored: Sequence[Key]) -> None:
    """Print API keys for people."""
    names = "prefix", "name", "organiser", "scopes", "made by", "ends"
    whole = {"prefix", "scopes", "ends"}  # in a narrow terminal, too
    columns = (Column(name, no_wrap=name in whole, overflow="fold") for name in names)
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for key in stored:
        organiser = "all (a key of the service)" if key["organiser"] is None else escape(key["organiser"])
        ends = f"revoked\n{key['revoked_at'][:10]}" if key["revoked_at"] else key["expires_at"][:10]
        table.add_row(
            key["prefix"], key["name"], organiser, "\n".join(key["scopes"]), key["created_by"], ends
        )
    Console().print(table if stored else "There are no API keys.")


def _plain(row: Mapping[Any, Any]) -> Key:
    """Return a key with its times as text."""
    moments = ("created_at", "expires_at", "revoked_at")
    return {**row, **{name: row[name] and row[name].isoformat() for name in moments}}
