"""The one reading of each URL, for all parts: API, worker, migrations, commands, Celery, kombu and redis-py.

Libraries read the same URL in different ways: each knows parameters that another drops or stumbles over. Here
a URL is brought into the form that all of them read alike; a URL that can never work is refused by a
`ValueError` for a person, which quotes neither user nor password.
"""

import os
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from psycopg import pq
from psycopg.conninfo import make_conninfo
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

_REDIS = ("redis", "rediss", "redis+socket", "unix")
_AMQP = ("amqp", "amqps")
_SEVERAL_HOSTS = re.compile(r"(?P<scheme>[^:]+://(?:[^@/?]*@)?)(?P<hosts>[^@/?]*,[^@/?]*)(?P<rest>/.*)")
_HOST_AND_PORT = re.compile(r"(?:\[([^\]]*)\]|([^:]*)):?(.*)")
_SET_BY_US = frozenset(
    {"application_name", "fallback_application_name", "client_encoding", "target_session_attrs"}
)
_WHOLE_NUMBERS = frozenset(
    {
        *("connect_timeout", "tcp_user_timeout"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    }
)
_NEVER = {
    "options": "AdmitOne sets its sessions itself; for more, use ALTER ROLE … SET",
    "replication": "AdmitOne needs ordinary sessions",
}
_STANDBYS_ONLY = {"standby", "read-only"}
_TLS_PARAMETERS = frozenset(
    {"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}
)
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_DATABASE_TLS_FILES = ("sslrootcert", "sslcert", "sslcrl", "sslcrldir")
_TLS_OF_OTHER_DRIVERS = {"ssl", "tls", "sslaccept", "uselibpqcompat"}
_SYSTEMS_ROOTS = ("sslrootcert", "system")
_CERTIFICATES = {"required", "optional", "none"}
_BOOLEANS = {"true", "false"}
_NO_HOST = "/nonexistent"
_USER_ALONE = re.compile(r"(?<=://)[^:@/?#;]+(?=@)")


def with_password(value: str, password: str) -> str:
    """Return a URL, or several, with this password where it names a user and no password."""
    return _USER_ALONE.sub(lambda user: f"{user[0]}:{quote(password, safe='')}", value)


def database(value: str) -> str:
    """Return a PostgreSQL URL in SQLAlchemy's form, without the parameters that AdmitOne sets itself."""
    try:
        url = make_url(_hosts_in_query(value))
    except (ArgumentError, ValueError) as error:
        raise ValueError("is not a database URL, such as postgresql://user:password@host/name") from error
    if url.drivername not in {"postgres", "postgresql", "postgresql+psycopg"}:
        raise ValueError(f"must be a postgresql:// URL, not {url.drivername}://")
    if url.port == 0 or "\0" in unquote(value):
        raise ValueError("has the port 0, or the character %00, with which nothing can be reached")
    check_host(url.host)
    url = url.set(drivername="postgresql+psycopg")
    if url.host is not None and url.host.startswith(("%2F", "%2f")):  # libpq's form of a socket's folder
        url = url.set(host="").update_query_dict({"host": unquote(url.host)})
    _check_parameters(url)
    read = url.difference_update_query(_SET_BY_US).render_as_string(hide_password=False)
    try:
        arguments = libpq_arguments(read)
    except ArgumentError as error:
        raise ValueError("names several hosts: each may have one port, which is a number") from error
    _check_by_libpq(arguments)
    return read


def libpq_arguments(database_url: str) -> dict[str, Any]:
    """Return libpq's parameters for a URL in SQLAlchemy's form, which may name several hosts."""
    url = make_url(database_url).set(drivername="postgresql+psycopg")
    _, arguments = url.get_dialect()().create_connect_args(url)
    return dict(arguments)


def check_host(host: str | None) -> None:
    """Refuse a host that has the end of a password in it, which messages would show."""
    if host is not None and "@" in host:
        raise ValueError("has two @, and the host is behind the last one: in a password @ is %40")


def check_database_tls(query: Mapping[str, object]) -> None:
    """Refuse parameters of a database URL with which libpq would verify less than they ask for.

    libpq passes over a file that does not exist: by `sslmode=require` it then takes any certificate. The
    parameters of other drivers have words of their own.
    """
    if foreign := sorted(name for name in query if name in _TLS_OF_OTHER_DRIVERS):
        raise ValueError(
            f"has {', '.join(foreign)} of other drivers; "
            "use sslmode=require, or sslmode=verify-full with sslrootcert=system or a file"
        )
    named = {name: str(file) for name, file in query.items() if file and (name, file) != _SYSTEMS_ROOTS}
    _check_files(named, _DATABASE_TLS_FILES)


def redis(value: str) -> str:
    """Return a Redis URL in the form that Celery, kombu and redis-py read alike; TLS verifies by default."""
    _check_scheme(value, _REDIS)
    url = _split(re.sub("^unix:", "redis+socket:", value))
    given = dict(parse_qsl(url.query, keep_blank_values=True))
    numbers, path = {given.pop(name) for name in ("virtual_host", "db") if name in given}, url.path
    if url.scheme != "redis+socket":
        numbers |= {path.strip("/")} - {""}
    number = numbers.pop() if numbers else "0"
    if numbers:
        raise ValueError("names two databases")
    if not re.fullmatch("[0-9]+", number):
        raise ValueError("names its database by something else than a number, such as redis://host:6379/0")
    if url.scheme != "redis+socket":
        path = f"/{number}"
    if url.scheme == "rediss":
        given = _tls_parameters(given)
    _refuse_unknown(set(given) - (_TLS_PARAMETERS if url.scheme == "rediss" else set()))
    if url.scheme == "redis+socket":
        given["virtual_host"] = number
    return _joined(url.scheme, url.netloc + path, given)


def broker(value: str) -> str:
    """Return the broker's URL; one of a Redis as `redis` returns it."""
    _check_scheme(value, (*_REDIS, *_AMQP))
    if not value.startswith(_AMQP):
        return redis(value)
    for url in map(_split, value.split(";")):
        if url.scheme != value.partition("://")[0]:
            raise ValueError("names brokers of several kinds: each URL must start alike")
        if url.scheme == "amqp" and "ssl_" in url.query:
            raise ValueError("has parameters for TLS; then it must start with amqps://")
        given = dict(parse_qsl(url.query, keep_blank_values=True))
        _refuse_unknown(
            set(_tls_parameters(given)) - _TLS_PARAMETERS if url.scheme == "amqps" else set(given)
        )
    return value


def amqp_tls(broker_url: str) -> tuple[str, dict[str, Any] | None]:
    """Return a broker's URL as py-amqp reads it, and py-amqp's parameters for TLS, None without TLS.

    Certificates are verified by default, and the host's name in them unless the URL names several brokers.
    """
    if not broker_url.startswith("amqps"):
        return broker_url, None
    parts = [_split(part) for part in broker_url.split(";")]
    queries = [dict(parse_qsl(part.query)) for part in parts]
    given = _tls_parameters(queries[0])
    verified = ssl.VerifyMode[f"CERT_{given.pop('ssl_cert_reqs').upper()}"]
    checks_name = given.pop("ssl_check_hostname", "true") == "true" and len(parts) == 1
    options: dict[str, Any] = {
        name.removeprefix("ssl_"): given[name] for name in _TLS_PARAMETERS & set(given)
    }
    options["cert_reqs"] = verified
    if verified is not ssl.CERT_NONE and checks_name:
        options["server_hostname"] = parts[0].hostname
    plain = [{name: query[name] for name in query if name not in _TLS_PARAMETERS} for query in queries]
    return ";".join(
        _joined(part.scheme, part.netloc + part.path, query) for part, query in zip(parts, plain, strict=True)
    ), options


def _tls_parameters(given: dict[str, str]) -> dict[str, str]:
    """Return a URL's parameters with `ssl_cert_reqs` as all users read it; it is `required` by default."""
    wanted = given.get("ssl_cert_reqs", "required").removeprefix("CERT_").lower()
    if wanted not in _CERTIFICATES:
        raise ValueError("ssl_cert_reqs must be required, optional or none")
    checked = given.get("ssl_check_hostname", "true").lower()
    if checked not in _BOOLEANS:
        raise ValueError("ssl_check_hostname must be true or false")
    _check_files(given, _TLS_FILES)
    hostname = {"ssl_check_hostname": checked} if "ssl_check_hostname" in given else {}
    return {**given, "ssl_cert_reqs": wanted, **hostname}


def _check_files(given: Mapping[str, str], names: tuple[str, ...]) -> None:
    for name in names:
        if name in given and not os.access(given[name], os.R_OK):
            raise ValueError(f"{name} names no file that this process can read")


def _check_scheme(value: str, schemes: tuple[str, ...]) -> None:
    scheme, separator, address = value.partition("://")
    if not separator or not address or scheme not in schemes:
        raise ValueError(f"must be a URL that starts with one of {', '.join(f'{s}://' for s in schemes)}")
    if re.search(r"\s", value):
        raise ValueError("has white space in it")
    if "," in address.rpartition("@")[2].partition("/")[0]:
        raise ValueError("names several hosts: a Redis has one, and brokers of AMQP are divided by ;")


def _check_parameters(url: URL) -> None:
    check_database_tls(url.query)
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    _refuse_unknown(set(url.query) - known)
    for name, reason in _NEVER.items():
        if name in url.query:
            raise ValueError(f"has the parameter {name}, which has no place there: {reason}")
    if url.query.get("target_session_attrs") in _STANDBYS_ONLY:
        raise ValueError("asks by target_session_attrs for a server that takes no writes")
    for name in _WHOLE_NUMBERS & set(url.query):
        if not re.fullmatch("[0-9]{1,9}", str(url.query[name])):
            raise ValueError(f"has the parameter {name}, which must be a whole number")


def _split(value: str) -> SplitResult:
    with suppress(ValueError):
        url = urlsplit(value)
        if not url.fragment and url.port != 0:
            return url
    raise ValueError("is malformed: a port is a number; in a password / is %2F, ? is %3F and # is %23")


def _joined(scheme: str, address: str, query: Mapping[str, str]) -> str:
    return f"{scheme}://{address}" + (f"?{urlencode(query, safe='/')}" if query else "")


def _refuse_unknown(names: set[str]) -> None:
    if names:
        raise ValueError(f"has parameters that no part of AdmitOne reads: {', '.join(sorted(names))}")


def _check_by_libpq(arguments: dict[str, Any]) -> None:
    """Let libpq check the values; nothing is connected, because the host is a folder that does not exist."""
    for port in str(arguments.get("port", "")).split(","):
        probed = {**arguments, "host": _NO_HOST, "port": port, "hostaddr": None}
        probe = pq.PGconn.connect_start(make_conninfo(**probed).encode())
        message = probe.error_message.decode(errors="replace").strip()
        probe.finish()
        if not message.startswith("connection to server"):
            raise ValueError(f"cannot be used: {message}")


def _hosts_in_query(value: str) -> str:
    """Move several hosts, as libpq's URLs name them (`//user@a:5432,b:5433/name`), to SQLAlchemy's place."""
    named = _SEVERAL_HOSTS.fullmatch(value)
    if named is None:
        return value
    pairs = [_HOST_AND_PORT.findall(host)[0] for host in named["hosts"].split(",")]
    hosts = ",".join(six or name for six, name, _ in pairs)
    ports = ",".join(port for _, _, port in pairs)
    path, _, query = named["rest"].partition("?")
    given = f"{query}&" if query else ""
    return f"{named['scheme']}{path}?{given}host={hosts}" + (f"&port={ports}" if ports.strip(",") else "")
