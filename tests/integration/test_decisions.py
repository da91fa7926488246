"""Commands of the operator are written only if workers run that know them."""

import psycopg
import pytest
from sqlalchemy import make_url

from ops.maintenance import decisions
from ops.maintenance.decisions import DecisionError
from shared.domain import ids
from shared.domain.commands import Erase
from shared.postgres import locks
from shared.settings import Settings
from tests.databases import run


def test_without_a_worker_nothing_is_written(settings: Settings) -> None:
    with pytest.raises(DecisionError, match="no worker is running"):
        decisions.decide(settings, [(ids.new_id(), Erase())], "operator")

    assert run(settings.database_url, "SELECT FROM command") == []


def test_a_worker_that_knows_no_erasures_gets_none(settings: Settings) -> None:
    plain = make_url(settings.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, application_name="admitone-worker/host/1") as worker:
        worker.execute(
            f"SELECT pg_advisory_lock_shared({locks.WORKER}, 1), pg_advisory_lock({locks.BUCKET}, 1)"
        )
        with pytest.raises(DecisionError, match="a worker of an older version"):
            decisions.decide(settings, [(ids.new_id(), Erase())], "operator")

    assert run(settings.database_url, "SELECT FROM command") == []


def test_an_unreadable_command_is_not_written(settings: Settings) -> None:
    plain = make_url(settings.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, application_name="admitone-worker/host/1") as worker:
        numbers = (locks.WORKER, locks.BUCKET, locks.KNOWS)
        for number in numbers:
            worker.execute(f"SELECT pg_advisory_lock_shared({number}, 2)")
        with pytest.raises(DecisionError, match="reason"):
            decisions.decide(settings, [(ids.new_id(), Erase(reason="\x00"))], "operator")

    assert run(settings.database_url, "SELECT FROM command") == []
