"""API keys over HTTP and by command: what each may see and do, its end, and wrong ones."""

import asyncio
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from functools import cache
from uuid import uuid4

import httpx2
import pytest
from sqlalchemy import event as sqlalchemy_events
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from api.main import create_app
from api.protection.wrong_keys import WrongKeys
from api.queries.keys import Keys
from api.queries.reader import Reader
from ops.cli import main as cli
from ops.maintenance import retention, status
from shared.domain import access
from shared.domain.access import Principal, Scope
from shared.postgres import connections
from shared.settings import Settings
from tests.databases import run
from tests.integration.test_status_changes import patch, register
from tests.stage import Json, Stage

Route = tuple[str, str, str]
ALL = tuple(scope.value for scope in Scope)


def headers(key: str) -> Mapping[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module", autouse=True)
def _closed(stage: Stage) -> Iterator[None]:
    yield
    client_of(stage).close()


def typed(stage: Stage, *arguments: str) -> Result:
    """Return the result of a command, run in this process."""
    return CliRunner().invoke(cli.app, arguments, env=stage.environment())


@cache
def client_of(stage: Stage) -> httpx2.Client:
    return stage.client()


def ask(stage: Stage, key: str, method: str, path: str, **body: object) -> httpx2.Response:
    return client_of(stage).request(method, path, headers=headers(key), json=body or None)


def new_key(stage: Stage, by: str | None = None, **asked: object) -> Json:
    """Create an API key by another one, or by the admin key."""
    body = {"name": f"key {secrets.token_hex(4)}", "organiser": None, "scopes": ALL, **asked}
    answer = ask(stage, by or stage.key, "POST", "/api/keys", **body)
    assert answer.status_code == 201, answer.text
    created: Json = answer.json()
    return created


def an_organiser() -> str:
    return f"Theatre {secrets.token_hex(4)}"


def event_of(stage: Stage, key: str, **terms: object) -> Json:
    asked = {"slug": f"drop-{secrets.token_hex(6)}", "title": "A drop", "capacity": 2, **terms}
    created: Json = ask(stage, key, "POST", "/api/events", **asked).json()
    return created


def routes(stage: Stage) -> Iterator[Route]:
    """Yield the method, the path and the scope of every route that needs a key, by the document."""
    with stage.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method, route in methods.items():
            for scopes in (need["key"] for need in route.get("security", []) if "key" in need):
                if path.startswith("/api/"):
                    yield method.upper(), path, scopes[0]


def test_a_foreign_event_is_as_if_not_there(stage: Stage) -> None:
    ours, theirs = (new_key(stage, organiser=an_organiser())["key"] for _ in range(2))
    foreign, of_the_service = event_of(stage, theirs), stage.create_event()
    registration = register(stage, foreign)["registration"]["id"]
    asked = 0
    for method, path, _ in routes(stage):
        if "{event_id}" not in path:
            continue
        asked += 1
        found = set()
        for event in (foreign["id"], foreign["id"].upper(), of_the_service["id"], str(uuid4())):
            url = path.format(event_id=event, registration_id=registration)
            for body in ({}, {"status": "CANCELLED"}, {"capacity": 1}):
                answer = ask(stage, ours, method, url, **body)
                problem = answer.json()
                found.add((answer.status_code, problem["code"], problem["detail"]))
        assert found == {(404, "EVENT_NOT_FOUND", "There is no such event.")}, path
    assert asked > 10
    assert ask(stage, theirs, "GET", f"/api/events/{foreign['id']}").json()["spotsReserved"] == 1


def test_a_list_has_only_the_organisers_events(stage: Stage) -> None:
    ours, theirs = (new_key(stage, organiser=an_organiser())["key"] for _ in range(2))
    own = [event_of(stage, ours)["id"] for _ in range(3)]
    foreign = event_of(stage, theirs)["id"]

    first = ask(stage, ours, "GET", "/api/events?limit=2").json()
    second = ask(stage, ours, "GET", f"/api/events?limit=2&cursor={first['nextCursor']}").json()
    all_events = {item["id"]: item for item in stage.get("/api/events?limit=1000")["items"]}

    assert [item["id"] for item in first["items"] + second["items"]] == own
    assert {*own, foreign} <= all_events.keys()
    assert all_events[foreign]["organiserId"] not in {None, all_events[own[0]]["organiserId"]}


def test_each_route_needs_its_scope(stage: Stage) -> None:
    organiser = an_organiser()
    every = new_key(stage, organiser=organiser)["key"]
    event = event_of(stage, every)
    registration = register(stage, event)["registration"]["id"]
    without = {
        scope: new_key(stage, organiser=organiser, scopes=[other for other in ALL if other != scope])["key"]
        for scope in ALL
    }
    for method, path, scope in routes(stage):
        url = path.format(event_id=event["id"], registration_id=registration, prefix="ao_000000000000")
        refused = ask(stage, without[scope], method, url)
        assert (refused.status_code, refused.json()["code"]) == (403, "FORBIDDEN"), url
        assert refused.json()["detail"] == f"This key lacks the scope {scope}."
        if method == "GET":
            assert ask(stage, every, method, url).status_code == 200, url


def test_personal_data_needs_its_scope(stage: Stage) -> None:
    organiser = an_organiser()
    every = new_key(stage, organiser=organiser)["key"]
    scopes = [scope for scope in ALL if scope != "personal:read"]
    limited = new_key(stage, organiser=organiser, scopes=scopes)["key"]
    event = event_of(stage, every)
    receipt = register(stage, event, name="Grace Hopper", email="grace@example.org")
    patch(stage, event, receipt, "CANCELLED", reason="Grace is ill")
    path = f"/api/events/{event['id']}"
    registration = f"{path}/registrations/{receipt['registration']['id']}"
    ids = {"event_id": event["id"], "registration_id": receipt["registration"]["id"]}
    reads = [("GET", url.format(**ids)) for method, url, _ in routes(stage) if method == "GET"]
    assert ("GET", f"{registration}/explain") in reads
    for method, url in [*reads, ("GET", f"{path}/export?format=ndjson"), ("PATCH", registration)]:
        body = {"status": "CONFIRMED"} if method == "PATCH" else {}
        answer = ask(stage, limited, method, url, **body)
        assert answer.status_code == 200, url
        assert re.search("grace|hopper", answer.text, re.IGNORECASE) is None, url
    for search in ("q=grace", "q=.", "q=grace&status=CONFIRMED"):
        assert ask(stage, limited, "GET", f"{path}/registrations?{search}").status_code == 403
    assert ask(stage, every, "GET", registration).json()["name"] == "Grace Hopper"
    assert '"Grace Hopper","grace@example.org"' in ask(stage, every, "GET", f"{path}/export").text
    assert "because 'Grace is ill'" in ask(stage, every, "GET", f"{registration}/explain").text
    assert "Grace is ill" in ask(stage, every, "GET", f"{path}/audit").text


def test_the_audit_trail_names_the_key(stage: Stage) -> None:
    created = new_key(stage, name="Box office 2", organiser=an_organiser())
    event = event_of(stage, created["key"])
    path = f"/api/events/{event['id']}"

    ask(stage, created["key"], "PATCH", path, capacity=5)
    trail = ask(stage, created["key"], "GET", f"{path}/audit").json()["items"]

    assert [entry["actor"] for entry in trail] == ["Box office 2"]
    written = json.dumps(stage.query("SELECT to_jsonb(api_key)::text AS row FROM api_key"))
    assert created["key"].split("_", 2)[2] not in written + stage.log()
    assert created["apiKey"]["prefix"] in written


def test_two_keys_of_one_name_are_valid(stage: Stage) -> None:
    asked = {"name": "rotating", "organiser": an_organiser()}
    old, new = new_key(stage, **asked), new_key(stage, **asked)
    third = ask(stage, stage.key, "POST", "/api/keys", scopes=ALL, **asked)
    assert (third.status_code, third.json()["code"]) == (409, "API_KEY_REFUSED")
    assert [ask(stage, k["key"], "GET", "/api/events").status_code for k in (old, new)] == [200, 200]

    prefix = old["apiKey"]["prefix"]
    revoked = [ask(stage, new["key"], "DELETE", f"/api/keys/{prefix}").json() for _ in range(2)]
    while ask(stage, old["key"], "GET", "/api/events").status_code != 401:
        time.sleep(0.05)

    assert revoked[0]["revokedAt"] is not None
    assert revoked[0] == revoked[1]
    assert ask(stage, new["key"], "GET", "/api/events").status_code == 200
    assert new_key(stage, **asked)["apiKey"]["name"] == "rotating"


def test_an_ended_key_is_as_a_wrong_one(stage: Stage) -> None:
    created = new_key(stage)
    wrong = f"{created['key'][:-1]}{'A' if created['key'][-1] != 'A' else 'B'}"
    stage.query("UPDATE api_key SET expires_at = now() WHERE prefix = %s", created["apiKey"]["prefix"])
    answers = [ask(stage, key, "GET", "/api/events") for key in (created["key"], wrong, "nonsense")]
    problems = [{**answer.json(), "requestId": None} for answer in answers]
    assert [answer.status_code for answer in answers] == [401, 401, 401]
    assert problems[0] == problems[1] == problems[2]


def test_a_key_makes_no_stronger_key(stage: Stage) -> None:
    weak = new_key(stage, organiser=an_organiser(), scopes=["operate"])["key"]
    foreign = new_key(stage, organiser=an_organiser())
    more = ask(
        stage, weak, "POST", "/api/keys", name="more", scopes=["operate", "personal:read"], organiser=None
    )
    other = ask(stage, weak, "POST", "/api/keys", name="other", scopes=["operate"], organiser=an_organiser())
    revoking = [
        ask(stage, weak, "DELETE", f"/api/keys/{prefix}")
        for prefix in (foreign["apiKey"]["prefix"], "ao_000000000000", "nonsense")
    ]
    listed = ask(stage, weak, "GET", "/api/keys").json()["items"]
    successor = new_key(stage, by=weak, scopes=["operate"])

    assert [answer.status_code for answer in (more, other)] == [403, 403]
    assert {(answer.status_code, answer.json()["code"]) for answer in revoking} == {
        (404, "API_KEY_NOT_FOUND")
    }
    assert [key["scopes"] for key in listed] == [["operate"]]
    assert successor["apiKey"]["organiser"] == listed[0]["organiser"]
    assert ask(stage, foreign["key"], "GET", "/api/events").status_code == 200


@pytest.mark.parametrize(
    ("asked", "status_code"),
    [
        ({"name": "Admin"}, 409),
        ({"name": "public"}, 409),
        ({"name": "holder", "organiser": "Someone"}, 409),
        ({"name": ""}, 422),
        ({"name": "аdmin"}, 422),  # noqa: RUF001 - a Cyrillic letter that looks like a Latin one
        ({"name": "admin "}, 409),
        ({"name": "x" * 65}, 422),
        ({"scopes": []}, 422),
        ({"scopes": ["everything"]}, 422),
        ({"organiser": " "}, 422),
        ({"organiser": ""}, 422),
        ({"days": 0}, 422),
        ({"days": 3651}, 422),
        ({"secret": "mine"}, 422),
    ],
)
def test_a_key_that_cannot_be_made(stage: Stage, asked: Json, status_code: int) -> None:
    answer = ask(
        stage, stage.key, "POST", "/api/keys", **{"name": "fine", "organiser": None, "scopes": ALL, **asked}
    )
    assert answer.status_code == status_code, answer.text


def test_the_organiser_of_a_key_is_always_named(stage: Stage) -> None:
    answer = ask(stage, stage.key, "POST", "/api/keys", name="fine", scopes=ALL)
    assert (answer.status_code, answer.json()["errors"]) == (
        422,
        [{"field": "organiser", "reason": "is missing"}],
    )


def test_equal_idempotency_keys_of_organisers_never_meet(stage: Stage) -> None:
    name = f"key {secrets.token_hex(4)}"
    created = [new_key(stage, name=name, organiser=an_organiser())["key"] for _ in range(2)]
    bodies = [{"slug": f"drop-{secrets.token_hex(6)}", "title": "A drop", "capacity": 2} for _ in created]
    found = [
        client_of(stage).post(
            "/api/events", json=body, headers={**headers(key), "idempotency-key": "one for both"}
        )
        for key, body in [*zip(created, bodies, strict=True)] * 2
    ]
    events = [answer.json() for answer in found]

    assert [answer.status_code for answer in found] == [201] * 4
    assert events[0]["id"] != events[1]["id"]
    assert events[2:] == events[:2]
    typed(stage, "assign", an_organiser(), events[0]["slug"])
    again = client_of(stage).post(
        "/api/events", json=bodies[0], headers={**headers(created[0]), "idempotency-key": "one for both"}
    )
    assert (again.status_code, again.json()["code"]) == (404, "EVENT_NOT_FOUND")


def test_a_name_of_the_service_is_no_organisers(stage: Stage) -> None:
    mine, theirs = f"key {secrets.token_hex(4)}", f"key {secrets.token_hex(4)}"
    new_key(stage, name=mine)
    new_key(stage, name=theirs, organiser=an_organiser())
    new_key(stage, name=theirs, organiser=an_organiser())
    for asked in ({"name": mine.upper(), "organiser": an_organiser()}, {"name": theirs, "organiser": None}):
        answer = ask(stage, stage.key, "POST", "/api/keys", scopes=ALL, **asked)
        assert (answer.status_code, answer.json()["code"]) == (409, "API_KEY_REFUSED")


def test_metrics_are_not_for_one_organiser(stage: Stage) -> None:
    forwarded = {"x-forwarded-for": "192.0.2.1"}
    of_one = new_key(stage, organiser=an_organiser())["key"]
    of_all, blind = new_key(stage)["key"], new_key(stage, scopes=["operate"])["key"]
    with stage.client() as client:
        asked = [client.get("/metrics", headers={**forwarded, **headers(k)}) for k in (of_one, blind, of_all)]
    assert [answer.status_code for answer in asked] == [403, 403, 200]


def test_keys_by_command(stage: Stage) -> None:
    organiser, name = an_organiser(), f"key {secrets.token_hex(4)}"
    made = typed(stage, "keys", "create", name, "--organiser", organiser, "--scope=events:read", "--days=7")
    key = made.stdout.strip()
    prefix = access.prefix(key)
    listed = json.loads(typed(stage, "keys", "list", "--json").stdout)["keys"]
    ending = [found.prefix for found in status.read(stage.database_url).ending_keys]
    assert ask(stage, key, "GET", "/api/events").status_code == 200

    revoked = [typed(stage, "keys", "revoke", of) for of in (prefix, "ao_000000000000")]
    while ask(stage, key, "GET", "/api/events").status_code != 401:
        time.sleep(0.05)

    assert made.exit_code == 0, made.output
    (found,) = [item for item in listed if item["prefix"] == prefix]
    assert (found["name"], found["organiser"], found["createdBy"]) == (name, organiser, "operator")
    assert prefix in ending
    assert [done.exit_code for done in revoked] == [0, 1]
    assert str(revoked[1].exception) == "there is no API key ao_000000000000"
    assert prefix in typed(stage, "keys", "list").stdout
    assert typed(stage, "keys", "create", "public", "--scope", "operate").exit_code == 1
    for wrong in (["admin "], ["fine", "--organiser", ""], ["fine", "--organiser", "\u202e"]):
        assert typed(stage, "keys", "create", *wrong, "--scope", "operate").exit_code == 2


def test_an_event_is_given_to_an_organiser(stage: Stage) -> None:
    organiser = an_organiser()
    key = new_key(stage, organiser=organiser)["key"]
    event = stage.create_event()
    before = ask(stage, key, "GET", f"/api/events/{event['id']}").status_code
    none = typed(stage, "assign", organiser, event["slug"], "no-such-event")
    between = ask(stage, key, "GET", f"/api/events/{event['id']}").status_code
    given = typed(stage, "assign", organiser, event["slug"])
    after = ask(stage, key, "GET", f"/api/events/{event['id']}").status_code

    assert (before, none.exit_code, between, given.exit_code, after) == (404, 1, 404, 0, 200)
    assert str(none.exception) == "there is no event no-such-event; no event was given away"


def test_wrong_keys_are_slowed_and_right_ones_not(settings: Settings) -> None:
    right, waits = "a-right-key-of-the-settings", list[float]()

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    keyed = Settings(**{**settings.model_dump(), "admin_key": right})
    app = create_app(keyed)
    with TestClient(app, client=("203.0.113.7", 50_000)) as client:
        app.app.state.services.wrong_keys = WrongKeys(lambda: 1_000.0, wait)
        wrong = [client.get("/api/events", headers=headers(f"wrong-{n}")).status_code for n in range(15)]
        answer = client.get("/api/events", headers=headers(right))

    assert wrong == [401] * 14 + [429]
    assert waits == [0.5, 1.0, 1.5, 2.0]
    assert answer.status_code == 200


def holders_of(settings: Settings, *keys: str, at_once: bool) -> tuple[list[Principal | None], int]:
    """Look these keys up, and return their holders with the number of reads."""
    engine = connections.async_engine(settings)
    statements: list[str] = []
    sqlalchemy_events.listen(
        engine.sync_engine, "before_cursor_execute", lambda *facts: statements.append(facts[2])
    )

    async def look_up() -> list[Principal | None]:
        lookup = Keys(settings, Reader(engine))
        if at_once:
            found = list(await asyncio.gather(*(lookup.principal(key) for key in keys)))
        else:
            found = [await lookup.principal(key) for key in keys]
        await engine.dispose()
        return found

    return asyncio.run(look_up()), sum("api_key" in statement for statement in statements)


def test_a_flood_of_unknown_keys_shares_reads(settings: Settings) -> None:
    unknown = [access.new_key() for _ in range(500)]
    nonsense = [f"nonsense {n}" for n in range(500)]
    assert holders_of(settings, *unknown, *nonsense, at_once=True) == ([None] * 1_000, 1)


def test_a_known_key_is_seldom_read(settings: Settings, database: str) -> None:
    key = access.new_key()
    run(
        database,
        """
        INSERT INTO api_key (prefix, digest, name, scopes, created_by, expires_at)
        VALUES (:prefix, :digest, 'reader', '{events:read,of:tomorrow}', 'test', now() + interval '1 day')
        """,
        prefix=access.prefix(key),
        digest=access.digest(key),
    )
    holder = Principal(name="reader", organiser_id=None, scopes=frozenset({Scope.EVENTS_READ}))

    found, reads = holders_of(settings, *[key] * 100, at_once=False)

    assert found == [holder] * 100
    assert reads < 50  # one a second


def test_ended_keys_are_tidied(database: str) -> None:
    run(
        database,
        """
        INSERT INTO api_key (prefix, digest, name, scopes, created_by, expires_at, revoked_at)
        VALUES ('ended', '\\x01', 'a', '{}', 'test', now() - interval '31 days', NULL),
               ('revoked', '\\x02', 'a', '{}', 'test', now() + interval '1 day', now() - interval '31 days'),
               ('lately', '\\x03', 'a', '{}', 'test', now() - interval '29 days', NULL),
               ('valid', '\\x04', 'a', '{}', 'test', now() + interval '1 day', NULL)
        """,
    )
    retention.tidy(database, 30)
    left = run(database, "SELECT prefix FROM api_key ORDER BY prefix")
    assert [row.prefix for row in left] == ["lately", "valid"]
