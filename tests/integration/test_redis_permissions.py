"""The users of Redis that the documentation names may do all that the parts do."""

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.embedded import Servers
from shared.messaging import results
from tests.integration.test_protection import challenge, post, protect, solution
from tests.stage import CHECKOUT, Stage

PAGE = (CHECKOUT / "docs/operating.md").read_text(encoding="utf-8")


@pytest.fixture
def users(servers: Servers) -> Iterator[Servers]:
    """The URLs of the documented users, with names of this test's own."""
    suffix = secrets.token_hex(4)
    server = results.connect(servers.broker_url)
    lines = re.findall(r"ACL SETUSER (\w+) (.*)", PAGE)
    assert [name for name, _ in lines] == ["broker", "results"]
    for name, rules in lines:
        server.execute_command("ACL", "SETUSER", f"{name}-{suffix}", *rules.split())  # type: ignore[no-untyped-call]
    yield Servers(
        database_url=servers.database_url,
        broker_url=servers.broker_url.replace("://", f"://broker-{suffix}:password@"),
        result_url=servers.result_url.replace("://", f"://results-{suffix}:password@"),
    )
    for name, _ in lines:
        server.execute_command("ACL", "DELUSER", f"{name}-{suffix}")  # type: ignore[no-untyped-call]
    server.close()


def test_the_documented_users_may_do_everything(users: Servers, database: str, tmp_path: Path) -> None:
    unstarted = Stage(users, database, tmp_path)
    unstarted.more_environment = {
        "ADMITONE_SECRET_KEY": "a secret key of the tests",
        "ADMITONE_LIMIT_REGISTER": "20/1s",
    }
    with unstarted as stage:
        guarded, event = stage.create_event(maxSpotsPerRegistration=2), stage.create_event()
        protect(stage, guarded, spotsPerAddress=4, challenge=True)
        for spots in (1, 3):
            post(stage, guarded, altcha=solution(challenge(stage, guarded)), spotsCount=spots)
        answers = stage.register_at_once(event, [{"name": f"User {n}"} for n in range(12)])
        checks = stage.get("/readyz")

        assert [answer.status_code for answer in answers] == [201] * 12
        assert (checks["degraded"], checks["ready"]) == ([], True)
        assert re.findall("warning.*", stage.log()) == []
