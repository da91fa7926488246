"""Settings: every wrong one is named, and none is read twice."""

from difflib import SequenceMatcher
from itertools import combinations

import pytest

from shared import settings, urls
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


@pytest.mark.parametrize("value", ["", " ", "\n"])
def test_an_empty_setting_has_its_default(environment: pytest.MonkeyPatch, value: str) -> None:
    for name in ("HOST", "PORT", "VIEWER_KEY", "METRICS_FOLDER", "TICK_SECONDS", "LOG_FORMAT"):
        environment.setenv(f"ADMITONE_{name}", value)

    found = load(Settings)

    assert (found.host, found.port, found.viewer_key) == ("127.0.0.1", 9000, None)
    assert (found.metrics_folder, found.tick_seconds, found.log_format) == (None, 0.5, "console")


def test_a_line_break_behind_a_value_does_not_count(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ADMITONE_ADMIN_KEY", "0123456789abcdef\n")
    environment.setenv("ADMITONE_RESULT_URL", " redis://localhost/1\r\n")

    found = load(Settings)

    assert found.admin_key is not None
    assert (found.admin_key.get_secret_value(), found.result_url) == (
        "0123456789abcdef",
        "redis://localhost/1",
    )


def test_the_driver_is_named_whatever_the_url_calls_it() -> None:
    assert load(DatabaseSettings).database_url == "postgresql+psycopg://user:secret@localhost/name"


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgresql://user:p%40s@a:1,b:2/name?sslmode=require", "a,b", "1,2"),
        ("postgresql://user:p%40s@[::1]:1,[fe80::2]/name?sslmode=require", "::1,fe80::2", "1,"),
        ("postgresql://user:p%40s@/name?host=a:1&host=b:2&sslmode=require", "a,b", "1,2"),
        ("postgresql://user:p%40s@/name?host=a,b&port=1,2&sslmode=require", "a,b", "1,2"),
    ],
)
def test_a_url_may_name_several_hosts(
    environment: pytest.MonkeyPatch, url: str, hosts: str, ports: str
) -> None:
    environment.setenv("ADMITONE_DATABASE_URL", url)

    assert urls.libpq_arguments(load(DatabaseSettings).database_url) == {
        "host": hosts,
        "port": ports,
        "user": "user",
        "password": "p@s",
        "dbname": "name",
        "sslmode": "require",
    }


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("postgresql://u@h/n?application_name=x&target_session_attrs=read-write", "u@h/n"),
        ("postgresql://u@h/n?sslmode=require&connect_timeout=3", "u@h/n?connect_timeout=3&sslmode=require"),
        ("postgresql://u@%2Frun%2Fpg:5433/n", "u@:5433/n?host=%2Frun%2Fpg"),
    ],
)
def test_a_database_url_is_read_once(environment: pytest.MonkeyPatch, given: str, read: str) -> None:
    environment.setenv("ADMITONE_DATABASE_URL", given)

    assert load(DatabaseSettings).database_url == f"postgresql+psycopg://{read}"


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("postgresql://user@h/n", " %2F p@s:s/w?o#r;d&=+,é%"),
        ("postgresql://user@a:1,b:2/n", "p@s"),
        ("postgresql://user@/n?host=a&host=b", "p/s"),
        ("postgresql://user@%2Frun%2Fpg:5433/n", "p:s"),
    ],
)
def test_a_password_stands_beside_the_url(environment: pytest.MonkeyPatch, url: str, password: str) -> None:
    environment.setenv("ADMITONE_DATABASE_URL", url)
    environment.setenv("ADMITONE_PASSWORD", f"{password}\n")

    found = urls.libpq_arguments(load(DatabaseSettings).database_url)

    assert (found["user"], found["password"]) == ("user", password.strip())


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("redis://user@h/1", "redis://user:p%3Bs@h/1"),
        ("redis://user:own@h/1", "redis://user:own@h/1"),
        ("redis://h/1", "redis://h/1"),
        ("redis+socket://user@/run/r.sock", "redis+socket://user:p%3Bs@/run/r.sock?virtual_host=0"),
        ("amqp://user@a//;amqp://user@b//", "amqp://user:p%3Bs@a//;amqp://user:p%3Bs@b//"),
    ],
)
def test_a_password_is_added_to_a_user_without_one(
    environment: pytest.MonkeyPatch, url: str, read: str
) -> None:
    environment.setenv("ADMITONE_BROKER_URL", url)
    environment.setenv("ADMITONE_PASSWORD", "p;s")

    assert load(Settings).broker_url == read


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("redis://h", "redis://h/0"),
        ("redis://h?db=2", "redis://h/2"),
        ("rediss://h/1", "rediss://h/1?ssl_cert_reqs=required"),
        ("rediss://h/1?ssl_cert_reqs=CERT_NONE", "rediss://h/1?ssl_cert_reqs=none"),
        ("rediss://h/1?ssl_cert_reqs=optional", "rediss://h/1?ssl_cert_reqs=optional"),
        ("redis+socket:///run/r.sock", "redis+socket:///run/r.sock?virtual_host=0"),
        ("unix:///run/r.sock?db=3", "redis+socket:///run/r.sock?virtual_host=3"),
    ],
)
def test_a_redis_url_is_read_once(environment: pytest.MonkeyPatch, given: str, read: str) -> None:
    environment.setenv("ADMITONE_BROKER_URL", given)
    environment.setenv("ADMITONE_RESULT_URL", given)

    found = load(Settings)

    assert (found.broker_url, found.result_url) == (read, read)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ADMITONE_DATABASE_URL", "nonsense", "is not a database URL"),
        ("ADMITONE_DATABASE_URL", "mysql://localhost/x", "must be a postgresql:// URL"),
        ("ADMITONE_BROKER_URL", "localhost:6379", "must be a URL that starts with one of"),
        ("ADMITONE_RESULT_URL", "amqp://localhost", "must be a URL that starts with one of"),
        ("ADMITONE_PORT", "70000", "must be 65535 or less"),
        ("ADMITONE_DATABASE_URL", "", "is not set"),
        ("ADMITONE_DATABASE_URL", " \n", "is not set"),
        ("ADMITONE_DATABASE_URL", '"postgresql://localhost/x"', "has quotation marks around it"),
        ("ADMITONE_DATABASE_URL", "postgresql://local\nhost/x", "has a line break"),
        ("ADMITONE_DATABASE_URL", "postgresql://h/x?schema=public&pool_timeout=5", "pool_timeout, schema$"),
        ("ADMITONE_DATABASE_URL", "postgresql://h/x?prepare_threshold=0", "reads: prepare_threshold$"),
        ("ADMITONE_DATABASE_URL", "postgresql://h/x?options=-csearch_path%3Dy", "has the parameter options"),
        ("ADMITONE_DATABASE_URL", "postgresql://h/x?sslmode=on", 'invalid sslmode value: "on"'),
        ("ADMITONE_DATABASE_URL", "postgresql://a:1,b:x/n", "each may have one port, which is a number"),
        ("ADMITONE_DATABASE_URL", "postgresql://a:1,b:2/n?port=3", "each may have one port"),
        ("ADMITONE_DATABASE_URL", "postgresql://h/x?ssl=true", "has ssl of other drivers; use sslmode="),
        ("ADMITONE_DATABASE_URL", "postgresql://h/x?sslmode=require&sslaccept=strict", "has sslaccept of"),
        (
            "ADMITONE_DATABASE_URL",
            "postgresql://h/x?sslmode=require&sslrootcert=/nowhere",
            "sslrootcert names no file",
        ),
        ("ADMITONE_DATABASE_URL", "postgresql://h/x?sslcert=/nowhere&sslkey=/x", "sslcert names no file"),
        ("ADMITONE_DATABASE_URL", "postgresql://h/x?sslcrl=~/revoked.crl", "sslcrl names no file"),
        ("ADMITONE_DATABASE_URL", "postgresql://h/x?connect_timeout=5s", "must be a whole number"),
        ("ADMITONE_DATABASE_URL", "postgresql://h/x?keepalives_idle=\u0665", "must be a whole number"),
        ("ADMITONE_DATABASE_URL", "postgresql://u:a@b@h/x", "in a password @ is %40"),
        ("ADMITONE_DATABASE_URL", "postgresql://h:99999/x", "invalid port number"),
        ("ADMITONE_DATABASE_URL", "postgresql://h/x?target_session_attrs=standby", "takes no writes"),
        ("ADMITONE_BROKER_URL", "'redis://localhost/0'", "has quotation marks around it"),
        ("ADMITONE_BROKER_URL", "redis://:a/b@localhost/0", "in a password / is %2F"),
        ("ADMITONE_BROKER_URL", "redis://:a#b@localhost/0", "in a password / is %2F"),
        ("ADMITONE_BROKER_URL", "redis://local host/0", "has white space in it"),
        (
            "ADMITONE_BROKER_URL",
            "redis://localhost/0?ssl_cert_reqs=none",
            "reads: ssl_cert_reqs",
        ),
        ("ADMITONE_BROKER_URL", "amqp://localhost//?ssl_ca_certs=/x", "must start with amqps://"),
        ("ADMITONE_BROKER_URL", "amqps://localhost//?ssl_keyfile=/nowhere", "ssl_keyfile names no file"),
        ("ADMITONE_RESULT_URL", "rediss://localhost/1?ssl_ca_certs=/nowhere", "ssl_ca_certs names no file"),
        ("ADMITONE_BROKER_URL", "amqp://localhost:x//", "a port is a number"),
        ("ADMITONE_RESULT_URL", "redis://localhost/results", "by something else than a number"),
        ("ADMITONE_RESULT_URL", "redis://localhost?health_check_interval=5", "reads: health_check_interval"),
        (
            "ADMITONE_RESULT_URL",
            "rediss://localhost?ssl_cert_reqs=maybe",
            "must be required, optional or none",
        ),
        ("ADMITONE_ADMIN_KEY", '"0123456789abcdef"', "has quotation marks around it"),
        ("ADMITONE_ADMIN_KEY", "$(openssl rand -hex 24)", "which no shell replaced"),
        ("ADMITONE_SECRET_KEY", "${SECRET_OF_THE_VAULT}", "which no shell replaced"),
        ("ADMITONE_ADMIN_KEY", "0123456789\nabcdef", "has a line break"),
        ("ADMITONE_ADMIN_KEY", "0123456789abcdéf", "no client can send"),
        ("ADMITONE_ADMIN_KEY", "short", "must have at least 16 characters"),
        ("ADMITONE_CORS_ORIGINS", "https://shop.example/", "must list origins such as"),
        ("ADMITONE_CORS_ORIGINS", "shop.example", "must list origins such as"),
        ("ADMITONE_EMAIL_DOMAINS_REFUSED", "trash.example,@x.example", "must list domains such as"),
        ("ADMITONE_EMAIL_DOMAINS_REFUSED", "trash.example,", "must list domains such as"),
        ("ADMITONE_SECRET_KEY", "short", "at least 16"),
        ("ADMITONE_TRUSTED_PROXIES", "10.0.0.0/8, proxy.example", "must list addresses and networks"),
        ("ADMITONE_TRUSTED_PROXIES", "10.0.0.1/8", "must list addresses and networks"),
        ("ADMITONE_LIMIT_REGISTER", "0/10s", "must be a limit such as 500/10s, or off"),
        ("ADMITONE_LIMIT_KEYS", "500/minute", "must be a limit such as 500/10s, or off"),
        ("ADMITONE_LIMITS", "true", "must be 'on' or 'off'"),
        ("ADMITONE_METRICS_FOLDER", "/nowhere", "is no folder"),
        ("ADMITONE_TICK_SECONDS", "0.5s", "must be a number"),
        ("ADMITONE_TICK_SECONDS", "0", "must be above 0"),
        ("ADMITONE_TICK_SECONDS", "inf", "must be 2592000 or less"),
        ("ADMITONE_PORT", "9000/tcp", "must be a whole number"),
        ("ADMITONE_HOST", "[::1]", "must be an address or a name, without brackets"),
        ("ADMITONE_HOST", "localhost:9000", "without brackets, scheme and port"),
        ("ADMITONE_HOST", "http://localhost", "without brackets, scheme and port"),
        ("ADMITONE_DATABASE_URL", "postgresql://h:0/x", "has the port 0"),
        ("ADMITONE_DATABASE_URL", "postgresql://u:p%00@h/x", "the character %00"),
        ("ADMITONE_RESULT_URL", "redis://h/0?db=3", "names two databases"),
        ("ADMITONE_RESULT_URL", "redis://h/٣", "by something else than a number"),
        ("ADMITONE_RESULT_URL", "redis://h:6379,g:6379/0", "names several hosts"),
        ("ADMITONE_BROKER_URL", "amqp://u:a,b@h,g//", "names several hosts"),
        ("ADMITONE_BROKER_URL", "amqp://h?heartbeat=5", "reads: heartbeat"),
        ("ADMITONE_BROKER_URL", "amqp://h;amqp://g?ssl=true", "reads: ssl"),
        ("ADMITONE_BROKER_URL", "amqps://h?ssl=true", "reads: ssl"),
        ("ADMITONE_BROKER_URL", "amqp://h;redis://g", "names brokers of several kinds"),
        ("ADMITONE_BROKER_URL", "amqp://h;amqps://g", "names brokers of several kinds"),
        ("ADMITONE_BROKER_URL", "amqp://h;", "names brokers of several kinds"),
        ("ADMITONE_SECOND_SECRET_KEY", DIGEST_KEY, "ADMITONE_SECOND_SECRET_KEY equals"),
        ("ADMITONE_ANSWER_WAIT_SECONDS", "60", "is above ADMITONE_ANSWER_WAIT_SECONDS_MAX"),
        ("ADMITONE_EVENT_PENDING_MAX", "300000", "is above ADMITONE_PENDING_MAX"),
        ("ADMITONE_INTAKE_BATCH_MAX", "6000", "is above ADMITONE_INTAKE_WAITING_MAX"),
        ("ADMITONE_APPLY_BATCH_MAX", "6000", "is above ADMITONE_BACKLOG_BATCH_MAX"),
        ("ADMITONE_TICK_SECONDS", "5", "must be at least 4 ticks"),
        ("ADMITONE_RESULT_KEEP_SECONDS", "10", "must be at least twice"),
        ("ADMITONE_TRUSTED_PROXY", "10.0.0.1", "is no setting; ADMITONE_TRUSTED_PROXIES is"),
        ("ADMITONE_DATABASE_CONNECTIONS", "20", "is no setting; ADMITONE_DATABASE_CONNECTIONS_MAX is"),
    ],
)
def test_a_wrong_setting_is_named(environment: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    environment.setenv("ADMITONE_SECRET_KEY", DIGEST_KEY)
    environment.setenv(name, value)

    with pytest.raises(SettingsError, match=said):
        load(Settings)


@pytest.mark.parametrize(
    "name",
    ["API_PASSWORD", "TEST_DATABASE_URL", "WORKER_METRICS_SERVICE_PORT", "PORT_9000_TCP", "API_SERVICE_HOST"],
)
def test_names_of_others_pass(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(f"ADMITONE_{name}", "anything")

    assert load(Settings).port == 9000


def test_no_setting_looks_like_another_misspelt() -> None:
    """An earlier version would refuse the name of a later setting, where both see one environment."""
    alike = [
        names
        for names in combinations(Settings.model_fields, 2)
        if SequenceMatcher(None, *names).ratio() >= settings._ALIKE  # noqa: SLF001
    ]
    assert alike == [("answer_wait_seconds", "answer_wait_seconds_max")], "no version has only one of these"


def test_an_origin_is_as_browsers_send_it(environment: pytest.MonkeyPatch) -> None:
    given = "https://A.example:443, http://a.example:80, http://a.example:443, http://[::1]:80"
    environment.setenv("ADMITONE_CORS_ORIGINS", given)

    assert load(Settings).cors_origins == frozenset(
        ("https://a.example", "http://a.example", "http://a.example:443", "http://[::1]")
    )


@pytest.mark.parametrize("host", ["localhost", "api_1.internal", "10.0.0.1", "::", "::1", "fe80::1%eth0"])
def test_a_host_is_an_address_or_a_name(environment: pytest.MonkeyPatch, host: str) -> None:
    environment.setenv("ADMITONE_HOST", host)

    assert load(Settings).host == host


def test_the_viewer_key_is_not_the_admin_key(environment: pytest.MonkeyPatch) -> None:
    for name in ("ADMITONE_ADMIN_KEY", "ADMITONE_VIEWER_KEY"):
        environment.setenv(name, "one-key-for-everything")

    with pytest.raises(SettingsError, match="is the same as ADMITONE_ADMIN_KEY") as error:
        load(Settings)

    assert "one-key" not in str(error.value)


def test_all_that_is_missing_is_named_at_once(environment: pytest.MonkeyPatch) -> None:
    for name in GOOD:
        environment.delenv(name)

    with pytest.raises(SettingsError) as error:
        load(Settings)

    assert str(error.value).splitlines() == [f"{name}: is not set" for name in GOOD]
