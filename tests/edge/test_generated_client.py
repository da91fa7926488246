"""A client that is generated from the OpenAPI document registers, polls, cancels and administers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from tests.stage import Stage

PACKAGE = "generated_admitone_client"


class Client:
    """The generated package: its connection, with a key or without, its calls and its models."""

    def __init__(self, stage: Stage) -> None:
        package = import_module(PACKAGE)
        self.models = import_module(f"{PACKAGE}.models")
        self._options: dict[str, Any] = {"base_url": stage.url, "raise_on_unexpected_status": True}
        self._public = package.Client(**self._options)
        self._admin = package.AuthenticatedClient(token=stage.key, **self._options)

    def call(self, tag: str, name: str, *path: object, **more: object) -> Any:  # noqa: ANN401 - generated
        """Return the answer to a route, by its tag and its operation's id."""
        route: ModuleType = import_module(f"{PACKAGE}.api.{tag}.{name}")
        connection = self._public if tag == "registering" else self._admin
        return route.sync_detailed(*path, client=connection, **more)

    def close(self) -> None:
        for connection in (self._public, self._admin):
            connection.get_httpx_client().close()


@pytest.fixture
def client(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """The client that the running service's document makes."""
    (tmp_path / "config.json").write_text(json.dumps({"post_hooks": []}), encoding="utf-8")
    generated = subprocess.run(
        [
            *(Path(sys.executable).with_name("openapi-python-client"), "generate", "--fail-on-warning"),
            *("--url", f"{stage.url}/openapi.json", "--meta", "none"),
            *("--output-path", tmp_path / PACKAGE, "--config", tmp_path / "config.json"),
        ],
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert generated.returncode == 0, generated.stdout + generated.stderr
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Client(stage)
    yield made
    made.close()
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def test_a_generated_client_does_it_all(client: Client) -> None:
    models, admin = client.models, "administering"
    slug = f"drop-{os.urandom(6).hex()}"

    created = client.call(admin, "create_event", body=models.NewEvent(slug=slug, title="A drop", capacity=1))
    event_id = created.parsed.id
    first = client.call("registering", "register", slug, body=models.Registering(name="Ann"), prefer="wait=9")
    second = client.call(
        "registering", "register", slug, body=models.Registering(name="Bob", email="bob@example.org")
    )
    waiting = client.call("registering", "read_receipt", slug, str(second.parsed.receipt_id), wait=1)
    cancelled = client.call("registering", "cancel", slug, str(first.parsed.receipt_id))
    promoted = client.call("registering", "read_receipt", slug, str(second.parsed.receipt_id), wait=1)
    listed = client.call(admin, "list_registrations", event_id, status=models.Status.CONFIRMED)
    changed = client.call(
        admin,
        "change_registration",
        event_id,
        promoted.parsed.registration.id,
        body=models.RegistrationChange(name="Bob B.", reason="asked"),
    )
    unknown = client.call("registering", "availability", "no-such-event")

    assert (created.status_code, created.parsed.slug) == (HTTPStatus.CREATED, slug)
    assert isinstance(event_id, UUID)
    assert (first.status_code, first.parsed.status) == (201, models.ReceiptStatus.CONFIRMED)
    assert (second.status_code, second.parsed.status) == (201, models.ReceiptStatus.WAITLIST)
    assert second.parsed.registration.waitlist_position == 1
    assert waiting.parsed == second.parsed
    assert (cancelled.parsed.changed, cancelled.parsed.status) == (True, models.ReceiptStatus.CANCELLED)
    assert promoted.parsed.status == models.ReceiptStatus.CONFIRMED
    assert [(item.name, item.email) for item in listed.parsed.items] == [("Bob", "bob@example.org")]
    assert (changed.status_code, changed.parsed.registration.name) == (200, "Bob B.")
    assert (unknown.status_code, unknown.parsed.code) == (404, "EVENT_NOT_FOUND")
