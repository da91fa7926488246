"""Organisers and their API keys in the database.

1. A key is stored as its digest. The key itself is returned once, by `create`.
2. Two keys of one name may be valid at once, so that one can replace the other without a pause.
3. A name belongs either to the service or to organisers: an event's audit trail can have keys of both.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from shared.domain import access, ids
from shared.domain.access import Principal, Scope
from shared.errors import ExpectedError
from shared.postgres import arrays, locks

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

KEYS_MAX = 100
"""An organiser, and the service itself, has at most so many keys, the ended ones included until tidied."""
_VALID_OF_ONE_NAME_MAX = 2

_VALID = "revoked_at IS NULL AND expires_at > now()"
_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")
_COUNTS = text(f"""
    SELECT count(*) FILTER (WHERE own) AS keys,
           count(*) FILTER (WHERE own AND same_name AND {_VALID}) AS valid_of_the_name,
           count(*) FILTER (
               WHERE same_name AND (organiser_id IS NULL) <> (CAST(:organiser_id AS uuid) IS NULL)
           ) AS of_the_other_side
    FROM (SELECT organiser_id IS NOT DISTINCT FROM CAST(:organiser_id AS uuid) AS own,
                 lower(name) = lower(:name) AS same_name, organiser_id, revoked_at, expires_at
          FROM api_key) AS key
""")
_COLUMNS = """
    SELECT key.prefix, key.name, organiser.name AS organiser, key.scopes, key.created_by, key.created_at,
           key.expires_at, key.revoked_at
"""
_JOINED = "LEFT JOIN organiser ON organiser.id = key.organiser_id"
_OF = "(CAST(:organiser_id AS uuid) IS NULL OR key.organiser_id = :organiser_id)"
_LIST = text(f"""
    {_COLUMNS} FROM api_key AS key {_JOINED}
    WHERE {_OF} AND key.prefix > :after
    ORDER BY key.prefix LIMIT :limit
""")
_INSERT = text(f"""
    WITH key AS (
        INSERT INTO api_key (prefix, digest, name, organiser_id, scopes, created_by, expires_at)
        VALUES (:prefix, :digest, :name, :organiser_id, :scopes, :created_by,
                now() + make_interval(days => :days))
        RETURNING *
    )
    {_COLUMNS} FROM key {_JOINED}
""")
_REVOKE = text(f"""
    WITH key AS (
        UPDATE api_key AS key SET revoked_at = coalesce(revoked_at, now())
        WHERE prefix = :prefix AND {_OF}
        RETURNING *
    )
    {_COLUMNS} FROM key {_JOINED}
""")
_PRINCIPALS = text(f"""
    SELECT digest, name, organiser_id, scopes FROM api_key
    WHERE digest = ANY(CAST(:digests AS bytea[])) AND {_VALID}
""")
_ORGANISER = text("SELECT id FROM organiser WHERE name = :name")
_NEW_ORGANISER = text("INSERT INTO organiser (id, name) VALUES (:id, :name) ON CONFLICT (name) DO NOTHING")


class KeyRefused(ExpectedError):  # noqa: N818 - reads as the sentence "raise KeyRefused"
    """A key cannot be made; the message says why."""

    exit_status = 1


def organiser(connection: Connection, name: str) -> UUID:
    """Return the id of the organiser of this name, which is made if there is none."""
    connection.execute(_NEW_ORGANISER, {"id": ids.new_id(), "name": name})
    id_: UUID = connection.execute(_ORGANISER, {"name": name}).scalar_one()
    return id_


def create(
    connection: Connection, principal: Principal, *, organiser_name: str | None, days: int, created_by: str
) -> tuple[str, RowMapping]:
    """Add a key for this principal, valid for so many days; return it with what may be shown.

    `organiser_name` names the key's organiser in place of the principal's. The key is valid from the commit.
    Raises `KeyRefused`.
    """
    connection.execute(_LOCK, {"lock": locks.API_KEYS})
    organiser_id = principal.organiser_id if organiser_name is None else organiser(connection, organiser_name)
    names = {"name": principal.name, "organiser_id": organiser_id}
    found = connection.execute(_COUNTS, names).one()
    if principal.name.lower() in access.RESERVED_NAMES or found.of_the_other_side:
        raise KeyRefused(f"The name {principal.name!r} is taken; choose another.")
    if found.valid_of_the_name >= _VALID_OF_ONE_NAME_MAX:
        raise KeyRefused(f"Two keys {principal.name!r} are valid; revoke one of them first.")
    if found.keys >= KEYS_MAX:
        raise KeyRefused(f"There are {KEYS_MAX} keys; ended ones are deleted by the nightly job.")
    key = access.new_key()
    values = {"prefix": access.prefix(key), "digest": access.digest(key), "scopes": sorted(principal.scopes)}
    row = connection.execute(_INSERT, {**names, **values, "days": days, "created_by": created_by})
    return key, row.mappings().one()


def stored(
    connection: Connection, organiser_id: UUID | None = None, *, after: str = "", limit: int
) -> Sequence[RowMapping]:
    """Return keys by prefix: those of the organiser, or all if it is None."""
    parameters = {"organiser_id": organiser_id, "after": after, "limit": limit}
    return connection.execute(_LIST, parameters).mappings().all()


def revoke(connection: Connection, prefix: str, organiser_id: UUID | None = None) -> RowMapping | None:
    """Revoke a key of the organiser, or of any if it is None; None if there is no such key."""
    found = connection.execute(_REVOKE, {"prefix": prefix, "organiser_id": organiser_id})
    return found.mappings().one_or_none()


async def principals(connection: "AsyncConnection", digests: Sequence[bytes]) -> list[Principal | None]:
    """Return the principal of the valid key with each digest, None where there is none."""
    rows = await connection.execute(_PRINCIPALS, {"digests": arrays.digests(set(digests))})
    found = {bytes(row.digest): _principal(row.name, row.organiser_id, row.scopes) for row in rows}
    return [found.get(digest) for digest in digests]


def _principal(name: str, organiser_id: UUID | None, scopes: Collection[str]) -> Principal:
    known = frozenset(scope for scope in Scope if scope in scopes)  # a later version may have more
    return Principal(name=name, organiser_id=organiser_id, scopes=known)
