"""Every setting of the service, read once from ``ADMITONE_*`` environment variables.

A wrong value stops the process before it touches anything, with one line that names the variable.
Limits are checked against related limits: a limit that would have no effect is refused too.
"""

import re
from functools import cache
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    BeforeValidator,
    DirectoryPath,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from shared.errors import ExpectedError

_SEVERAL_HOSTS = re.compile(r"(?P<scheme>[^:]+://(?:[^@/?]*@)?)(?P<hosts>[^@/?]*,[^@/?]*)(?P<rest>/.*)")

Seconds = Annotated[float, Field(gt=0, le=86_400 * 30)]
Count = Annotated[int, Field(gt=0, le=1_000_000)]
Key = Annotated[SecretStr, Field(min_length=16)]
_DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?|\*")


def _listed(value: object) -> object:
    """Return the parts of a text between commas, in lower case; pydantic would take the text for JSON."""
    return frozenset(part.strip().lower() for part in value.split(",")) if isinstance(value, str) else value


Names = Annotated[frozenset[str] | None, NoDecode, BeforeValidator(_listed)]


class SettingsError(ExpectedError):
    """A setting is missing or wrong; the message names each variable and says why, a line each."""


class DatabaseSettings(BaseSettings):
    """The settings that the migrations need."""

    model_config = SettingsConfigDict(env_prefix="ADMITONE_", frozen=True, extra="ignore")

    database_url: str

    @field_validator("*", mode="before")
    @classmethod
    def _not_empty(cls, value: object) -> object:
        """Refuse an empty variable, which some libraries take for another default: an empty host for all."""
        if isinstance(value, str) and not value.strip():
            raise ValueError("is empty; give it a value, or remove the variable")
        return value

    @field_validator("database_url")
    @classmethod
    def _psycopg_url(cls, value: str) -> str:
        """Add the driver's name, so that ``postgresql://`` and ``postgres://`` use psycopg."""
        try:
            url = make_url(_hosts_in_query(value))
        except (ArgumentError, ValueError) as error:
            raise ValueError("is not a database URL, such as postgresql://user:password@host/name") from error
        if url.drivername not in {"postgres", "postgresql", "postgresql+psycopg"}:
            raise ValueError(f"must be a postgresql:// URL, not {url.drivername}://")
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


class Settings(DatabaseSettings):
    """All settings of the service, frozen; ``docs/operating.md`` explains each."""

    broker_url: str
    result_url: str

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] = 9000
    admin_key: Key | None = None
    viewer_key: Key | None = None
    secret_key: Key | None = None
    second_secret_key: Key | None = None
    metrics_folder: DirectoryPath | None = None
    worker_metrics_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    cors_origins: Names = None
    email_domains_refused: Names = None

    body_bytes_max: Count = 16_384
    database_connections_max: Annotated[int, Field(ge=2, le=1_000)] = 10
    statement_timeout_seconds: Seconds = 10

    intake_batch_max: Count = 500
    intake_waiting_max: Count = 5_000
    event_pending_max: Count = 50_000
    pending_max: Count = 200_000

    ledger_patience_seconds: Seconds = 2

    answer_wait_seconds: Seconds = 5
    answer_wait_seconds_max: Seconds = 30
    answer_read_max: Count = 128
    ledger_read_seconds: Seconds = 0.5
    result_keep_seconds: Seconds = 3_600
    export_stall_seconds_max: Seconds = 30

    apply_batch_max: Count = 100
    backlog_batch_max: Count = 2_000
    tick_seconds: Seconds = 0.5
    owner_silence_seconds_max: Seconds = 10

    @field_validator("broker_url")
    @classmethod
    def _broker_scheme(cls, value: str) -> str:
        return _with_scheme(value, ("redis", "rediss", "redis+socket", "amqp", "amqps"))

    @field_validator("result_url")
    @classmethod
    def _result_scheme(cls, value: str) -> str:
        return _with_scheme(value, ("redis", "rediss", "redis+socket"))

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: frozenset[str] | None) -> frozenset[str] | None:
        return _all_like(_ORIGIN, value, "origins such as https://tickets.example.org, or be *")

    @field_validator("email_domains_refused")
    @classmethod
    def _domains(cls, value: frozenset[str] | None) -> frozenset[str] | None:
        return _all_like(_DOMAIN, value, "domains such as example.org, the international ones as xn--…")

    @property
    def secret_keys(self) -> tuple[bytes, ...]:
        """The keys of digests: new digests are made with the first, which is empty if it is not set."""
        keys = (self.secret_key, self.second_secret_key)
        first, second = (key.get_secret_value().encode() if key else b"" for key in keys)
        return (first, second) if second else (first,)

    @model_validator(mode="after")
    def _neighbours(self) -> Self:
        """Refuse limits that contradict each other."""
        if self.answer_wait_seconds > self.answer_wait_seconds_max:
            raise ValueError("ADMITONE_ANSWER_WAIT_SECONDS is above ADMITONE_ANSWER_WAIT_SECONDS_MAX")
        if self.intake_batch_max > self.intake_waiting_max:
            raise ValueError("ADMITONE_INTAKE_BATCH_MAX is above ADMITONE_INTAKE_WAITING_MAX")
        if self.event_pending_max > self.pending_max:
            raise ValueError("ADMITONE_EVENT_PENDING_MAX is above ADMITONE_PENDING_MAX")
        if self.apply_batch_max > self.backlog_batch_max:
            raise ValueError("ADMITONE_APPLY_BATCH_MAX is above ADMITONE_BACKLOG_BATCH_MAX")
        if self.owner_silence_seconds_max < 4 * self.tick_seconds:
            raise ValueError("ADMITONE_OWNER_SILENCE_SECONDS_MAX must be at least 4 ticks")
        if self.result_keep_seconds < 2 * self.answer_wait_seconds_max:
            raise ValueError(
                "ADMITONE_RESULT_KEEP_SECONDS must be at least twice ADMITONE_ANSWER_WAIT_SECONDS_MAX"
            )
        if self.secret_key is not None and self.secret_key == self.second_secret_key:
            raise ValueError("ADMITONE_SECOND_SECRET_KEY equals ADMITONE_SECRET_KEY")
        return self


def _hosts_in_query(value: str) -> str:
    """Move several hosts, as libpq's URLs name them (`//user@a:5432,b:5433/name`), to SQLAlchemy's place."""
    named = _SEVERAL_HOSTS.fullmatch(value)
    if named is None:
        return value
    hosts = "&".join(f"host={host}" for host in named["hosts"].split(","))
    path, _, query = named["rest"].partition("?")
    return f"{named['scheme']}{path}?{query}&{hosts}" if query else f"{named['scheme']}{path}?{hosts}"


def _with_scheme(value: str, schemes: tuple[str, ...]) -> str:
    scheme, separator, address = value.partition("://")
    if not separator or not address or scheme not in schemes:
        raise ValueError(f"must be a URL that starts with one of {', '.join(f'{s}://' for s in schemes)}")
    return value


def _all_like(pattern: re.Pattern[str], values: frozenset[str] | None, words: str) -> frozenset[str] | None:
    if not all(map(pattern.fullmatch, values or ())):
        raise ValueError(f"must list {words}, with commas between them")
    return values


_AnySettings = TypeVar("_AnySettings", bound=DatabaseSettings)


def load(kind: type[_AnySettings]) -> _AnySettings:
    """Read the environment; raises `SettingsError` that names every wrong variable."""
    try:
        return kind()  # type: ignore[call-arg]  # the environment fills the fields
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(problem) for problem in error.errors())) from error


def _sentence(problem: ErrorDetails) -> str:
    reason = "is not set" if problem["type"] == "missing" else problem["msg"].removeprefix("Value error, ")
    name = "_".join(str(part) for part in problem["loc"]).upper()
    return f"ADMITONE_{name}: {reason}" if name else reason


@cache
def current() -> Settings:
    """Return this process's settings, read at the first call."""
    return load(Settings)
