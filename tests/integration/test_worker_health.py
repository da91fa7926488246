"""The health check of a worker's container, which asks nothing of a worker itself."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.maintenance import worker_health
from shared import processes
from shared.messaging import queues
from shared.postgres import connections
from shared.settings import Settings
from tests.stage import Stage
from worker.ownership import Ownership

CHECKOUT = Path(__file__).resolve().parents[2]


@contextmanager
def a_worker_session(settings: Settings, number: int | None = None) -> Iterator[None]:
    """Hold a session as a worker of this process, or of this number, which then says no more."""
    with connections.worker_session(settings) as session:
        Ownership(session=session, number=number or processes.own_number(), silence_seconds_max=10).join()
        yield


def test_a_worker_lives_while_its_session_holds_its_lock(settings: Settings) -> None:
    assert not worker_health.worker_is_alive(settings)
    with a_worker_session(settings):
        assert worker_health.worker_is_alive(settings)
    assert not worker_health.worker_is_alive(settings)


def test_a_session_without_a_workers_lock_is_no_worker(settings: Settings) -> None:
    with connections.worker_session(settings) as session:
        session.execute("SELECT 1")
        assert not worker_health.worker_is_alive(settings)


def test_a_namesake_in_another_container_says_nothing(settings: Settings) -> None:
    with a_worker_session(settings, number=processes.own_number() ^ 1):
        assert not worker_health.worker_is_alive(settings)


def test_a_worker_that_has_been_silent_for_too_long_does_not_live(settings: Settings) -> None:
    impatient = settings.model_copy(update={"owner_silence_seconds_max": 0.001})
    with a_worker_session(settings):
        assert worker_health.worker_is_alive(settings)
        assert not worker_health.worker_is_alive(impatient)


def test_a_worker_does_not_live_without_the_database(settings: Settings, tmp_path: Path) -> None:
    nowhere = f"postgresql+psycopg://admitone@/admitone?host={tmp_path}"
    assert not worker_health.worker_is_alive(settings.model_copy(update={"database_url": nowhere}))


def test_the_command_line_tells_by_its_exit_status(stage: Stage, settings: Settings) -> None:
    def worker_health(database_url: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "ops.cli", "worker-health"],
            cwd=CHECKOUT,
            env={**stage.environment(), "ADMITONE_DATABASE_URL": database_url},
            capture_output=True,
            text=True,
            check=False,
        )

    assert worker_health(stage.database_url).returncode == 0
    dead = worker_health(settings.database_url)
    assert (dead.returncode, dead.stderr) == (1, "admitone: no worker of this container ticks\n")


def test_no_worker_takes_orders_through_the_broker(stage: Stage) -> None:
    settings = Settings(
        database_url=stage.database_url,
        broker_url=stage.servers.broker_url,
        result_url=stage.servers.result_url,
    )
    assert queues.celery_app(settings).control.inspect(timeout=2).ping() is None
