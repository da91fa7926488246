"""Celery's configuration: variables of other programs change nothing of it."""

import os
import subprocess
import sys

import pytest

from shared.messaging import queues
from shared.settings import Settings
from tests.stage import CHECKOUT

SETTINGS = Settings(
    database_url="postgresql://127.0.0.1:9/nothing",
    broker_url="redis://127.0.0.1:9/3",
    result_url="redis://127.0.0.1:9/4",
)
OTHERS = "redis://elsewhere:6399/0"
VARIABLES = (
    *("BROKER_URL", "CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"),
    *("RESULT_BACKEND", "CELERY_RESULT_BACKEND", "CELERY_LOADER", "LOADER", "CONFIG_MODULE"),
    *("CELERY_CONFIG_MODULE", "APP", "CELERY_APP", "SKIP_CHECKS", "CELERY_WORKER_POOL"),
)


def test_variables_of_other_programs_are_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, OTHERS)
    app = queues.celery_app(SETTINGS)

    for connection in (app.connection_for_read(), app.connection_for_write(), app.connection()):
        assert (connection.hostname, connection.port, connection.virtual_host) == ("127.0.0.1", 9, "3")
    assert app.backend.as_uri() == "redis://127.0.0.1:9/4"
    assert app.loader.__class__.__module__ == "celery.loaders.app"


def test_a_worker_starts_beside_variables_of_others() -> None:
    """Celery's command line reads some variables before any code of ours can run in it."""
    code = """
import sys
from worker import main
main.app.worker_main = lambda argv: print(main.app.conf.broker_url, argv[1])
main.serve()
"""
    environment = {
        **dict.fromkeys(VARIABLES, OTHERS),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(CHECKOUT),
        "ADMITONE_DATABASE_URL": SETTINGS.database_url,
        "ADMITONE_BROKER_URL": SETTINGS.broker_url,
        "ADMITONE_RESULT_URL": SETTINGS.result_url,
    }
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout

    assert said.split() == [SETTINGS.broker_url, "worker"]
