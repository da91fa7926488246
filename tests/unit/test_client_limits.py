"""The limits of clients in one process: classes, defaults, windows, memory."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from api.edge.problems import ProblemError
from api.protection import client_limits
from api.protection.addresses import Addresses
from api.protection.client_limits import ClientLimits
from api.protection.shared_memory import SharedMemory
from shared.messaging import results
from shared.settings import Settings

PUBLIC = "8.8.8.8"
AWAY = "redis://127.0.0.1:1/0"


@dataclass
class Clock:
    """A clock that stands still."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(kw_only=True)
class World:
    """Limits without Redis, at a clock that stands still."""

    limits: ClientLimits
    clock: Clock

    def ask(
        self, client: str = PUBLIC, path: str = "/api/p/demo", method: str = "GET", times: int = 1
    ) -> int:
        """Send requests; return how many of them were admitted."""
        admitted = 0
        for _ in range(times):
            try:
                scope = {"method": method, "path": path, "client": (client, 1), "headers": []}
                self.limits.admit(scope, path.split("/"), [])
            except ProblemError:
                continue
            admitted += 1
        return admitted


def with_limits(test: Callable[[World], Awaitable[None]], **settings: str) -> None:
    """Run the test with limits of these settings."""

    async def run() -> None:
        clock = Clock()
        made = Settings(
            database_url="postgresql://h/n",
            broker_url=AWAY,
            result_url=AWAY,
            **settings,  # type: ignore[arg-type]
        )
        redis = results.connect_async(AWAY)
        limits = ClientLimits(made, Addresses(()), SharedMemory(redis, b"key"), clock)
        try:
            await test(World(limits=limits, clock=clock))
        finally:
            await limits.close()
            await redis.aclose()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path", "limit"),
    [
        ("POST", "/api/p/demo/register", "register"),
        ("DELETE", "/api/p/demo/receipts/1", "register"),
        ("PATCH", "/api/p/demo/receipt", "register"),
        ("POST", "/api/p/demo/unknown", "register"),
        ("GET", "/api/p/demo/receipts/1", "receipts"),
        ("HEAD", "/api/p/demo/receipt", "receipts"),
        ("GET", "/api/p/receipts", "reads"),
        ("GET", "/api/p/demo", "reads"),
        ("OPTIONS", "/api/p/demo/register", "reads"),
        ("GET", "/docs", "reads"),
        ("GET", "/", "reads"),
        ("GET", "*", "reads"),
        ("GET", "/api", "admin"),
        ("POST", "/api/events", "admin"),
        ("GET", "/healthz", None),
        ("GET", "/readyz", None),
        ("GET", "/metrics", None),
    ],
)
@pytest.mark.parametrize("limited", ["register", "receipts", "reads", "admin"])
def test_each_route_has_a_class(method: str, path: str, limit: str | None, limited: str) -> None:
    async def test(world: World) -> None:
        admitted = world.ask(path=path, method=method, times=9)
        assert admitted == (3 if limit == limited else 9)

    others = dict.fromkeys(("limit_register", "limit_receipts", "limit_reads", "limit_admin"), "off")
    with_limits(test, **(others | {f"limit_{limited}": "3/10s"}))


def test_a_default_is_for_public_addresses() -> None:
    async def test(world: World) -> None:
        most = int(client_limits._REGISTER.partition("/")[0])  # noqa: SLF001 - the default
        register = {"path": "/api/p/demo/register", "method": "POST", "times": 3 * most}
        assert world.ask(PUBLIC, **register) == most  # type: ignore[arg-type]
        for shared in ("127.0.0.1", "10.0.0.1", "fd00::1"):
            assert world.ask(shared, **register) == 3 * most  # type: ignore[arg-type]

    with_limits(test)


def test_a_limit_that_is_set_is_for_all() -> None:
    async def test(world: World) -> None:
        assert world.ask("127.0.0.1", times=9) == world.ask("fd00::1", times=9) == 5

    with_limits(test, limit_reads="5/10s")


def test_a_key_of_the_settings_has_no_default() -> None:
    async def test(world: World) -> None:
        headers: client_limits.Headers = []
        world.limits.admit_key("admin", headers, of_settings=True)
        assert headers == [], "it is not counted"
        world.limits.admit_key("another", headers, of_settings=False)
        assert headers

    with_limits(test)


def test_limits_can_be_switched_off() -> None:
    async def test(world: World) -> None:
        assert world.ask(times=99) == 99

    with_limits(test, limit_reads="5/10s", limits="off")


def test_the_next_window_begins_anew() -> None:
    async def test(world: World) -> None:
        assert world.ask(times=9) == 5
        world.clock.now += 9.9
        assert world.ask() == 0
        world.clock.now += 0.1
        assert world.ask(times=9) == 5
        world.clock.now -= 3_600  # the clock was set back
        assert world.ask(times=9) == 5

    with_limits(test, limit_reads="5/10s")


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_limits, "_CLIENTS_MAX", 100)

    async def test(world: World) -> None:
        for number in range(1_000):
            world.ask(f"8.8.{number // 256}.{number % 256}", times=4)
        reads = world.limits._reads  # noqa: SLF001 - what it remembers
        assert len(reads.counts) <= 100
        assert len(reads.reported) <= 100
        assert len(reads.to_report) <= 100

    with_limits(test, limit_reads="5/10s")
