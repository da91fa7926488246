"""A load on a server of this machine, and what was heard of it."""

from urllib.parse import urlsplit

import msgspec

ERROR_STATUS_MIN = 400
LOOPBACK = "127.0.0.1"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: the same request to each path in turn, over so many connections, for so long.

    `per_second` None is a closed loop: each connection sends when it has its answer. Otherwise requests
    start at that rate whatever the answers do, over at most so many connections, and times count from the
    moment when each should have started.
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
        """Load no other machine than this."""
        assert urlsplit(self.url).hostname == LOOPBACK, "load goes only to loopback"


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. `answers` have the expected kind of status; `errors` are all else that was sent.

    Times are milliseconds from send to answer; `cpu_us` is what the generator itself used, in microseconds.
    Only open loops have requests that were never sent (`unsent`): no connection was free until the end of the
    load. In their times each error and each unsent request is later than any answer can be, and `late_p99_ms`
    tells how late the generator's own clock was; it is None for a closed loop.
    """

    answers: int
    errors: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: float = 0.0
    unsent: int = 0
    late_p99_ms: float | None = None

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds
