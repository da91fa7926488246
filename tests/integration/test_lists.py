"""Lists of events and registrations: their order, their cursors, and filters that are left empty."""

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from api.queries import events
from tests.integration.test_status_changes import register
from tests.stage import Json, Stage

MANY = 20_000
ROWS_READ_MAX = 200
_FILL = """
    INSERT INTO registration (event_id, id, seq, name, email, spots_count, status)
    SELECT %s, gen_random_uuid(), 10000000 + n, CASE WHEN n %% 2 = 0 THEN 'Ann ' ELSE 'Zoë ' END || n,
           'person' || n || '@example.org', 1, 'CONFIRMED'
    FROM generate_series(1, %s) AS n
    RETURNING NULL
"""


def below(node: Json) -> Iterator[Json]:
    """Yield a node of a plan, and all nodes below it."""
    yield node
    for child in node.get("Plans", ()):
        yield from below(child)


def pages(stage: Stage, path: str, limit: int) -> list[Json]:
    """Return all items of a list, read in pages."""
    items: list[Json] = []
    cursor: str | None = ""
    while cursor is not None:
        page = stage.get(f"{path}?limit={limit}{cursor and '&cursor='}{cursor}")
        items += page["items"]
        cursor = page["nextCursor"]
    return items


def made(stage: Stage, created_at: str) -> str:
    """Make an event that is as old as that, as an adoption does; return its slug."""
    slug = f"made-{secrets.token_hex(6)}"
    stage.query(
        """
        INSERT INTO event (id, slug, title, capacity, created_at)
        VALUES (gen_random_uuid(), %s, 'An event', 1, %s) RETURNING NULL
        """,
        slug,
        created_at,
    )
    return slug


def test_events_come_oldest_first(stage: Stage) -> None:
    days = [
        "2023-05-01 10:00:00.000001+00",
        "2021-01-01 00:00+05",
        "2023-05-01 10:00+00",
        "2019-12-31 00:00+00",
    ]
    slugs = [made(stage, day) for day in days]
    together = [made(stage, "2022-01-01 00:00+00") for _ in range(5)]
    newest = stage.create_event()["slug"]

    listed = pages(stage, "/api/events", limit=2)

    order = [event["slug"] for event in listed]
    assert [slug for slug in order if slug in {*slugs, newest}] == [*(slugs[n] for n in (3, 1, 2, 0)), newest]
    assert len(order) == len(set(order))
    assert set(together) <= set(order)
    assert listed == sorted(listed, key=lambda event: (event["createdAt"].rstrip("Z"), event["id"]))


def test_a_cursor_outlives_its_event(stage: Stage) -> None:
    first, second = made(stage, "2001-01-01 00:00+00"), made(stage, "2001-01-02 00:00+00")
    page = stage.get("/api/events?limit=1")
    assert [event["slug"] for event in page["items"]] == [first]
    stage.query("DELETE FROM event WHERE slug = %s RETURNING NULL", first)

    following = stage.get(f"/api/events?limit=1&cursor={page['nextCursor']}")

    assert [event["slug"] for event in following["items"]] == [second]
    stage.query("DELETE FROM event WHERE slug = %s RETURNING NULL", second)


def test_an_event_is_found_by_its_slug(stage: Stage) -> None:
    event = stage.create_event()

    assert stage.get(f"/api/events?slug={event['slug']}") == {"items": [event], "nextCursor": None}
    assert stage.get("/api/events?slug=no-such-event") == {"items": [], "nextCursor": None}


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "-1",
        "01a21425-ec27-7821-9341-c716df36e26b",
        "2026-99-01T00:00:00Z_{id}",
        "2026-01-01T00:00:00Z_x",
        "\0",
    ],
)
@pytest.mark.parametrize("path", ["events", "keys", "events/{id}/registrations", "events/{id}/audit"])
def test_a_false_cursor_is_refused(stage: Stage, path: str, cursor: str) -> None:
    event = stage.create_event()
    with stage.client() as client:
        path, parameters = path.format(**event), {"cursor": cursor.format(**event)}
        answer = client.get(f"/api/{path}", params=parameters, headers=stage.admin)

    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"] == [{"field": "cursor", "reason": "is not the nextCursor of a page"}]


CONTROL = "must not hold control characters or characters that change the direction of text"


@pytest.mark.parametrize(
    ("path", "parameter", "reason"),
    [
        ("/api/events", "slug=%00", CONTROL),
        ("/api/events", "slug=drop%00", CONTROL),
        ("/api/events", "archived=yes", "must be true or false"),
        ("/api/events", "archived=1", "must be true or false"),
        ("/api/events", "archived=True", "must be true or false"),
        ("/api/events", "archived=%1F", "must be true or false"),
        ("/api/events/{id}/registrations", "q=%00", CONTROL),
        ("/api/events/{id}/registrations", "q=%1F", CONTROL),
        ("/api/events/{id}/registrations", "q=a%E2%80%AEb", CONTROL),
        ("/api/events/{id}/registrations", "q=Zo%EB", "must be in UTF-8"),
        ("/api/events/{id}/registrations", "q=%EF%B8%8F", "must hold something visible"),
        ("/api/events/{id}/registrations", "status=%00", "must be 'CONFIRMED', 'WAITLIST' or 'CANCELLED'"),
        (
            "/api/events/{id}/registrations",
            "status=confirmed",
            "must be 'CONFIRMED', 'WAITLIST' or 'CANCELLED'",
        ),
        ("/api/events/{id}/registrations", f"q={'a' * 201}", "must be text of at most 200 characters"),
        ("/api/events/{id}/registrations", "limit=%00", "must be a whole number"),
        ("/api/events", f"limit={'9' * 30}", "must be 1000 or less"),
        ("/api/events/{id}/commands", "outcome=%00", "must be 'failed'"),
        ("/api/events/{id}/export", "format=%00", "must be 'csv' or 'ndjson'"),
        ("/api/events/{id}/export", "separator=%00", "must be 'comma' or 'semicolon'"),
    ],
)
def test_a_value_that_is_none_is_refused(stage: Stage, path: str, parameter: str, reason: str) -> None:
    event = stage.create_event()
    with stage.client() as client:
        answer = client.get(f"{path.format(**event)}?{parameter}", headers=stage.admin)

    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"] == [{"field": parameter.partition("=")[0], "reason": reason}]


@pytest.mark.parametrize("blank", ["", "%20", "+", "%09", "%C2%A0", "%E2%80%8B", None])
@pytest.mark.parametrize(
    "path",
    [
        "/api/events?slug={0}&cursor={0}&limit={0}",
        "/api/events/{id}/registrations?q={0}&status={0}&cursor={0}&limit={0}",
        "/api/events/{id}/audit?cursor={0}&limit={0}",
        "/api/events/{id}/commands?outcome={0}&cursor={0}",
        "/api/events/{id}/export?format={0}&separator={0}",
    ],
)
def test_a_blank_parameter_is_none(stage: Stage, path: str, blank: str | None) -> None:
    event = stage.create_event()
    register(stage, event)
    with stage.client() as client:
        asked: list[Any] = [
            client.get(url.replace("={0}", "" if blank is None else f"={blank}"), headers=stage.admin)
            for url in (
                path.replace("{id}", event["id"]),
                path.partition("?")[0].replace("{id}", event["id"]),
            )
        ]

    blank_answer, plain_answer = asked
    assert blank_answer.status_code == plain_answer.status_code == 200
    assert blank_answer.content == plain_answer.content


def test_a_form_with_one_empty_field_filters(stage: Stage) -> None:
    event = stage.create_event(capacity=1)
    for name in ("Ann", "Bob", "Ann"):
        register(stage, event, name=name)

    found = stage.get(f"/api/events/{event['id']}/registrations?q=ann&status=&cursor=&limit=")

    assert [row["name"] for row in found["items"]] == ["Ann", "Ann"]


@pytest.fixture(scope="module")
def crowd(stage: Stage) -> Json:
    """Return an event whose registrations have names of many kinds."""
    event = stage.create_event(capacity=1_000)
    for name, email in NAMED.items():
        register(stage, event, name=name, **({"email": email} if email else {}))
    return event


NAMED = {
    "Zoë Straßer": None,
    "ANNA KOWALSKA": "anna.k@post.example",
    "Đorđe Œuvre": None,
    "Łukasz Ørsted": None,
    "Lukasz Orsted": None,
    "Þóra Ægisdóttir": None,
    "İlkay Iş\u0131k": None,
    "ΑΘΗΝΑ Σοφός": None,
    "Алёна Ёлкина": None,
    "山田 太郎": None,
    "김철수": None,
    "100% O'Neil": None,
    "100 ONeil": None,
    "back\\slash_under": None,
    "Bob Mid-Word": "Bob@Sub.Domain.example",
}


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("zoë", ["Zoë Straßer"]),
        ("ZOË", ["Zoë Straßer"]),
        ("Zoe\u0308", ["Zoë Straßer"]),
        ("zoe", ["Zoë Straßer"]),
        ("STRASSE", ["Zoë Straßer"]),
        ("straße", ["Zoë Straßer"]),
        ("zoë s", ["Zoë Straßer"]),
        ("  zoë ", ["Zoë Straßer"]),
        ("\uff21\uff2e\uff2e\uff21", ["ANNA KOWALSKA"]),
        ("anna.k@", ["ANNA KOWALSKA"]),
        ("@POST.example", ["ANNA KOWALSKA"]),
        ("kowalska", ["ANNA KOWALSKA"]),
        ("đorđe", ["Đorđe Œuvre"]),
        ("ŒUV", ["Đorđe Œuvre"]),
        ("dorde oeuvre", ["Đorđe Œuvre"]),
        ("ŁUKASZ", ["Łukasz Ørsted", "Lukasz Orsted"]),
        ("orsted", ["Łukasz Ørsted", "Lukasz Orsted"]),
        ("thora aeg", ["Þóra Ægisdóttir"]),
        ("ilkay", ["İlkay Iş\u0131k"]),
        ("IŞIK", ["İlkay Iş\u0131k"]),
        ("isik", ["İlkay Iş\u0131k"]),
        ("αθηνα", ["ΑΘΗΝΑ Σοφός"]),
        ("ΣΟΦΟΣ", ["ΑΘΗΝΑ Σοφός"]),
        ("АЛЕНА", ["Алёна Ёлкина"]),
        ("ёлк", ["Алёна Ёлкина"]),
        ("太郎", ["山田 太郎"]),
        ("田", ["山田 太郎"]),
        ("철수", ["김철수"]),
        ("100%", ["100% O'Neil"]),
        ("100", ["100% O'Neil", "100 ONeil"]),
        ("o'neil", ["100% O'Neil"]),
        ("%", ["100% O'Neil"]),
        ("_", ["back\\slash_under"]),
        ("\\", ["back\\slash_under"]),
        ("slash", ["back\\slash_under"]),
        ("bob@sub", ["Bob Mid-Word"]),
        ("word", ["Bob Mid-Word"]),
        ("domain.ex", ["Bob Mid-Word"]),
        ("nobody", []),
        ("' | 'zo", []),
        ("':*", []),
        ("& !", []),
    ],
)
def test_a_search_knows_neither_case_nor_accent(stage: Stage, crowd: Json, q: str, found: list[str]) -> None:
    with stage.client() as client:
        answer = client.get(f"/api/events/{crowd['id']}/registrations", params={"q": q}, headers=stage.admin)

    assert answer.status_code == 200, answer.text
    assert [row["name"] for row in answer.json()["items"]] == found


@pytest.mark.parametrize(
    ("name", "q"),
    [
        ("Anna Maria", "anna  maria"),
        ("Anna Maria", "anna\u00a0maria"),
        ("Anna Maria", "anna\u3000\u2003maria"),
        ("Anna\u00a0Maria", "anna maria"),
        ("Anna  Maria", "anna maria"),
        ("Pat O\u2019Neil", "o'neil"),
        ("Pat O'Neil", "o\u2019neil"),
        ("Jean\u2011Luc", "jean-luc"),
        ("\uff21\uff4e\uff4e \uff2c\uff45\uff45", "ann lee"),
    ],
)
def test_a_search_takes_blanks_and_signs_alike(stage: Stage, name: str, q: str) -> None:
    event = stage.create_event()
    register(stage, event, name=name)
    with stage.client() as client:
        answer = client.get(f"/api/events/{event['id']}/registrations", params={"q": q}, headers=stage.admin)

    assert [row["name"] for row in answer.json()["items"]] == [name]


def test_a_search_goes_on_behind_its_cursor(stage: Stage) -> None:
    event = stage.create_event(capacity=1_000)
    for name in ("Ann 1", "Bob", "Ann 2", "Ann 3"):
        register(stage, event, name=name)
    path = f"/api/events/{event['id']}/registrations?q=ann&limit=2"

    first = stage.get(path)
    rest = stage.get(f"{path}&cursor={first['nextCursor']}")

    assert [row["name"] for row in first["items"] + rest["items"]] == ["Ann 1", "Ann 2", "Ann 3"]


def test_the_longest_name_can_be_registered(stage: Stage) -> None:
    event = stage.create_event(capacity=10)
    longest = "\U00010400" * 200  # four bytes each, and no blank

    receipt = register(stage, event, name=longest)

    assert receipt["status"] == "CONFIRMED"
    assert stage.get(f"/api/events/{event['id']}/registrations?q={longest[:50].lower()}")["items"]


def test_a_rare_name_is_found_by_the_index(stage: Stage) -> None:
    event = stage.create_event(capacity=MANY)
    stage.query(_FILL, event["id"], MANY)
    stage.query("ANALYZE registration")

    parameters = {"event_id": event["id"], "q": "zoë 77", "status": None, "after": 0, "limit": 100}
    with create_engine(stage.database_url, poolclass=NullPool).connect() as connection:
        explained = text("EXPLAIN (ANALYZE, FORMAT JSON) " + events._WITH_WORDS.text)  # noqa: SLF001
        plan = connection.execute(explained, parameters).scalar_one()

    nodes = list(below(plan[0]["Plan"]))
    assert "registration_search_idx" in {node.get("Index Name") for node in nodes}
    read = [node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in nodes]
    assert max(read) < ROWS_READ_MAX
