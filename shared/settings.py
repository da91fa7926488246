"""Every setting of the service, read once from ``ADMITONE_*`` environment variables.

An empty variable is not set, and outer white space does not count. A wrong value stops the process before it
touches anything, with one line that names the variable. Limits are checked against related limits: a limit
that would have no effect is refused too.
"""

import os
import re
from difflib import get_close_matches
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    BeforeValidator,
    DirectoryPath,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared import environment, urls
from shared.errors import ExpectedError

_QUOTED = re.compile(r"""(["'`]).*\1|[\u201c\u2018].*[\u201d\u2019]""", re.DOTALL)
_UNREPLACED = re.compile(r"\$\(.*\)|\$\{.*\}")
_PREFIX = "ADMITONE_"
_ALIKE = 0.83
"""The ratio of `difflib` above which a name is a setting's, misspelt: `API_PASSWORD` is below."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_VISIBLE = re.compile(r"[ -~]+")


Seconds = Annotated[float, Field(gt=0, le=86_400 * 30)]
Count = Annotated[int, Field(gt=0, le=1_000_000)]
Key = Annotated[SecretStr, Field(min_length=16)]
_DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*")
OFF = "off"
_LIMIT = r"[1-9][0-9]{0,6}/[1-9][0-9]{0,3}s|off"
Limit = Annotated[str, Field(pattern=f"^({_LIMIT})$")]
"""The requests of a client, and the seconds in which it may send them, or `off`."""
_CONTACT = re.compile(r"(?:mailto:[^@]+@|https://|tel:\+?)[!-~]+")
_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?|\*")


def _listed(value: object) -> object:
    """Return the parts of a text between commas, in lower case; pydantic would take the text for JSON."""
    return frozenset(part.strip().lower() for part in value.split(",")) if isinstance(value, str) else value


Names = Annotated[frozenset[str] | None, NoDecode, BeforeValidator(_listed)]


_WORDS = {
    "missing": "is not set",
    "too_short": "must have at least {min_length} characters",
    "string_pattern_mismatch": "must be a limit such as 500/10s, or off",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "greater_than": "must be above {gt:.0f}",
    "greater_than_equal": "must be {ge:.0f} or more",
    "less_than_equal": "must be {le:.0f} or less",
    "path_not_directory": "is no folder",
    "literal_error": "must be {expected}",
}
"""The words for people of pydantic's errors; those of other errors are its own."""


class SettingsError(ExpectedError):
    """A setting is missing or wrong; the message names each variable and says why, a line each."""


class DatabaseSettings(BaseSettings):
    """The settings that the migrations need."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    password: SecretStr | None = None
    database_url: str

    @field_validator("*", mode="before")
    @classmethod
    def _check_characters(cls, value: object) -> object:
        """Refuse what was copied with the value or in its place: quotation marks, line breaks, a command."""
        if isinstance(value, str):
            if _UNREPLACED.fullmatch(value):
                raise ValueError("is a command or variable of a shell, which no shell replaced by its value")
            if _QUOTED.fullmatch(value):
                raise ValueError("has quotation marks around it; give the value without them")
            if _CONTROL.search(value):
                raise ValueError("has a line break or another control character in it")
        return value

    @field_validator("database_url", "broker_url", "result_url", check_fields=False)
    @classmethod
    def _with_password(cls, value: str, others: ValidationInfo) -> str:
        password = others.data.get("password")
        return value if password is None else urls.with_password(value, password.get_secret_value())

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str) -> str:
        return urls.database(value)


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
    hsts_seconds: Annotated[int, Field(ge=0, le=86_400 * 366 * 2)] | None = None
    security_contact: str | None = None
    email_domains_refused: Names = None

    trusted_proxies: Names = None
    api_processes: Annotated[int, Field(ge=1, le=1_000)] = 1
    limits: Literal["on", "off"] = "on"
    limit_register: Limit | None = None
    limit_receipts: Limit | None = None
    limit_reads: Limit | None = None
    limit_admin: Limit | None = None
    limit_keys: Limit | None = None
    client_connections_max: Count = 5_000
    head_seconds_max: Seconds = 20
    body_seconds_max: Seconds = 20
    idle_seconds_max: Seconds = 75
    body_bytes_max: Count = 16_384
    database_connections_max: Annotated[int, Field(ge=3, le=1_000)] = 10
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

    @property
    def admin_connections_max(self) -> int:
        """The connections of an API process that serve only the lists, figures and exports of admins."""
        return max(1, (self.database_connections_max - 1) // 3)

    @field_validator("host")
    @classmethod
    def _listens(cls, value: str) -> str:
        if not _HOST_NAME.fullmatch(value):
            try:
                ip_address(value)
            except ValueError as error:
                raise ValueError("must be an address or a name, without brackets, scheme and port") from error
        return value

    @field_validator("admin_key", "viewer_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _VISIBLE.fullmatch(value.get_secret_value()):
            raise ValueError("has a character that no client can send in a header; use visible ASCII")
        return value

    @field_validator("broker_url")
    @classmethod
    def _broker(cls, value: str) -> str:
        return urls.broker(value)

    @field_validator("result_url")
    @classmethod
    def _results(cls, value: str) -> str:
        return urls.redis(value)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: frozenset[str] | None) -> frozenset[str] | None:
        origins = _all_like(_ORIGIN, value, "origins such as https://tickets.example.org, or be *")
        return origins and frozenset(map(_without_usual_port, origins))

    @field_validator("security_contact")
    @classmethod
    def _contact(cls, value: str | None) -> str | None:
        if value is not None and not _CONTACT.fullmatch(value):
            raise ValueError("must be an address such as mailto:security@example.org or https://…")
        return value

    @field_validator("email_domains_refused")
    @classmethod
    def _domains(cls, value: frozenset[str] | None) -> frozenset[str] | None:
        return _all_like(_DOMAIN, value, "domains such as example.org, the international ones as xn--…")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: frozenset[str] | None) -> frozenset[str] | None:
        for network in value or ():
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError("must list addresses and networks such as 10.0.0.0/8") from error
        return value

    @property
    def secret_keys(self) -> tuple[bytes, ...]:
        """The keys of digests: new digests are made with the first, which is empty if it is not set."""
        keys = (self.secret_key, self.second_secret_key)
        first, second = (key.get_secret_value().encode() if key else b"" for key in keys)
        return (first, second) if second else (first,)

    @model_validator(mode="after")
    def _neighbours(self) -> Self:
        """Refuse limits that contradict each other."""
        if self.viewer_key is not None and self.viewer_key == self.admin_key:
            raise ValueError("ADMITONE_VIEWER_KEY is the same as ADMITONE_ADMIN_KEY, so it could do all")
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


def _all_like(pattern: re.Pattern[str], values: frozenset[str] | None, words: str) -> frozenset[str] | None:
    if not all(map(pattern.fullmatch, values or ())):
        raise ValueError(f"must list {words}, with commas between them")
    return values


def _without_usual_port(origin: str) -> str:
    """Return an origin as browsers send it."""
    for scheme, port in (("https://", ":443"), ("http://", ":80")):
        if origin.startswith(scheme):
            return origin.removesuffix(port)
    return origin


_AnySettings = TypeVar("_AnySettings", bound=DatabaseSettings)


def load(kind: type[_AnySettings]) -> _AnySettings:
    """Read the environment; raises `SettingsError` that names every wrong variable.

    Removes from this process's environment what is not meant for it (`environment.clean`).
    """
    environment.clean()
    _refuse_misspelt_names()
    try:
        return kind()  # type: ignore[call-arg]  # the environment fills the fields
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(problem) for problem in error.errors())) from error


def _refuse_misspelt_names() -> None:
    """Refuse a variable that is no setting and resembles one; other names pass."""
    settings = [field.upper() for field in Settings.model_fields]
    names = (name.removeprefix(_PREFIX) for name in sorted(os.environ) if name.startswith(_PREFIX))
    wrong = [(name, near[0]) for name in names if (near := get_close_matches(name, settings, 1, _ALIKE))]
    misspelt = [f"{_PREFIX}{name}: is no setting; {_PREFIX}{near} is" for name, near in wrong if name != near]
    if misspelt:
        raise SettingsError("\n".join(misspelt))


def _sentence(problem: ErrorDetails) -> str:
    words = _WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    reason = words.format(**problem.get("ctx", {}))
    name = "_".join(str(part) for part in problem["loc"]).upper()
    return f"ADMITONE_{name}: {reason}" if name else reason


@cache
def current() -> Settings:
    """Return this process's settings, read at the first call."""
    return load(Settings)
