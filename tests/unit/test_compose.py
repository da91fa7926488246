"""The container files: valid, hardened, without secrets, and in step with the code they run."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from ops.cli import main as cli
from shared.settings import Settings

CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent
COMPOSE: dict[str, Any] = YAML(typ="safe").load(CHECKOUT / "docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
ONCE = {"migrate", "roles", "tidy"}
"""The services that run once and end."""
ENTRYPOINT = ["python", "-P", "-m", "ops.cli"]
FROM_OUTSIDE = re.compile(r"\$\{[A-Z_]+:\?[^}]+\}")
SECRET = re.compile(r"PASSWORD|KEY|SECRET|TOKEN")


def lines_of(name: str) -> list[str]:
    return (CHECKOUT / name).read_text(encoding="utf-8").splitlines()


def run(*command: str | Path) -> str:
    """Run a command; return what it had to say if it failed, nothing if it did not."""
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def test_the_compose_file_follows_the_compose_specification() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    assert run(TOOLS / "check-jsonschema", *schema, "docker-compose.yml") == ""


def test_the_linter_finds_nothing_in_the_dockerfile() -> None:
    assert run(TOOLS / "hadolint", "Dockerfile") == ""


def test_each_part_of_the_image_is_a_command() -> None:
    assert f"ENTRYPOINT {json.dumps(ENTRYPOINT)}" in lines_of("Dockerfile")
    commands = get_command(cli.app).commands  # type: ignore[attr-defined]  # a typer application is a group
    assert {name: service["command"] for name, service in OURS.items()} == {
        name: [name] for name in ("migrate", "api", "worker", "tidy")
    }
    for service in OURS.values():
        assert set(service["command"]) <= set(commands)
    health_check = SERVICES["worker"]["healthcheck"]["test"]
    assert health_check == ["CMD", *ENTRYPOINT, "worker-health"]
    assert "worker-health" in commands


@contextmanager
def answering(status: HTTPStatus) -> Iterator[int]:
    """Serve `/healthz` with this status on a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else HTTPStatus.NOT_FOUND)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


@pytest.mark.parametrize(("status", "exit_status"), [(HTTPStatus.OK, 0), (HTTPStatus.NOT_FOUND, 1)])
def test_the_health_check_asks_the_api_itself(status: HTTPStatus, exit_status: int) -> None:
    kind, python, option, code = SERVICES["api"]["healthcheck"]["test"]
    assert (kind, python, option) == ("CMD", "python", "-c")
    assert "9000" in code
    with answering(status) as port:
        done = subprocess.run([sys.executable, option, code.replace("9000", str(port))], check=False)
    assert done.returncode == exit_status


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_runs_without_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] not in {"root", "0", "0:0"}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["stop_grace_period"]
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")


def test_the_api_may_open_enough_files() -> None:
    limits = SERVICES["api"]["ulimits"]["nofile"]
    assert limits["soft"] == limits["hard"]
    assert limits["soft"] > 2 * Settings.model_fields["client_connections_max"].default


def test_only_the_api_is_reached_from_outside() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["api"]
    assert SERVICES["api"]["ports"] == ["${ADMITONE_PUBLISH:-127.0.0.1:9000}:9000"]
    assert [name for name, service in SERVICES.items() if "outside" in service["networks"]] == ["api"]
    assert COMPOSE["networks"]["inside"] == {"internal": True}


def test_whoever_depends_waits_until_the_other_is_healthy_or_has_completed() -> None:
    for service in SERVICES.values():
        for other, wait in service.get("depends_on", {}).items():
            completes = other in ONCE
            assert wait["condition"] == ("service_completed_successfully" if completes else "service_healthy")
            assert completes or "healthcheck" in SERVICES[other]
    for name in ("api", "worker", "tidy"):
        assert set(SERVICES[name]["depends_on"]) == {"roles", "postgres", "redis"}
    assert set(SERVICES["roles"]["depends_on"]) == {"migrate"}
    assert all("healthcheck" in service for name, service in SERVICES.items() if name not in ONCE)


def test_no_secret_stands_in_the_compose_file() -> None:
    secrets = {
        (name, key): value
        for name, service in SERVICES.items()
        for key, value in service.get("environment", {}).items()
        if SECRET.search(key)
    }
    assert len(secrets) == 15
    for value in secrets.values():
        # Without a value it is handed on from outside, or not set.
        assert value is None or FROM_OUTSIDE.fullmatch(value)
    assert not re.search(
        r"://[^/@\s]*:[^/@\s]*@", (CHECKOUT / "docker-compose.yml").read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("name", OURS)
def test_every_setting_in_the_compose_file_is_one_that_the_service_reads(name: str) -> None:
    known = {f"ADMITONE_{field.upper()}": field for field in Settings.model_fields}
    given = SERVICES[name]["environment"]
    assert set(given) <= set(known)
    values = {known[key]: re.sub(r"\$\{.*?(:-(.*))?\}", r"\2", value or "") for key, value in given.items()}
    Settings.model_validate({field: value for field, value in values.items() if value})


def test_only_migrations_and_roles_log_in_as_the_superuser() -> None:
    with_its_password = {
        name
        for name, service in SERVICES.items()
        if "ADMITONE_DATABASE_PASSWORD" in str(service.get("environment"))
    }
    assert with_its_password == {"postgres", "migrate", "roles"}
    for name in ("api", "worker", "tidy"):
        given = SERVICES[name]["environment"]
        assert given["ADMITONE_DATABASE_URL"].startswith(f"postgresql://admitone_{name}@")
        assert given["ADMITONE_PASSWORD"].startswith(f"${{ADMITONE_{name.upper()}_PASSWORD:?")


def test_the_image_is_made_with_the_uv_that_is_locked() -> None:
    with (CHECKOUT / "uv.lock").open("rb") as file:
        packages = tomllib.load(file)["package"]
    (locked,) = (package["version"] for package in packages if package["name"] == "uv")
    assert f"RUN pip install --no-cache-dir uv=={locked}" in lines_of("Dockerfile")


def test_only_what_the_image_is_made_of_can_get_into_it() -> None:
    rules = [line for line in lines_of(".dockerignore") if not line.startswith("#")]
    copied = [
        source
        for line in lines_of("Dockerfile")
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    assert rules == ["*", *sorted((f"!{source}" for source in copied), key=rules.index), "**/__pycache__"]
    assert all((CHECKOUT / source).exists() for source in copied)


def test_the_parts_in_the_image_need_no_package_of_development() -> None:
    code = (
        "import sys; from importlib.metadata import packages_distributions as of\n"
        "import api.main, ops.cli, ops.maintenance.worker_health, ops.maintenance.schema, worker.main\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*(d for name, ds in of().items() if name in names for d in ds))"
    )
    environment = {
        "ADMITONE_DATABASE_URL": "postgresql://host/name",
        "ADMITONE_BROKER_URL": "redis://host",
        "ADMITONE_RESULT_URL": "redis://host",
        "PYTHONPATH": str(CHECKOUT),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        groups = tomllib.load(file)["dependency-groups"]
    unwanted = {re.split(r"[<>=\[]", package)[0] for group in groups.values() for package in group}
    imported = set(done.stdout.split())
    assert {"fastapi", "celery", "alembic"} <= imported
    assert not imported & unwanted
