"""The service as Docker Compose runs it, on servers of this machine: same variables, same SQL, same users.

And as it runs where the owner of the tables is no superuser. Each command runs under its documented role.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import redis
from sqlalchemy import URL

from ops.embedded import Servers, valkey
from ops.rehearsal.temporary_stack import free_port
from tests.e2e import postgres_clusters
from tests.e2e.stacks import wait_for
from tests.integration.old_systems import PRISMA
from tests.stage import CHECKOUT, Json, Stage
from tests.unit.test_compose import COMPOSE, SERVICES

pytestmark = pytest.mark.timeout(300)

AWKWARD = "%2Fp@s:s/w?o#r;d$&=+,'é%"
VARIABLES = {
    **{f"ADMITONE_{part}_PASSWORD": f"{part}{AWKWARD}" for part in ("DATABASE", "API", "WORKER", "TIDY")},
    "ADMITONE_ADMIN_KEY": "an-admin-key-of-the-tests",
    "ADMITONE_SECRET_KEY": "a secret key of the tests",
}
"""The file `.env`."""
SERVICE_OF = {
    "owner": "migrate",
    **{f"admitone_{name}": name for name in ("api", "worker", "tidy")},
}
"""The service of Docker Compose that logs in with each role."""
PAGE = (CHECKOUT / "docs/operating.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## Roles\n")[2].partition("\n## ")[0]
ROLES = {
    command: re.findall(r"owner|admitone_\w+|none", roles.partition("; only")[0])
    for command, roles in re.findall(r"^\| `\./admitone ([^`]+)` \| ([^|]+) \|", SECTION, re.MULTILINE)
}
"""The roles of each command, as the page has them."""
NOT_ALONE = {"api", "worker"}
"""The commands that run for good, as parts of the service."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the servers of the compose file are on this machine, and the name of the owner of the tables."""

    owner: URL
    redis_port: int

    def variables(self, service: str) -> dict[str, str]:
        """Return the environment of a service of the compose file."""
        given = SERVICES[service]["environment"]
        values = {name: VARIABLES.get(name) if value is None else value for name, value in given.items()}
        return {name: self.text(value) for name, value in values.items() if value is not None}

    def text(self, value: str) -> str:
        """Return a text of the compose file as Compose reads it, with the addresses of this machine."""
        value = re.sub(
            r"\$\{(\w+)(?::\?[^}]*|:-([^}]*))?\}", lambda v: VARIABLES.get(v[1], v[2] or ""), value
        )
        for name, here in {
            "//admitone@": f"//{self.owner.username}@",
            "@postgres:5432/admitone": f"@/admitone?host={self.owner.query['host']}",
            "--host=postgres": f"--host={self.owner.query['host']}",
            "--username=admitone": f"--username={self.owner.username}",
            "redis:6379": f"127.0.0.1:{self.redis_port}",
            "redis-cli": f"redis-cli -p {self.redis_port}",
            "$$": "$",
        }.items():
            value = value.replace(name, here)
        return value


class Composed(Stage):
    """API and worker with the environments of the compose file, and nothing else."""

    place: Place

    def environment_of(self, command: str) -> dict[str, str]:
        """The environment of the process that runs this command."""
        return {"PATH": os.environ["PATH"], **self.place.variables(command)}

    def run(self, role: str, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the command line in the place of a role."""
        variables = self.place.variables(SERVICE_OF.get(role, "api"))
        if role == "admitone_nothing":
            variables = self.place.variables("migrate")
            name = f"//{self.place.owner.username}@"
            variables["ADMITONE_DATABASE_URL"] = variables["ADMITONE_DATABASE_URL"].replace(
                name, f"//{role}@"
            )
            variables["ADMITONE_SECRET_KEY"] = VARIABLES["ADMITONE_SECRET_KEY"]
        return subprocess.run(
            [sys.executable, "-P", "-m", "ops.cli", *command],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), **variables},
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )


def start_redis(place: Place, folder: Path, stack: ExitStack) -> None:
    """Run the command of the compose file's Redis, with Valkey in the place of Redis."""
    *shell, script = SERVICES["redis"]["command"]
    (config,) = SERVICES["redis"]["configs"]
    for name, here in {
        config["target"]: shlex.quote(str(CHECKOUT / COMPOSE["configs"][config["source"]]["file"])),
        "> /tmp/": f"> {folder}/",
        "--aclfile /tmp/": f"--aclfile {folder}/",
        "exec redis-server": (
            f"exec {shlex.quote(str(valkey.binary()))} --port {place.redis_port} --bind 127.0.0.1"
        ),
    }.items():
        assert name in script
        script = script.replace(name, str(here))
    log = stack.enter_context((folder / "redis.log").open("wb"))
    process = subprocess.Popen(
        [*shell, place.text(script)],
        env={"PATH": os.environ["PATH"], **place.variables("redis")},
        cwd=folder,
        stdout=log,
        stderr=log,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    wait_for(process, place.redis_port, folder / "redis.log")


def make_roles(place: Place, programs: Path) -> None:
    """Run the service `roles` of the compose file."""
    service = SERVICES["roles"]
    command = place.text(service["command"])
    for config in service["configs"]:
        here = CHECKOUT / COMPOSE["configs"][config["source"]]["file"]
        command = command.replace(f"--file={config['target']}", shlex.quote(f"--file={here}"))
    program, *arguments = shlex.split(command)
    done = subprocess.run(
        [programs / program, *arguments],
        env={"PATH": os.environ["PATH"], **place.variables("roles")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


WITH_SUPERUSER = "embedded-superuser"
WITH_CREATEROLE = [f"{name}-createrole" for name in postgres_clusters.installed()]


@pytest.fixture(scope="module", params=[WITH_SUPERUSER, *WITH_CREATEROLE])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """The running service, whose tables belong to a superuser, or to a role that may only make roles."""
    server, _, kind = request.param.rpartition("-")
    programs, folder = postgres_clusters.installed()[server], tmp_path_factory.mktemp("composed")
    password = VARIABLES["ADMITONE_DATABASE_PASSWORD"]
    with ExitStack() as stack:
        superuser = stack.enter_context(postgres_clusters.running(programs, password))
        owner = superuser if kind == "superuser" else superuser.set(username="an_owner")
        quoted = password.replace("'", "''")
        postgres_clusters.execute(
            superuser.set(database="postgres"),
            f"CREATE ROLE an_owner LOGIN CREATEROLE PASSWORD '{quoted}'",
            f"CREATE ROLE admitone_nothing LOGIN PASSWORD '{quoted}'",
            *(f"CREATE DATABASE {name} OWNER {owner.username}" for name in ("admitone", "old")),
        )
        postgres_clusters.execute(owner.set(database="old"), PRISMA)
        place = Place(owner=owner, redis_port=free_port())
        start_redis(place, folder, stack)
        database = superuser.set(database="admitone").render_as_string(hide_password=False)
        addresses = Servers(database_url=database, broker_url="", result_url="")
        composed = Composed(addresses, database, folder)
        composed.place, composed.key = place, VARIABLES["ADMITONE_ADMIN_KEY"]
        migrated = composed.run("owner", "migrate")
        assert migrated.returncode == 0, migrated.stderr
        for _ in range(2):
            make_roles(place, programs)
        yield stack.enter_context(composed)


def test_each_part_logs_in_as_itself(service: Composed) -> None:
    event = service.create_event()
    answers = service.register_at_once(event, [{"name": f"User {n}"} for n in range(12)])
    checks = service.get("/readyz")
    users = service.query(
        "SELECT DISTINCT split_part(application_name, '/', 1) AS part, usename FROM pg_stat_activity "
        "WHERE application_name LIKE 'admitone-%%' ORDER BY part"
    )

    assert [answer.status_code for answer in answers] == [201] * 12
    assert (checks["ready"], checks["degraded"]) == (True, [])
    assert users == [
        {"part": "admitone-api", "usename": "admitone_api"},
        {"part": "admitone-worker", "usename": "admitone_worker"},
    ]
    assert '"level": "warning"' not in service.log()
    assert not [part for part in ("API", "WORKER", "DATABASE") if f"{part}{AWKWARD[:6]}" in service.log()]
    with redis.Redis(port=service.place.redis_port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="there is no redis-cli on this machine")
def test_redis_is_healthy_by_its_own_check(service: Composed) -> None:
    kind, check = SERVICES["redis"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    health = partial(subprocess.run, ["sh", "-c", service.place.text(check)], check=False)
    variables = {"PATH": os.environ["PATH"], **service.place.variables("redis")}

    assert health(env=variables).returncode == 0
    assert health(env={**variables, "ADMITONE_API_PASSWORD": "wrong"}).returncode != 0


def arguments(service: Composed, command: str, event: Json, registration: str, key: str) -> Sequence[str]:
    """Return a whole command line for a command."""
    return [
        *command.split(),
        *{
            "audit replay": [event["slug"]],
            "adopt": [source(service)],
            "tidy": ["--days", "0"],
            "erase": ["--registration", registration],
            "keys create": ["box office", "--scope", "events:read"],
            "keys revoke": [key],
            "assign": ["City Theatre", event["slug"]],
            "rehearse": ["--url", service.url, "--registrations", "40", "--capacity", "9", "--clients", "5"],
        }.get(command, []),
    ]


def source(service: Composed) -> str:
    """Return the URL of a database of another system, as its own owner reaches it."""
    return str(service.place.owner.set(database="old").render_as_string(hide_password=False))


def key_of(service: Composed) -> str:
    """Return the prefix of an API key of this service."""
    with service.client() as client:
        body = {"name": f"key {time.monotonic_ns()}", "scopes": ["events:read"], "organiser": None}
        made: Json = client.post("/api/keys", json=body, headers=service.admin).json()
    return str(made["apiKey"]["prefix"])


def break_what_heals(service: Composed, role: str, event: Json) -> None:
    """Give the event a drift; for the owner, whose right it takes, set the numbering back as well."""
    service.query("UPDATE event SET spots_reserved = spots_reserved - 1 WHERE id = %s", event["id"])
    if role == "owner":
        service.query("SELECT setval('command_seq_seq', 1)")


@pytest.mark.parametrize("service", WITH_CREATEROLE, indirect=True)
def test_every_command_works_in_its_role(service: Composed, request: pytest.FixtureRequest) -> None:
    event = service.create_event()
    found: dict[tuple[str, str], str] = {}
    for command, roles in ROLES.items():
        if command in NOT_ALONE:
            continue
        of_all = "embedded" in request.node.name and roles != ["none"]
        for role in dict.fromkeys([*roles, "owner"] if of_all else roles):
            person = {"name": f"{command} {role}", "email": f"{len(found)}@example.org"}
            (answer,) = service.register_at_once(event, [person])
            if command == "verify --heal":
                break_what_heals(service, role, event)
            registration = answer.json()["registration"]["id"]
            key = key_of(service) if command == "keys revoke" else ""
            line = arguments(service, command, event, registration, key)
            done = service.run(role, *line)
            found[command, role] = f"{done.returncode}\n{done.stdout}{done.stderr}"

    assert [(asked, said) for asked, said in found.items() if not said.startswith("0\n")] == []
    assert "samples" in found["erase", "admitone_api"]
    assert "samples" not in found["erase", "owner"]
    assert len(found) > 20


def test_the_age_of_ticks_is_told_by_right(service: Composed) -> None:
    told = {
        role: json.loads(service.run(role, "status", "--json").stdout)["workers"][0]["tickAgeSeconds"]
        for role in ("admitone_api", "admitone_worker")
    }

    (granted,) = service.query("SELECT pg_has_role('admitone_api', 'pg_read_all_stats', 'USAGE') AS granted")
    assert (told["admitone_api"] is not None) == granted["granted"]
    assert told["admitone_worker"] is not None
    assert service.get("/readyz")["checks"]["worker"] == "ok"


@pytest.mark.parametrize("service", [WITH_SUPERUSER], indirect=True)
@pytest.mark.parametrize("command", sorted({*ROLES} - NOT_ALONE - {"rehearse", "worker-health"}))
def test_a_missing_right_is_one_line(service: Composed, command: str) -> None:
    event = service.create_event()

    done = service.run(
        "admitone_nothing", *arguments(service, command, event, event["id"], "ao_000000000000")
    )

    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("admitone: ")
    assert "permission denied" in line
