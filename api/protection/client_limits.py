"""Limits the requests of each client, by classes of routes and for all API processes together.

Requests are counted in windows of the wall clock, in this process and without a wait. Above half of this
process's share of a limit a client's count is reported to Redis ten times a second, with the counts of the
other processes as the answer; an API key's count is reported from its first request. So a limit is passed by
at most half of the shares, and by what arrives within a tenth of a second. While Redis is away a process
allows its share (decision 0069).

A limit that is not set counts only clients with a public address: machines share the others by design, above
all a proxy that is not in `ADMITONE_TRUSTED_PROXIES`.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import time

import structlog
from limits import RateLimitItemPerSecond
from starlette.types import Scope

from api.edge.problems import ProblemType
from api.protection import addresses
from api.protection.addresses import Addresses
from api.protection.shared_memory import SharedMemory
from api.tasks import SingleTask
from shared import metrics
from shared.settings import OFF, Settings

log = structlog.get_logger(__name__)

Headers = list[tuple[bytes, bytes]]

_REPORT_SECONDS = 0.1
_CLIENTS_MAX = 20_000
_SAFE = {"GET", "HEAD", "OPTIONS"}
_NOT_LIMITED = {"/healthz", "/readyz", "/metrics"}

# For one public address, behind which may be a network of hundreds of people (decision 0069).
_REGISTER = "500/10s"
_READ = "5000/10s"


@dataclass(slots=True)
class _Reported:
    """The requests of a client that were reported, and those of the other processes as of then."""

    own: int = 0
    others: int = 0


@dataclass(kw_only=True, slots=True)
class _Limit:
    """The limit of one class of routes, and the counts of the present window.

    A client's count above `quiet_max` is reported. `share` is this process's part of the limit. A limit that
    is not `for_all` is for clients with a public address.
    """

    name: str
    item: RateLimitItemPerSecond
    share: int
    quiet_max: float
    for_all: bool
    begins: float = 0.0
    ends: float = 0.0
    counts: dict[str, float] = field(default_factory=dict)
    reported: dict[str, _Reported] = field(default_factory=dict)
    to_report: set[str] = field(default_factory=set)
    logged: bool = False

    def begin_window(self, now: float) -> None:
        """Begin the window of this moment."""
        self.begins = now // self.item.multiples * self.item.multiples
        self.ends = self.begins + self.item.multiples
        self.logged = False
        self.forget()

    def forget(self) -> None:
        """Forget all counts; of a client with many requests the reported part is found again."""
        self.counts, self.reported, self.to_report = {}, {}, set()


class ClientLimits:
    """The limits of an API process."""

    def __init__(
        self, settings: Settings, clients: Addresses, shared: SharedMemory, clock: Callable[[], float] = time
    ) -> None:
        self._clients = clients
        self._shared = shared
        self._clock = clock
        self._processes = settings.api_processes
        self._on = settings.limits == "on"
        self._register = self._limit("register", settings.limit_register, _REGISTER)
        self._receipts = self._limit("receipts", settings.limit_receipts, _READ)
        self._reads = self._limit("reads", settings.limit_reads, _READ)
        self._admin = self._limit("admin", settings.limit_admin, _READ)
        self._keys = self._limit("keys", settings.limit_keys, _READ)
        self._reporter = SingleTask(self._report)

    def admit(self, scope: Scope, path: Sequence[str], headers: Headers) -> None:
        """Count a request, of which `path` has the parts; `headers` are those of its answer.

        Raises the problem 429 if the client has reached the limit of the class of its route.
        """
        if path[1:3] == ["api", "p"]:
            if scope["method"] not in _SAFE:
                limit = self._register
            else:
                limit = self._receipts if path[4:] and path[4].startswith("receipt") else self._reads
        elif path[1:2] == ["api"]:
            limit = self._admin
        elif scope["path"] in _NOT_LIMITED:
            return
        else:
            limit = self._reads
        peer = scope["client"]
        plain = peer is not None and ":" not in peer[0] and not self._clients.has_proxies
        client = peer[0] if plain else self._clients.client(scope)
        now = self._clock()
        if not limit.begins <= now < limit.ends:
            limit.begin_window(now)
        count = limit.counts.get(client, 0) + 1
        if count > limit.quiet_max:
            self._admit_counted(limit, client, count, headers)
            return
        if count == 1 and len(limit.counts) >= _CLIENTS_MAX:
            limit.forget()
        limit.counts[client] = count

    def admit_key(self, key: str, headers: Headers, *, of_settings: bool) -> None:
        """Count a request with a valid key, by a name of the key; raises the problem 429.

        A key of the settings is counted only by a limit that is set.
        """
        limit = self._keys
        if of_settings and not limit.for_all:
            return
        now = self._clock()
        if not limit.begins <= now < limit.ends:
            limit.begin_window(now)
        self._admit_counted(limit, key, limit.counts.get(key, 0) + 1, headers)

    async def close(self) -> None:
        """Stop reporting."""
        await self._reporter.cancel()

    def _limit(self, name: str, setting: str | None, default: str) -> _Limit:
        text = (setting or default) if self._on else OFF
        amount, _, seconds = ("0/1s" if text == OFF else text).partition("/")
        item = RateLimitItemPerSecond(int(amount), int(seconds.removesuffix("s")))
        share = max(1, item.amount // self._processes)
        quiet_max = math.inf if text == OFF else 0 if name == "keys" else share // 2
        return _Limit(name=name, item=item, share=share, quiet_max=quiet_max, for_all=setting is not None)

    def _admit_counted(self, limit: _Limit, client: str, count: float, headers: Headers) -> None:
        """Count a request of a client with many requests, with those at the other processes."""
        reported = limit.reported.get(client)
        if reported is None:
            if not limit.for_all and limit is not self._keys and not addresses.is_public(client):
                limit.counts[client] = -math.inf  # no number of requests leads from there above `quiet_max`
                return
            reported = limit.reported[client] = _Reported()
        amount, seconds = limit.item.amount, limit.item.multiples
        most = min(amount - reported.others, limit.share if self._shared.is_away else amount)
        left, reset = max(int(most - count), 0), math.ceil(limit.ends - self._clock())
        headers += (
            (b"ratelimit-policy", b'"%b";q=%d;w=%d' % (limit.name.encode(), amount, seconds)),
            (b"ratelimit", b'"%b";r=%d;t=%d' % (limit.name.encode(), left, reset)),
        )
        if count > most:
            metrics.limited.labels(limit.name).inc()
            if not limit.logged:
                limit.logged = True
                log.warning("client_limited", limit=limit.name, proxies_trusted=self._clients.has_proxies)
            detail = f"Too many requests; the limit is {amount} in {seconds} s."
            raise ProblemType.TOO_MANY_REQUESTS.error(detail, headers={"retry-after": str(max(reset, 1))})
        limit.counts[client] = count
        limit.to_report.add(client)
        self._reporter.ensure_running()

    async def _report(self) -> None:
        limits = (self._register, self._receipts, self._reads, self._admin, self._keys)
        while pending := [(limit, client) for limit in limits for client in limit.to_report]:
            for limit, client in pending:
                await self._report_one(limit, client)
            await asyncio.sleep(_REPORT_SECONDS)

    async def _report_one(self, limit: _Limit, client: str) -> None:
        """Report the requests since the last report, and note those of the other processes."""
        limit.to_report.discard(client)
        count, reported = limit.counts.get(client), limit.reported.get(client)
        if count is None or reported is None:  # the next window has begun
            return
        key = limit.item.key_for(limit.name, self._shared.digest(client), str(int(limit.begins)))
        new, seconds = int(count) - reported.own, limit.item.multiples
        total = await self._shared.ask(lambda: self._shared.storage.incr(key, seconds, new))
        if total is not None:
            reported.own, reported.others = int(count), total - int(count)
