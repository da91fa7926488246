"""How the stack judges its own API, against a server that answers what the test says."""

import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.rehearsal.temporary_stack import free_port
from ops.stack import readiness
from ops.stack.state_file import AdminKey


@contextmanager
def api(answers: Mapping[str, tuple[int, str]]) -> Iterator[tuple[int, list[tuple[str, str | None, object]]]]:
    """Serve an answer for each "METHOD path"; yield the port and what was asked with which key and body."""
    asked: list[tuple[str, str | None, object]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            what = f"{self.command} {self.path}"
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((what, self.headers.get("Authorization"), json.loads(body) if body else None))
            status, text = answers[what]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = answer  # noqa: N815  # http.server's names

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


def test_ready_means_200() -> None:
    with api({"GET /readyz": (200, "{}")}) as (port, _):
        assert readiness.unready(port) is None


def test_unready_says_what_the_api_says() -> None:
    with api({"GET /readyz": (503, '{"worker":\n "no worker ticks"}')}) as (port, _):
        assert readiness.unready(port) == 'HTTP 503 {"worker": "no worker ticks"}'


def test_unready_says_that_nobody_answers() -> None:
    assert readiness.unready(free_port()) == "the API does not answer ([Errno 111] Connection refused)"


def test_a_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with api({"GET /readyz": (200, "{}")}) as (port, _):
        assert readiness.unready(port) is None


def test_the_demonstration_event_is_made_when_it_is_missing() -> None:
    with api({"GET /api/p/demo": (404, "{}"), "POST /api/events": (201, "{}")}) as (port, asked):
        assert readiness.make_demo(port, "the-key") is None
    assert asked == [("GET /api/p/demo", None, None), ("POST /api/events", "Bearer the-key", readiness.DEMO)]


def test_a_demonstration_event_that_exists_is_left_as_it_is() -> None:
    with api({"GET /api/p/demo": (200, "{}")}) as (port, asked):
        assert readiness.make_demo(port, "the-key") is None
    assert len(asked) == 1


def test_a_demonstration_event_that_cannot_be_made_is_said() -> None:
    with api({"GET /api/p/demo": (404, "{}"), "POST /api/events": (500, "no\n luck")}) as (port, _):
        assert readiness.make_demo(port, "the-key") == "HTTP 500 no luck"
    assert readiness.make_demo(port, "the-key") == "[Errno 111] Connection refused"


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (AdminKey(secret="s", kept_in=None), "  Admin key  as ADMITONE_ADMIN_KEY says"),
        (AdminKey(secret="s", kept_in=Path("/d/admin.key")), "  Admin key  in /d/admin.key"),
        (
            AdminKey(secret="s", kept_in=Path("/d/admin.key"), new=True),
            "  Admin key  s  (kept in /d/admin.key)",
        ),
    ],
)
def test_a_key_is_shown_only_when_it_is_new(key: AdminKey, line: str) -> None:
    assert line in readiness.welcome(9000, key, 2.5, demo=False).splitlines()


def test_without_a_demonstration_event_no_request_for_it_is_offered() -> None:
    key = AdminKey(secret="s", kept_in=None)
    assert "curl" in readiness.welcome(9000, key, 2.5, demo=True)
    assert "curl" not in readiness.welcome(9000, key, 2.5, demo=False)
