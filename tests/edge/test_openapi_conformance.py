"""Every answer is as the OpenAPI document says: thousands of requests that schemathesis makes from it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.embedded import Servers
from shared.domain.access import Scope
from tests.stage import CHECKOUT, Stage

SECONDS_MAX = 600
# The words of a cursor are the service's own: only those of a page are right. Clients may read the audit
# trail of a deleted event, and a cancelled receipt.
CONFIG = """
suppress-health-check = ["all"]
parameters = { cursor = "" }

[checks]
use_after_free.enabled = false

[output.sanitization]
enabled = false
"""


@pytest.fixture(scope="module")
def service(
    servers: Servers, module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A service of its own: the requests change and delete whatever they find."""
    with Stage(servers, module_database, tmp_path_factory.mktemp("conformance")) as stage:
        yield stage


def new_key(service: Stage, *scopes: Scope) -> str:
    asked = {"name": f"key {len(scopes)}", "organiser": "City Theatre", "scopes": scopes}
    with service.client() as client:
        answer = client.post("/api/keys", json=asked, headers=service.admin)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["key"])


def must_find_nothing(service: Stage, folder: Path, key: str | None, *options: str) -> None:
    """Fail with what schemathesis finds with this key, if it finds anything."""
    config = folder / "schemathesis.toml"
    sent = "" if key is None else f'[auth.openapi.key]\nbearer = "{key}"\n'
    config.write_text(CONFIG + sent, encoding="utf-8")
    found = subprocess.run(
        [
            *(Path(sys.executable).with_name("schemathesis"), "--no-color", "--config-file", config),
            *("run", f"{service.url}/openapi.json", "--seed", "1", *options),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "SCHEMATHESIS_HOOKS": "tests.edge.schemathesis_hooks"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert "Test cases:" in found.stdout, found.stdout
    if found.returncode:
        pytest.fail(found.stdout, pytrace=False)


@pytest.mark.timeout(SECONDS_MAX + 60)
def test_with_the_admin_key(service: Stage, tmp_path: Path) -> None:
    must_find_nothing(service, tmp_path, service.key, "--max-examples", "10")


@pytest.mark.timeout(SECONDS_MAX + 60)
def test_with_the_key_of_an_organiser(service: Stage, tmp_path: Path) -> None:
    key, but = new_key(service, *Scope), ("--exclude-operation-id", "revoke_key")  # or it revokes itself
    must_find_nothing(service, tmp_path, key, "--phases", "examples,coverage", *but)


@pytest.mark.timeout(SECONDS_MAX + 60)
def test_with_a_key_of_one_scope(service: Stage, tmp_path: Path) -> None:
    key = new_key(service, Scope.EVENTS_READ)
    must_find_nothing(service, tmp_path, key, "--phases", "examples,coverage")


@pytest.mark.timeout(SECONDS_MAX + 60)
def test_without_a_key(service: Stage, tmp_path: Path) -> None:
    must_find_nothing(service, tmp_path, None, "--phases", "examples,coverage")
