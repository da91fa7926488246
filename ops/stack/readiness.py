"""The stack's requests to its own API: readiness, the demonstration event, the welcome text."""

import http.client
import json
from http import HTTPStatus
from typing import Any

from ops.stack.state_file import AdminKey

ANSWER_SECONDS_MAX = 1.0
DEMO = {"slug": "demo", "title": "Demonstration drop", "capacity": 100}
DEMO_SECONDS_MAX = 10.0


def unready(port: int, path: str = "/readyz") -> str | None:
    """Return the reason why the server of this port is not ready; None if it answers this path with 200."""
    try:
        status, body = _ask(port, ANSWER_SECONDS_MAX, "GET", path)
    except (OSError, http.client.HTTPException) as error:
        return f"the API does not answer ({str(error) or type(error).__name__})"
    return None if status == HTTPStatus.OK else f"HTTP {status} {' '.join(body.split())}"


def make_demo(port: int, key: str) -> str | None:
    """Make the demonstration event if it is missing; return the reason if it cannot be made, else None."""
    try:
        status, body = _ask(port, DEMO_SECONDS_MAX, "GET", f"/api/p/{DEMO['slug']}")
        if status != HTTPStatus.NOT_FOUND:
            return None
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        status, body = _ask(port, DEMO_SECONDS_MAX, "POST", "/api/events", json.dumps(DEMO), headers)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return None if status < HTTPStatus.BAD_REQUEST else f"HTTP {status} {' '.join(body.split())}"


def _ask(port: int, seconds: float, *request: Any) -> tuple[int, str]:
    """Send a request to the API itself, without the environment's proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request(*request)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def welcome(port: int, key: AdminKey, seconds: float, *, demo: bool) -> str:
    """Return the text that shows a person how to go on."""
    url = f"http://localhost:{port}"
    lines = [f"AdmitOne is ready after {seconds:.1f} s.", ""]
    lines += [f"  URL        {url}", f"  Docs       {url}/docs", f"  Admin key  {_where(key)}", ""]
    if demo:
        body = """-H "Content-Type: application/json" -d '{"name":"User A","spotsCount":1}'"""
        request = f"  curl -X POST {url}/api/p/{DEMO['slug']}/register {body}"
        lines += ["Take a spot at the demonstration event:", "", request, ""]
    return "\n".join([*lines, "Ctrl-C stops everything; the data stays."])


def _where(key: AdminKey) -> str:
    if key.kept_in is None:
        return "as ADMITONE_ADMIN_KEY says"
    return f"{key.secret}  (kept in {key.kept_in})" if key.new else f"in {key.kept_in}"
