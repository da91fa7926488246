"""Columns of values as PostgreSQL gets them: every element type, there and back."""

from uuid import UUID

import msgspec
import psycopg
import pytest
from sqlalchemy import make_url

from shared.domain.commands import Status
from shared.domain.outcomes import Confirmed
from shared.postgres import arrays

IDS = [UUID(int=0), None, UUID(int=2**128 - 1)]
DIGESTS = [bytes(range(256)), None, b""]
TEXTS = ['Zoë "%s" {O\'Hara}, \\ NULL\n', None, "", "NULL", "\U0001f39f", Status.WAITLIST]
JSONS = [b'{"name": "\\u00e9", "spotsCount": 1.50}', None, b"null", b'"%s"', b"[]"]
SMALL = [0, -1, 2**31 - 1, -(2**31)]
LARGE = [0, -1, 2**63 - 1, -(2**63)]


def selected(database: str, type_: str, array: object) -> list[object]:
    """Return the elements of a parameter as PostgreSQL has understood them, in order."""
    url = make_url(database)
    _, address = url.get_dialect()().create_connect_args(url)
    elements = f"unnest(%(array)s::{type_}[]) WITH ORDINALITY AS of (element, place)"
    statement = f"SELECT element FROM {elements} ORDER BY place"
    with psycopg.connect(**address) as session:
        return [element for (element,) in session.execute(statement.encode(), {"array": array})]


@pytest.mark.parametrize(
    ("type_", "array", "elements"),
    [
        ("uuid", arrays.uuids(IDS), IDS),
        ("bytea", arrays.digests(DIGESTS), DIGESTS),
        ("text", arrays.texts(TEXTS), TEXTS),
        ("jsonb", arrays.jsons(JSONS), [{"name": "é", "spotsCount": 1.5}, None, None, "%s", []]),
        ("integer", arrays.numbers(SMALL), SMALL),
        ("bigint", arrays.numbers(LARGE), LARGE),
    ],
)
def test_elements_arrive_as_they_were(
    database: str, type_: str, array: object, elements: list[object]
) -> None:
    assert selected(database, type_, array) == elements
    assert selected(database, type_, array) == elements, "once more, prepared or not"


@pytest.mark.parametrize(
    ("type_", "array"),
    [
        ("uuid", arrays.uuids([])),
        ("bytea", arrays.digests([])),
        ("text", arrays.texts([])),
        ("jsonb", arrays.jsons([])),
        ("integer", arrays.numbers([])),
        ("bigint", arrays.numbers([])),
    ],
)
def test_an_empty_array_has_no_element(database: str, type_: str, array: object) -> None:
    assert selected(database, type_, array) == []


def test_no_json_is_not_the_json_null(database: str) -> None:
    url = make_url(database)
    _, address = url.get_dialect()().create_connect_args(url)
    statement = b"SELECT element IS NULL, element::text FROM unnest(%(array)s::jsonb[]) AS of (element)"
    with psycopg.connect(**address) as session:
        rows = session.execute(statement, {"array": arrays.jsons([None, b"null"])}).fetchall()

    assert rows == [(True, None), (False, "null")]


def test_an_outcome_arrives_as_json(database: str) -> None:
    outcome = Confirmed(registration_id=UUID(int=8), spots_count=2)

    assert selected(database, "jsonb", arrays.jsons([msgspec.json.encode(outcome)])) == [
        {"outcome": "confirmed", "registrationId": str(UUID(int=8)), "spotsCount": 2}
    ]
