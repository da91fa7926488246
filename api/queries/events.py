"""The API's reads of events, registrations and the audit trail; no statement here changes a row."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.domain import audit, ids
from shared.domain.event import EventSettings
from shared.postgres import arrays, tables

_EVENT_COLUMNS = """
    id, slug, title, capacity, spots_reserved, greatest(capacity - spots_reserved, 0) AS spots_left,
    overbooked_spots, waitlist_length, waitlist_enabled, waitlist_limit, promotion_policy, auto_promote,
    max_spots_per_registration, opens_at, closes_at, promote_until, cancel_until, paused, archived, deleted,
    organiser_id,
    follow_up_id IS NOT NULL AND (
        SELECT command_id FROM outcome WHERE event_id = event.id AND command_id = event.follow_up_id
    ) IS NULL AS promoting,
    created_at, updated_at, now() AS now
"""

BEFORE_ALL = "-infinity", UUID(int=0)

_EVENT_SLUG = text("SELECT slug FROM event WHERE id = :id AND (NOT deleted OR :deleted)")
# Fences (decision 0014): OFFSET 0, and below an order that only the primary key has.
_EVENT_IDS = text("""
    SELECT slug, id
    FROM (SELECT slug, id, deleted FROM event WHERE slug = ANY(CAST(:slugs AS text[])) OFFSET 0) AS event
    WHERE NOT deleted
""")
_EVENT_BY_ID = text(f"""
    SELECT {_EVENT_COLUMNS} FROM (SELECT * FROM event WHERE id = :id OFFSET 0) AS event WHERE NOT deleted
""")
_SLUG_IS_HELD = text("""
    SELECT EXISTS (SELECT FROM event WHERE :slug = ANY(former_slugs)
                   AND slug_released_at > now() - make_interval(secs => :held_seconds))
""")
_IS_OWNED = text("""
    SELECT FROM (SELECT organiser_id FROM event WHERE id = :id OFFSET 0) AS event
    WHERE organiser_id = :organiser_id
""")
_EVENTS = f"""
    SELECT {_EVENT_COLUMNS} FROM event
    WHERE archived = :archived AND NOT deleted
      AND (created_at, id) > (CAST(:created_at AS timestamptz), CAST(:id AS uuid))
      AND (CAST(:slug AS text) IS NULL OR slug = :slug) {{of}}
    ORDER BY created_at, id LIMIT :limit
"""
_EVENTS_OF_ALL = text(_EVENTS.format(of=""))
_EVENTS_OF_ONE = text(_EVENTS.format(of="AND organiser_id = :organiser_id"))

_POSITION = """
    CASE WHEN registration.status = 'WAITLIST' THEN
        (SELECT count(*) FROM registration AS waiting
         WHERE waiting.event_id = registration.event_id AND waiting.status = 'WAITLIST'
           AND waiting.seq <= registration.seq)
    END AS waitlist_position
"""

_REGISTRATION = text(f"""
    SELECT id, seq, name, email, spots_count, status, created_at, updated_at, {_POSITION}
    FROM (SELECT * FROM registration WHERE event_id = :event_id AND id >= :id ORDER BY id LIMIT 1)
         AS registration
    WHERE id = :id AND NOT (SELECT deleted FROM event WHERE event.id = :event_id)
""")

# The index finds the words that begin as those of `q` do; the condition on the text finds `q` as a whole. A
# search without a letter or a digit reads all registrations of the event.
_FOUND_BY_WORDS = """(
    SELECT * FROM registration WHERE search_words(event_id, name, email) @@ (
        SELECT string_agg(quote_literal(word) || ':*', ' & ')::tsquery
        FROM unnest(tsvector_to_array(search_words(:event_id, :q, ''))) AS word
        WHERE length(word) > 8
    ) OFFSET 0
)"""
_BLANKS = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_HYPHENS, _APOSTROPHES = "\u2010\u2011\u2013", "\u2018\u2019"
_AS_TYPED = " " * len(_BLANKS) + "-" * len(_HYPHENS) + "''" * len(_APOSTROPHES)


def _plain(sql: str) -> str:
    """Return SQL that folds a text, with blanks, hyphens and apostrophes as keyboards have them.

    The index finds the same rows with either: it has the words between these signs.
    """
    typed = f"translate(folded({sql}), '{_BLANKS}{_HYPHENS}{_APOSTROPHES}', '{_AS_TYPED}')"
    return f"regexp_replace({typed} COLLATE \"C\", '  +', ' ', 'g')"


_TEXT = "name || ' ' || coalesce(email, '')"
_HAS_TEXT = f"AND strpos({_plain(_TEXT)}, {_plain(':q')}) > 0"

# Positions are counted once up to the page's first waiting registration and then along the page. Fences: rows
# with the words are found by their index alone, and no row of the page has the waitlist read again.
_REGISTRATIONS = """
    WITH page AS (
        SELECT id, seq, name, email, spots_count, status, created_at, updated_at
        FROM {source} AS registration
        WHERE event_id = :event_id AND seq > :after
          AND NOT (SELECT deleted FROM event WHERE event.id = :event_id)
          AND (CAST(:status AS text) IS NULL OR status = :status)
          {condition}
        ORDER BY seq LIMIT :limit
    ), bounds AS (
        SELECT min(seq) AS first, max(seq) AS last FROM page WHERE status = 'WAITLIST' HAVING count(*) > 0
    ), waiting AS MATERIALIZED (
        SELECT id, position FROM (
            SELECT registration.id,
                   row_number() OVER (ORDER BY registration.seq)
                   + (SELECT count(*) FROM registration AS before, bounds
                      WHERE before.event_id = :event_id AND before.status = 'WAITLIST'
                        AND before.seq < bounds.first)
                   AS position
            FROM registration, bounds
            WHERE registration.event_id = :event_id AND registration.status = 'WAITLIST'
              AND registration.seq BETWEEN bounds.first AND bounds.last
        ) AS line
        WHERE (id IN (SELECT id FROM page)) IS TRUE  -- by a hash: IN alone may become a join
    )
    SELECT page.*, waiting.position AS waitlist_position
    FROM page LEFT JOIN waiting ON waiting.id = page.id
    ORDER BY page.seq
"""
_ALL = text(_REGISTRATIONS.format(source="registration", condition=""))
_WITH_TEXT = text(_REGISTRATIONS.format(source="registration", condition=_HAS_TEXT))
_WITH_WORD = text(_REGISTRATIONS.format(source=_FOUND_BY_WORDS, condition=""))
_WITH_WORDS = text(_REGISTRATIONS.format(source=_FOUND_BY_WORDS, condition=_HAS_TEXT))

# No join for the entry before: a plan of it may read all of the event for each entry (decision 0014).
_AUDIT = text("""
    SELECT entry.number, entry.command_id, entry.kind, entry.actor,
           CASE WHEN :reasons THEN entry.reason END AS reason, entry.registration_id,
           entry.from_status, entry.to_status, entry.before_after, entry.spots_delta,
           entry.spots_reserved, entry.at, entry.hash,
           (SELECT hash FROM audit_entry
            WHERE event_id = entry.event_id AND number = entry.number - 1) AS previous_hash
    FROM audit_entry AS entry
    WHERE entry.event_id = :event_id AND entry.number > :after
    ORDER BY entry.number LIMIT :limit
""")

_FAILED = text(f"""
    SELECT command.id AS command_id, command.seq, command.kind, command.actor, command.accepted_at,
           outcome.settled_at,
           CASE WHEN outcome.body ->> 'incidentId' ~ '{ids.PATTERN}'
                THEN CAST(outcome.body ->> 'incidentId' AS uuid) END AS incident_id
    FROM outcome CROSS JOIN LATERAL (  -- a fence
        SELECT * FROM command WHERE event_id = outcome.event_id AND id = outcome.command_id OFFSET 0
    ) AS command
    WHERE outcome.event_id = :event_id AND outcome.body ->> 'outcome' = 'failed' AND command.seq > :after
    ORDER BY command.seq LIMIT :limit
""")

_COUNTER = text("""
    SELECT spots_reserved,
           (SELECT coalesce(sum(spots_count), 0) FROM registration
            WHERE event_id = event.id AND status = 'CONFIRMED') AS actual_confirmed
    FROM event WHERE id = :event_id AND NOT deleted
""")

_REVISION = text("SELECT version_num FROM alembic_version")


async def event_ids(connection: AsyncConnection, slugs: Sequence[str]) -> list[UUID | None]:
    """Return the id of the event with each slug, None where there is none."""
    rows = await connection.execute(_EVENT_IDS, {"slugs": arrays.texts(set(slugs))})
    found = {row.slug: row.id for row in rows}
    return [found.get(slug) for slug in slugs]


async def event_slug(connection: AsyncConnection, id_: UUID, *, deleted: bool = False) -> str | None:
    """Return the slug of the event with this id; of a deleted event only if `deleted`."""
    return (await connection.execute(_EVENT_SLUG, {"id": id_, "deleted": deleted})).scalar_one_or_none()


async def slug_is_held(connection: AsyncConnection, slug: str) -> bool:
    """Return True if an event gave the slug up so lately that a process may still send commands there."""
    parameters = {"slug": slug, "held_seconds": tables.SLUG_HELD_SECONDS}
    return bool((await connection.execute(_SLUG_IS_HELD, parameters)).scalar_one())


async def event_by_id(connection: AsyncConnection, id_: UUID) -> dict[str, Any] | None:
    """Return an event by its id, with its state as of now."""
    row = (await connection.execute(_EVENT_BY_ID, {"id": id_})).mappings().one_or_none()
    return None if row is None else _with_state(row)


async def is_owned(connection: AsyncConnection, id_: UUID, organiser_id: UUID) -> bool:
    """Return True if there is such an event of this organiser."""
    found = await connection.execute(_IS_OWNED, {"id": id_, "organiser_id": organiser_id})
    return found.one_or_none() is not None


async def events(  # noqa: PLR0913 - one parameter for each of the query's
    connection: AsyncConnection,
    *,
    organiser_id: UUID | None,
    slug: str | None,
    archived: bool,
    after: tuple[str, UUID],
    limit: int,
) -> list[dict[str, Any]]:
    """Return events by `created_at` and id, with their state as of now; with this slug only, if it is given.

    They are those of the organiser, or all if it is None. `after` is the place of the last event of the page
    before, or `BEFORE_ALL`.
    """
    created_at, id_ = after
    parameters = {"slug": slug, "archived": archived, "created_at": created_at, "id": id_, "limit": limit}
    if organiser_id is None:
        rows = await connection.execute(_EVENTS_OF_ALL, parameters)
    else:
        rows = await connection.execute(_EVENTS_OF_ONE, {**parameters, "organiser_id": organiser_id})
    return [_with_state(row) for row in rows.mappings()]


def _with_state(row: RowMapping) -> dict[str, Any]:
    """Return the event with its state, by the owner's own rule and on the database's clock."""
    event = dict(row)
    settings = EventSettings(**{name: event[name] for name in EventSettings.__struct_fields__})
    event["state"] = settings.state(event.pop("now"))
    del event["deleted"]
    return event


async def registration(connection: AsyncConnection, event_id: UUID, id_: UUID) -> RowMapping | None:
    """Return one registration with its position."""
    result = await connection.execute(_REGISTRATION, {"event_id": event_id, "id": id_})
    return result.mappings().one_or_none()


async def registrations(  # noqa: PLR0913 - one parameter for each of the query's
    connection: AsyncConnection, event_id: UUID, *, status: str | None, q: str | None, after: int, limit: int
) -> Sequence[RowMapping]:
    """Return registrations in ledger order, of one status and with `q` in name or email where given.

    `q` begins at the beginning of a word. Neither case nor accents count.
    """
    parameters = {"event_id": event_id, "status": status, "after": after, "limit": limit}
    statement = _ALL
    if q is not None:
        parameters["q"] = q
        statement = _search(q)
    return (await connection.execute(statement, parameters)).mappings().all()


def _search(q: str) -> TextClause:
    if q.isascii() and q.isalnum():
        return _WITH_WORD
    return _WITH_WORDS if any(sign.isalnum() for sign in q) else _WITH_TEXT


async def audit_entries(
    connection: AsyncConnection, event_id: UUID, *, after: int, limit: int, reasons: bool
) -> list[dict[str, Any]]:
    """Return audit entries by number, as the API shows them; without admins' reasons unless `reasons`."""
    parameters = {"event_id": event_id, "after": after, "limit": limit, "reasons": reasons}
    rows = await connection.execute(_AUDIT, parameters)
    return [_audit_entry(row) for row in rows.mappings()]


def _audit_entry(row: RowMapping) -> dict[str, Any]:
    previous = row["previous_hash"] or audit.BEFORE_THE_FIRST
    told = {"at": audit.timestamp(row["at"]), "hash": row["hash"].hex(), "previous_hash": previous.hex()}
    return _with_digest(row) | told


async def failed_commands(
    connection: AsyncConnection, event_id: UUID, *, after: int, limit: int
) -> list[dict[str, Any]]:
    """Return the event's failed commands behind a place in the ledger, in ledger order."""
    parameters = {"event_id": event_id, "after": after, "limit": limit}
    return [_with_digest(row) for row in (await connection.execute(_FAILED, parameters)).mappings()]


def _with_digest(row: RowMapping) -> dict[str, Any]:
    shown = dict(row)
    shown["command_digest"] = audit.command_digest(shown.pop("command_id"))
    return shown


async def counter(connection: AsyncConnection, event_id: UUID) -> RowMapping | None:
    """Return the counter and the sum of the confirmed registrations, from one snapshot."""
    return (await connection.execute(_COUNTER, {"event_id": event_id})).mappings().one_or_none()


def schema_serves(connection: Connection) -> bool:
    """Return True if the database's schema serves this version: the schema is this version's own or later.

    A migration takes nothing away that the version before it needs.
    """
    revision: str | None = connection.execute(_REVISION).scalar_one_or_none()
    return revision is not None and revision >= tables.REVISION
