"""A load on a server of this machine, and its result."""

from urllib.parse import urlsplit

import msgspec

ERROR_STATUS_MIN = 400
LOOPBACK = "127.0.0.1"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The same request to each path in turn, over `connections` connections, for `seconds` seconds.

    `per_second` None is a closed loop: each connection sends when it has its answer. Otherwise requests
    start at that rate, independent of the answers, over at most `connections` connections, and times count
    from the moment when each request should have started.
    """

    url: str
    method: str
    paths: list[str]
    headers: dict[str, str]
    body: str
    expected: int
    connections: int
    seconds: int
    per_second: float | None = None

    def __post_init__(self) -> None:
        """Refuse to load another machine than this."""
        assert urlsplit(self.url).hostname == LOOPBACK, "load goes only to loopback"


class Answers(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answers to a load: those with the expected kind of status; `errors` are all other requests sent.

    Times are milliseconds from send to answer. Only open loops have requests that were never sent (`unsent`):
    no connection was free until the end of the load. In their times each error and each unsent request is
    later than any answer can be, and `late_p99_ms` is the delay of the generator's own clock; it is None for
    a closed loop.
    """

    answers: int
    errors: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    unsent: int = 0
    late_p99_ms: float | None = None


class LoadResult(Answers, frozen=True, kw_only=True, rename="camel"):
    """The result of a load. `cpu_us` is the generator's processor time in microseconds."""

    seconds: float
    cpu_us: float = 0.0

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds
