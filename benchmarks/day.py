"""A long day: what millions of commands do to the ledger's tables, and whether deciding stays as fast.

The commands are written by the API's own statement, in batches as under load, and decided by the real worker.
Of ten commands seven register (one of these with an idempotency key, and once the event is full they are
refused), two cancel an earlier registration, one is refused because it cancels what does not exist. The
driver never gets more than `PENDING_MAX` commands ahead of the worker.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from uuid import UUID

import msgspec

from benchmarks import arena as arenas
from benchmarks import preload
from benchmarks.arena import Arena
from benchmarks.report import machine
from shared.domain import commands, ids
from shared.domain.commands import ChangeStatus, Register, Status
from shared.messaging import queues
from shared.postgres import ledger
from shared.postgres.ledger import NewCommand
from shared.settings import Settings

EVENTS = 20
BATCH = 256
PENDING_MAX = 20_000
STEPS = 10
"""The state is looked at so many times."""
_LOOK_EVERY = 16
_REMEMBERED = 10_000
_SPOTS_SHARE = 0.5
"""The events' capacities together, as a share of all commands: about a quarter of them is refused."""

_PENDING = "SELECT count(*) FROM pending_command"
_TABLES = """
SELECT relname, pg_total_relation_size(relid) AS bytes, n_dead_tup, autovacuum_count
FROM pg_stat_user_tables WHERE schemaname = 'public' AND n_tup_ins > 0 ORDER BY bytes DESC LIMIT 6
"""


class Table(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A table with its indexes."""

    name: str
    megabytes: float
    dead_rows: int
    autovacuums: int


class Step(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The state once so many commands are settled; the rate is of the commands since the step before."""

    commands: int
    per_second: float
    tables: list[Table]


def command(count: int, *, as_json: bool) -> None:
    """Run a day of `count` commands and print its steps, as JSON lines if asked."""

    def told(step: Step) -> None:
        print(msgspec.json.encode(step).decode() if as_json else _line(step), flush=True)  # noqa: T201

    with arenas.opened(workers=1) as arena:
        if not as_json:
            print(", ".join(machine.describe(arena.database, arena.results).values()))  # noqa: T201
        run(arena, count, told)


def run(arena: Arena, count: int, told: Callable[[Step], None]) -> list[Step]:
    """Have `count` commands accepted and decided; call `told` with the state after each tenth of them."""
    made = preload.service(arena, events=EVENTS, rows=0, spots_left=int(count * _SPOTS_SHARE / EVENTS))
    return asyncio.run(_run(arena, list(made), count, told))


async def _run(arena: Arena, events: list[UUID], count: int, told: Callable[[Step], None]) -> list[Step]:
    settings = Settings(**asdict(arena.addresses))
    celery = queues.celery_app(settings)
    registered: list[tuple[UUID, UUID]] = []
    steps: list[Step] = []
    began = time.perf_counter()
    async with await ledger.open_session(settings) as session:
        for step in range(1, STEPS + 1):
            for number in range(max(count // STEPS // BATCH, 1)):
                batch = [_command(random.choice(events), registered) for _ in range(BATCH)]  # noqa: S311
                await ledger.accept(session, batch)
                registered = registered[-_REMEMBERED:]
                # Counting costs too much to do it for each batch.
                while number % _LOOK_EVERY == 0 and int(arena.scalar(_PENDING)) > PENDING_MAX:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            for event_id in events:
                queues.wake(celery, queues.EVENT_QUEUE % event_id, [event_id])
            arena.wait_settled()
            now = time.perf_counter()
            commands_each = max(count // STEPS // BATCH, 1) * BATCH
            steps.append(_step(arena, step * commands_each, commands_each / (now - began)))
            told(steps[-1])
            began = now
    celery.close()
    return steps


def _command(event_id: UUID, registered: list[tuple[UUID, UUID]]) -> NewCommand:
    id_, kind = ids.new_id(), random.randrange(10)  # noqa: S311
    command: Register | ChangeStatus
    if kind < 7 or not registered:  # noqa: PLR2004 - seven of ten
        command = Register(name="User A", spots_count=1)
        registered.append((event_id, id_))
    elif kind < 9:  # noqa: PLR2004
        event_id, earlier = registered[random.randrange(len(registered))]  # noqa: S311
        command = ChangeStatus(registration_id=ids.registration_id(earlier), status=Status.CANCELLED)
    else:
        command = ChangeStatus(registration_id=id_, status=Status.CANCELLED)
    return NewCommand(
        event_id=event_id,
        id=id_,
        kind=commands.KINDS[type(command)],
        payload=msgspec.json.encode(command),
        actor="public",
        idempotency_key=id_.bytes * 2 if kind == 0 else None,
        fingerprint=id_.bytes * 2 if kind == 0 else None,
    )


def _line(step: Step) -> str:
    tables = ", ".join(
        f"{table.name} {table.megabytes:,.0f} MB, {table.dead_rows:,} dead, {table.autovacuums} autovacuums"
        for table in step.tables
    )
    return f"{step.commands:,} commands, {step.per_second:,.0f}/s: {tables}"


def _step(arena: Arena, commands_settled: int, per_second: float) -> Step:
    tables = [
        Table(name=name, megabytes=size / 2**20, dead_rows=dead, autovacuums=vacuums)
        for name, size, dead, vacuums in arena.database.execute(_TABLES).fetchall()
    ]
    return Step(commands=commands_settled, per_second=per_second, tables=tables)
