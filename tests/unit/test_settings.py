"""Settings: every wrong one is named, and none is read twice."""

import pytest

from shared.postgres import connections
from shared.settings import DatabaseSettings, Settings, SettingsError, load

GOOD = {
    "ADMITONE_DATABASE_URL": "postgres://user:secret@localhost/name",
    "ADMITONE_BROKER_URL": "redis://localhost/0",
    "ADMITONE_RESULT_URL": "redis://localhost/1",
}
DIGEST_KEY = "the key of digests"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_the_driver_is_named_whatever_the_url_calls_it() -> None:
    assert load(DatabaseSettings).database_url == "postgresql+psycopg://user:secret@localhost/name"


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgresql://user:p%40s@a:1,b:2/name?sslmode=require", "a,b", "1,2"),
        ("postgresql://user:p%40s@/name?host=a:1&host=b:2&sslmode=require", "a,b", "1,2"),
        ("postgresql://user:p%40s@/name?host=a,b&port=1,2&sslmode=require", "a,b", "1,2"),
    ],
)
def test_a_url_may_name_several_hosts(
    environment: pytest.MonkeyPatch, url: str, hosts: str, ports: str
) -> None:
    environment.setenv("ADMITONE_DATABASE_URL", url)

    assert connections.libpq_arguments(load(DatabaseSettings).database_url) == {
        "host": hosts,
        "port": ports,
        "user": "user",
        "password": "p@s",
        "dbname": "name",
        "sslmode": "require",
    }


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ADMITONE_DATABASE_URL", "nonsense", "is not a database URL"),
        ("ADMITONE_DATABASE_URL", "mysql://localhost/x", "must be a postgresql:// URL"),
        ("ADMITONE_BROKER_URL", "localhost:6379", "must be a URL that starts with one of"),
        ("ADMITONE_RESULT_URL", "amqp://localhost", "must be a URL that starts with one of"),
        ("ADMITONE_PORT", "70000", "less than or equal to 65535"),
        ("ADMITONE_HOST", "", "is empty"),
        ("ADMITONE_HOST", " ", "is empty"),
        ("ADMITONE_VIEWER_KEY", "", "is empty"),
        ("ADMITONE_DATABASE_URL", "", "is empty"),
        ("ADMITONE_TICK_SECONDS", "", "is empty"),
        ("ADMITONE_ADMIN_KEY", "short", "at least 16"),
        ("ADMITONE_CORS_ORIGINS", "https://shop.example/", "must list origins such as"),
        ("ADMITONE_CORS_ORIGINS", "shop.example", "must list origins such as"),
        ("ADMITONE_EMAIL_DOMAINS_REFUSED", "trash.example,@x.example", "must list domains such as"),
        ("ADMITONE_EMAIL_DOMAINS_REFUSED", "trash.example,", "must list domains such as"),
        ("ADMITONE_SECRET_KEY", "short", "at least 16"),
        ("ADMITONE_SECOND_SECRET_KEY", DIGEST_KEY, "ADMITONE_SECOND_SECRET_KEY equals"),
        ("ADMITONE_ANSWER_WAIT_SECONDS", "60", "is above ADMITONE_ANSWER_WAIT_SECONDS_MAX"),
        ("ADMITONE_EVENT_PENDING_MAX", "300000", "is above ADMITONE_PENDING_MAX"),
        ("ADMITONE_INTAKE_BATCH_MAX", "6000", "is above ADMITONE_INTAKE_WAITING_MAX"),
        ("ADMITONE_APPLY_BATCH_MAX", "6000", "is above ADMITONE_BACKLOG_BATCH_MAX"),
        ("ADMITONE_TICK_SECONDS", "5", "must be at least 4 ticks"),
        ("ADMITONE_RESULT_KEEP_SECONDS", "10", "must be at least twice"),
    ],
)
def test_a_wrong_setting_is_named(environment: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    environment.setenv("ADMITONE_SECRET_KEY", DIGEST_KEY)
    environment.setenv(name, value)

    with pytest.raises(SettingsError, match=said):
        load(Settings)


def test_all_that_is_missing_is_named_at_once(environment: pytest.MonkeyPatch) -> None:
    for name in GOOD:
        environment.delenv(name)

    with pytest.raises(SettingsError) as error:
        load(Settings)

    assert str(error.value).splitlines() == [f"{name}: is not set" for name in GOOD]
