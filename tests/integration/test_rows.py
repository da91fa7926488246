"""Rows as PostgreSQL gets them: one row as plain values is the row that arrays of one element make."""

from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row
from shared.postgres.rows import Rows
from sqlalchemy import make_url

from shared.domain.commands import Status
from shared.domain.outcomes import Confirmed
from shared.postgres import rows

ROWS = Rows(
    "given",
    numbered=True,
    id=rows.ID,
    digest=rows.DIGEST,
    small=rows.INTEGER,
    large=rows.BIGINT,
    tid=rows.TID,
    word=rows.TEXT,
    status=rows.TEXT,
    value=rows.JSON,
    raw=rows.RAW_JSON,
)
STATEMENT = "SELECT given.*, tid::text AS tid, {given_count} AS count FROM {given} ORDER BY place"
FULL = {
    "id": UUID(int=7),
    "digest": bytes(range(256)),
    "small": -1,
    "large": 2**60,
    "tid": "(4294967294,7)",
    "word": 'Zoë "%s" {O\'Hara}, \\ NULL\n',
    "status": Status.WAITLIST,
    "value": Confirmed(registration_id=UUID(int=8), spots_count=2),
    "raw": b'{"name": "\\u00e9", "spotsCount": 1.50}',
}
EMPTY = {**dict.fromkeys(FULL), "tid": FULL["tid"], "raw": FULL["raw"]}


def selected(database: str, *those: dict[str, object]) -> list[dict[str, object]]:
    """Return these rows as PostgreSQL has understood them."""
    url = make_url(database)
    _, address = url.get_dialect()().create_connect_args(url)
    given = ROWS.of(those, **{name: [row[name] for row in those] for name in FULL})
    with psycopg.connect(**address, row_factory=dict_row) as session:
        return session.execute(*rows.stated(STATEMENT, given)).fetchall()


@pytest.mark.parametrize("row", [FULL, EMPTY], ids=["full", "empty"])
def test_one_row_is_what_it_would_be_among_many(database: str, row: dict[str, object]) -> None:
    (alone,) = selected(database, row)
    first, second = selected(database, row, FULL)

    assert alone == {**first, "count": 1}
    assert (first["place"], second["place"], first["count"]) == (1, 2, 2)


def test_what_postgresql_gets_is_what_was_given(database: str) -> None:
    (row,) = selected(database, FULL)

    names = ("id", "digest", "small", "large", "tid", "word", "status")
    assert {name: row[name] for name in names} == {name: FULL[name] for name in names}
    assert row["value"] == {
        "outcome": "confirmed",
        "registrationId": str(UUID(int=8)),
        "spotsCount": 2,
    }
    assert row["raw"] == {"name": "é", "spotsCount": 1.5}


def test_no_row_is_given_like_many(database: str) -> None:
    assert selected(database) == []


def test_one_row_of_each_needs_no_array() -> None:
    one, many = (rows.text(STATEMENT, ROWS, one=one).decode() for one in (True, False))

    assert "[]" not in one
    assert many.count("[]") > len(FULL) / 2
