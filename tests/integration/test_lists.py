"""Lists of events and registrations: their order, their cursors, and filters that are left empty."""

import secrets
from typing import Any

import pytest

from tests.integration.test_status_changes import register
from tests.stage import Json, Stage


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
    ],
)
def test_a_false_cursor_is_refused(stage: Stage, cursor: str) -> None:
    event = stage.create_event()
    with stage.client() as client:
        answer = client.get("/api/events", params={"cursor": cursor.format(**event)}, headers=stage.admin)

    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST")


@pytest.mark.parametrize("blank", ["", "%20", "+", "%09", "%C2%A0", None])
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
