"""The users of Redis that `docs/redis/users.acl` names may do all that the parts do, and little more."""

import hashlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from kombu.exceptions import OperationalError
from pydantic import SecretStr
from redis.exceptions import NoPermissionError, RedisError

from ops.embedded import Servers
from shared.messaging import queues, results
from shared.settings import Settings
from tests.integration.test_protection import challenge, post, protect, solution
from tests.integration.test_service_readiness import read
from tests.stage import CHECKOUT, Stage
from tests.unit.test_tls import USERS, Use

ACL = (CHECKOUT / "docs/redis/users.acl").read_text(encoding="utf-8")
AWKWARD = "%2F p@s:s/w?o#r;d&=+,é%"
"""A password with all characters that mean something in a URL."""


class Users(dict[str, str]):
    """The names, of this test's own, of the users of the file; all have the password `AWKWARD`."""


@pytest.fixture
def users(servers: Servers) -> Iterator[Users]:
    suffix = secrets.token_hex(4)
    made = Users()
    digest = hashlib.sha256(AWKWARD.encode()).hexdigest()
    with results.connect(servers.broker_url) as server:
        off, *lines = ACL.splitlines()
        assert off == "user default off"
        for line in lines:
            _, name, *rules = line.split()
            made[name] = f"{name}-{suffix}"
            part = name.removeprefix("admitone_").upper()
            rules = [rule.replace(f"{part}_PASSWORD_SHA256", digest) for rule in rules]
            server.execute_command("ACL", "SETUSER", made[name], *rules)
        yield made
        for name in made.values():
            server.execute_command("ACL", "DELUSER", name)


class AsUsers(Stage):
    """A service whose parts are the users of Redis that the file has for them."""

    users: Users

    def environment_of(self, command: str) -> dict[str, str]:
        """The environment of a part, with its own user in the URLs of Redis and the password beside them."""
        user = self.users[f"admitone_{command}"]
        urls = {
            name: url.replace("://", f"://{user}@")
            for name, url in super().environment_of(command).items()
            if name in {"ADMITONE_BROKER_URL", "ADMITONE_RESULT_URL"}
        }
        return {**super().environment_of(command), **urls, "ADMITONE_PASSWORD": AWKWARD}


def test_the_documented_users_may_do_everything(
    servers: Servers, users: Users, database: str, tmp_path: Path
) -> None:
    unstarted = AsUsers(servers, database, tmp_path)
    unstarted.users = users
    unstarted.more_environment = {
        "ADMITONE_SECRET_KEY": "a secret key of the tests",
        "ADMITONE_LIMIT_REGISTER": "20/1s",
    }
    server = results.connect(servers.broker_url)
    server.script_flush()  # or a script that another test has loaded would not be loaded
    server.config_resetstat()
    with server, unstarted as stage:
        guarded, event = stage.create_event(maxSpotsPerRegistration=2), stage.create_event()
        protect(stage, guarded, spotsPerAddress=4, challenge=True)
        for spots in (1, 3):
            post(stage, guarded, altcha=solution(challenge(stage, guarded)), spotsCount=spots)
        answers = stage.register_at_once(event, [{"name": f"User {n}"} for n in range(12)])
        checks = stage.get("/readyz")

        assert [answer.status_code for answer in answers] == [201] * 12
        assert (checks["degraded"], checks["ready"]) == ([], True)
        assert re.findall("warning.*", stage.log()) == []
        used = {name.removeprefix("cmdstat_") for name in server.info("commandstats")}
        assert set(re.findall(r"\+(\S+)", ACL)) <= used, "a right that no part needs"


@pytest.mark.parametrize("user", ["admitone_api", "admitone_worker"])
@pytest.mark.parametrize(
    "command",
    [
        *("KEYS *", "FLUSHALL", "CONFIG GET *", "MONITOR", "ACL LIST", "INFO", "DEL celery-task-meta-x"),
        *("LLEN other", "SET other x", "PUBLISH other x"),  # commands that both may give, of other names
    ],
)
def test_the_documented_users_may_do_no_more(servers: Servers, users: Users, user: str, command: str) -> None:
    url = servers.result_url.replace("://", f"://{users[user]}:{quote(AWKWARD, safe='')}@")
    with results.connect(url) as client:
        assert client.ping()
        with pytest.raises(NoPermissionError):
            client.execute_command(*command.split())


@pytest.mark.parametrize("use", USERS.values(), ids=USERS)
def test_every_library_reads_an_awkward_password(servers: Servers, users: Users, use: Use) -> None:
    def try_with(password: str) -> None:
        url = servers.result_url.replace("://", f"://{users['admitone_api']}@")
        settings = Settings(
            database_url="postgresql://nowhere/none",
            broker_url=url,
            result_url=url,
            password=SecretStr(password),
        )
        use(queues.celery_app(settings), settings)

    try_with(AWKWARD)
    with pytest.raises((RedisError, OperationalError), match="invalid username-password pair"):
        try_with(AWKWARD + "x")


def test_a_wrong_password_is_named_in_readiness(settings: Settings, users: Users) -> None:
    url = settings.result_url.replace("://", f"://{users['admitone_api']}:wrong@")

    checks = read(settings.model_copy(update={"broker_url": url, "result_url": url})).checks

    reason = "invalid username-password pair or user is disabled."
    assert (checks["broker"], checks["results"]) == (reason, reason)


@pytest.mark.parametrize("queues_of", ["event", "worker"])
def test_a_missing_right_to_queues_is_told(
    servers: Servers, settings: Settings, users: Users, queues_of: str
) -> None:
    user = users["admitone_api"]
    with results.connect(servers.broker_url) as server:
        keys = {*re.findall(r"~\S+", ACL)} - {f"~{queues_of}.*"}
        server.execute_command("ACL", "SETUSER", user, "resetkeys", *keys)
    url = servers.broker_url.replace("://", f"://{user}:{quote(AWKWARD, safe='')}@")

    checks = read(settings.model_copy(update={"broker_url": url})).checks

    assert "no permissions to access" in checks["broker"].lower()
