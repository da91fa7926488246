"""A load on a server of this machine, and what was heard of it."""

from urllib.parse import urlsplit

import msgspec

ERROR_STATUS_MIN = 400
LOOPBACK = "127.0.0.1"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: the same request to each path in turn, over so many connections, for so long.

    `per_second` None is a closed loop: each connection sends when it has its answer. Otherwise requests
    start at that rate whatever the answers do, and times count from the moment each should have started.
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


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. `answers` have the expected kind of status; `errors` are all else that was sent.

    Times are milliseconds from send to answer; `cpu_us` is what the generator itself used, in microseconds.
    """

    answers: int
    errors: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: float = 0.0

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds
