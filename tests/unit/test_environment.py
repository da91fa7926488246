"""The environment: what was set for other programs, or by accident, changes nothing."""

import os

import pytest

from shared import environment

OTHERS = (
    *("BROKER_URL", "CELERY_BROKER_URL", "CELERYD_OPTS", "C_FORCE_ROOT", "KOMBU_LOG_DEBUG", "APP", "LOADER"),
    *("CONFIG_MODULE", "RESULT_BACKEND", "SKIP_CHECKS", "PICKLE_PROTOCOL", "AUTOSCALE_KEEPALIVE"),
    *("PGHOST", "PGHOSTADDR", "PGOPTIONS", "PGSERVICE", "PGSSLMODE", "PGTZ", "PGDATESTYLE", "PGPASSWORD"),
    *("PGTARGETSESSIONATTRS", "PGCLIENTENCODING", "PSYCOPG_IMPL", "UVICORN_PORT", "WEB_CONCURRENCY"),
    *("FORWARDED_ALLOW_IPS", "prometheus_multiproc_dir", "PROMETHEUS_DISABLE_CREATED_SERIES"),
    *("admitone_host", "Admitone_Port"),
)
KEPT = {"PATH": "/bin", "SSL_CERT_FILE": "/ca.pem", "TZ": "Asia/Tokyo", "PG_OF_ANOTHER": "x", "HOSTNAME": "h"}


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(os, "environ", {})
    return monkeypatch


def test_variables_of_libraries_are_removed() -> None:
    os.environ.update({**dict.fromkeys(OTHERS, "x"), **KEPT})

    environment.clean()

    assert {name: os.environ[name] for name in (*OTHERS, *KEPT) if name in os.environ} == KEPT


@pytest.mark.parametrize("value", ["", " ", "\n", "\t \r\n"])
def test_an_empty_variable_is_not_set(value: str) -> None:
    os.environ["ADMITONE_HOST"] = value

    environment.clean()

    assert "ADMITONE_HOST" not in os.environ


def test_outer_white_space_is_trimmed() -> None:
    os.environ["ADMITONE_ADMIN_KEY"] = " secret \n"

    environment.clean()

    assert os.environ["ADMITONE_ADMIN_KEY"] == "secret"


def test_links_of_kubernetes_are_no_settings() -> None:
    """A Service named `admitone`, and one named `admitone-worker-metrics`."""
    link = "tcp://10.96.0.7:9000"
    os.environ.update({"ADMITONE_PORT": link, "ADMITONE_WORKER_METRICS_PORT": link})
    os.environ.update({"ADMITONE_SERVICE_HOST": "10.96.0.7", "ADMITONE_SERVICE_PORT": "9000"})
    os.environ.update({"ADMITONE_PORT_9000_TCP": link, "ADMITONE_PORT_9000_TCP_ADDR": "10.96.0.7"})

    environment.clean()

    assert not {"ADMITONE_PORT", "ADMITONE_WORKER_METRICS_PORT"} & set(os.environ)
