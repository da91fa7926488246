"""The pages of the service itself, and the headers by which browsers guard every answer."""

import base64
import gzip
import hashlib
import re
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import Connection
from starlette.testclient import TestClient

from api.edge.turns import TURN_SECONDS
from api.main import create_app
from shared.postgres import tables
from shared.settings import Settings
from tests.integration.test_front import answer_with
from tests.stage import Stage

PAGES = Path(__file__).resolve().parents[2] / "api/pages"
SWAGGER_UI = PAGES / "swagger-ui"
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
HASHED = re.compile(r"<(?:style|script)>(.*?)</(?:style|script)>", re.DOTALL)
LOADED = re.compile(r"(?:src|href)=\"([^\"]*)\"|url\(([^)]*)\)|@import")
HANDLER = re.compile(r"<[^>]*\s(?:on\w+|style)\s*=", re.IGNORECASE)
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@pytest.fixture
def api(settings: Settings) -> Iterator[TestClient]:
    """An API in this process, without a worker and without any event."""
    with TestClient(create_app(settings)) as client:
        yield client


def changed(settings: Settings, **values: object) -> TestClient:
    return TestClient(create_app(settings.model_copy(update=values)))


def insert_demonstration(connection: Connection, **terms: object) -> None:
    values = {"id": "01a20b6b-1a30-7c3e-8d11-6fca02cb99f6", "slug": "demo", "title": "A drop", "capacity": 7}
    connection.execute(tables.event.insert().values(values | terms))
    connection.commit()


def policy_of(page: httpx2.Response) -> dict[str, list[str]]:
    """Return the sources of each directive of a page's policy."""
    directives = (part.split() for part in page.headers["content-security-policy"].split(";"))
    return {directive: sources for directive, *sources in directives}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (FIREFOX, "text/html"),
        ("TEXT/HTML", "text/html"),
        ("text/*, application/json;q=0.9", "text/html"),
        ("application/json;q=0.5, text/html; charset=utf-8; q=0.6", "text/html"),
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("application/json, text/html;q=0.9", "application/json"),
        ("text/html;q=0", "application/json"),
        ("text/html;Q=0, */*", "application/json"),
        ("text/html;q=9.9.9", "text/html"),
        (" ," * 3_000 + ";q=" * 3_000, "application/json"),
    ],
    ids=range(13),
)
def test_the_front_page_is_what_the_client_prefers(api: TestClient, accept: str | None, kind: str) -> None:
    answer = api.get("/", headers={"accept": accept} if accept is not None else {})

    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
    assert answer.headers["vary"] == "Accept"


def test_programs_get_links_that_lead_somewhere(stage: Stage) -> None:
    with stage.client() as client:
        found = client.get("/").json()
        links = {name: path for name, path in found["links"].items() if path is not None}
        answers = {name: client.get(path).status_code for name, path in links.items()}

    assert found["service"] == "AdmitOne"
    assert answers.keys() >= {"docs", "openapi", "health", "readiness"}
    assert set(answers.values()) == {200}


def test_the_demonstration_event_is_shown_if_it_exists(api: TestClient, connection: Connection) -> None:
    page = {"accept": FIREFOX}
    before = api.get("/").json()["links"]["demo"], api.get("/", headers=page).text
    insert_demonstration(connection, title='<b>Drop & "more"</b> $version', spots_reserved=3)
    after = api.get("/").json()["links"]["demo"], api.get("/", headers=page).text

    assert before[0] is None
    assert "/api/p/demo" not in before[1]
    assert after[0] == "/api/p/demo"
    assert "&lt;b&gt;Drop &amp; &quot;more&quot;&lt;/b&gt; $version" in after[1]
    assert "4 of 7 spots are left" in after[1]
    assert "<b>" not in after[1]


def test_the_front_page_comes_without_a_database(settings: Settings, tmp_path: Path) -> None:
    nowhere = f"postgresql+psycopg://nobody@/none?host={tmp_path}"
    with changed(settings, database_url=nowhere, answer_wait_seconds=1) as client:
        page, data = client.get("/", headers={"accept": FIREFOX}), client.get("/")

    assert (page.status_code, data.status_code) == (200, 200)
    assert data.json()["links"]["demo"] is None


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_runs_and_loads_only_what_is_its_own(api: TestClient, path: str) -> None:
    page = api.get(path, headers={"accept": FIREFOX})
    policy = policy_of(page)
    inline = [base64.b64encode(hashlib.sha256(part.encode()).digest()) for part in HASHED.findall(page.text)]
    hashed = {source for sources in policy.values() for source in sources if source.startswith("'sha256-")}

    assert {f"'sha256-{digest.decode()}'" for digest in inline} == hashed
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == ["'none'"]
    assert "'unsafe-eval'" not in page.headers["content-security-policy"]
    assert "'unsafe-inline'" not in policy.get("script-src", [])
    assert not [
        url
        for found in LOADED.findall(page.text)
        for url in found
        if url and not url.startswith(("/", "#", "data:"))
    ]
    assert HANDLER.findall(page.text) == []


def test_the_files_of_swagger_ui_are_the_published_ones(api: TestClient) -> None:
    lines = (SWAGGER_UI / "SHA256SUMS").read_text("utf-8").splitlines()
    published = {name: digest for digest, name in map(str.split, lines)}
    asked = re.findall(r'(?:src|href)="/docs/([^"]*)"', api.get("/docs").text)

    assert sorted(asked) == sorted(published)
    for name, digest in published.items():
        answer = api.get(f"/docs/{name}")
        assert hashlib.sha256(answer.content).hexdigest() == digest
        assert gzip.decompress((SWAGGER_UI / f"{name}.gz").read_bytes()) == answer.content
        assert answer.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize(
    "name", ["README.md", "LICENSE", "swagger-ui.css.gz", "..%2fdocs.html", "x/../LICENSE"]
)
def test_no_other_file_is_shown(api: TestClient, name: str) -> None:
    answer = api.get(f"/docs/{name}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_a_contact_for_security_is_told_once_named(settings: Settings) -> None:
    with changed(settings, security_contact="mailto:security@example.org") as client:
        answer = client.get("/.well-known/security.txt")
        page = client.get("/", headers={"accept": FIREFOX})
    with changed(settings) as client:
        without = client.get("/.well-known/security.txt")
        page_without = client.get("/", headers={"accept": FIREFOX})

    fields = dict(line.split(": ", 1) for line in answer.text.splitlines())
    expires = datetime.fromisoformat(fields["Expires"])
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert fields.keys() == {"Contact", "Expires"}
    assert fields["Contact"] == "mailto:security@example.org"
    assert timedelta(days=80) < expires - datetime.now(UTC) < timedelta(days=365)
    assert (without.status_code, without.json()["code"]) == (404, "NOT_FOUND")
    assert ["security.txt" in shown.text for shown in (page, page_without)] == [True, False]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/docs/swagger-ui.css", 200),
        ("GET", "/healthz", 200),
        ("HEAD", "/healthz", 200),
        ("OPTIONS", "/api/events", 204),
        ("GET", "/api/p/{slug}", 200),
        ("POST", "/api/p/{slug}/register", 201),
        ("POST", "/api/p/{slug}/register", 415),
        ("GET", "{receipt}", 304),
        ("GET", "/api/events", 401),
        ("GET", "/api/events/{id}/export", 200),
        ("GET", "/metrics", 200),
        ("TRACE", "/api/events", 405),
        ("GET", "/nowhere", 404),
    ],
)
def test_every_answer_has_the_security_headers(stage: Stage, method: str, path: str, status: int) -> None:
    answer = answer_with(status, stage, method, path)

    for name, value in SECURITY_HEADERS.items():
        assert answer.headers.get_list(name) == [value], name
    assert "strict-transport-security" not in answer.headers
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    "request_", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000 + b"\r\n\r\n"]
)
def test_an_answer_without_a_request_has_them_too(stage: Stage, request_: bytes) -> None:
    host, _, port = stage.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request_)
        answer = b"".join(iter(lambda: connection.recv(65_536), b"")).decode()

    head = answer.partition("\r\n\r\n")[0].lower().splitlines()
    assert head[0].split()[1] in {"400", "431"}
    for name, value in SECURITY_HEADERS.items():
        assert head.count(f"{name}: {value}") == 1


def test_https_is_asked_for_by_setting_only(settings: Settings) -> None:
    with changed(settings, hsts_seconds=31_536_000) as client:
        answers = [
            client.get("/healthz"),
            client.get("/", headers={"accept": FIREFOX}),
            client.get("/nowhere"),
        ]

    for answer in answers:
        assert answer.headers.get_list("strict-transport-security") == ["max-age=31536000"]


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/swagger-ui.css", "/openapi.json", "/healthz"])
def test_a_page_waits_for_its_turn(api: TestClient, path: str) -> None:
    began = time.monotonic()
    answers = [api.get(path) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert time.monotonic() - began >= 2 * TURN_SECONDS, "a crowd would take all of the process"
