"""One version of the service, seen from outside: its programs, its HTTP routes, and three tables.

A version is started with its own launcher, on a database and a Valkey of its own: Redis channels are not
divided by database numbers, so an idle version would receive the announcements of the other one. PostgreSQL
is shared. This module does not depend on how a version decides: it sends requests over HTTP, and checks the
tables `event`, `registration` and `command`.
"""

import asyncio
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from uuid import UUID

import msgspec
import psycopg
import uvloop
from psycopg import sql
from psycopg.rows import TupleRow

from benchmarks import arena, cpu, processes
from benchmarks.judge import checkouts
from benchmarks.processes import BenchmarkError
from ops.embedded import Postgres, Valkey
from ops.rehearsal import http_client

SPOTS = 500
"""The capacity of each event; all later registrations wait."""
SETTLED_SECONDS_MAX = 120.0
ADMIN_CONNECTIONS = 16

_BUSY = """
SELECT EXISTS (SELECT FROM pending_command WHERE event_id = ANY(%s))
    OR EXISTS (SELECT FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()
                 AND backend_type = 'client backend' AND state <> 'idle')
"""
# This lock conflicts with every change of the event's row, and not with foreign keys that refer to it.
_LOCK = "SELECT FROM event WHERE id = ANY(%s) FOR NO KEY UPDATE"
_PENDING = "SELECT count(*) FROM pending_command WHERE event_id = ANY(%s)"
_BATCHES = """
SELECT settled_at, count(*) FROM outcome WHERE event_id = ANY(%s) GROUP BY settled_at ORDER BY settled_at
"""
# Versions before migration 0006 kept all of a command in one row.
_AS_TABLES_OF_TODAY = """
CREATE VIEW pending_command AS
SELECT event_id, seq, id AS command_id FROM command WHERE settled_at IS NULL;
CREATE VIEW outcome AS
SELECT event_id, id AS command_id, outcome AS body, settled_at FROM command WHERE settled_at IS NOT NULL;
"""
_CONFIRMED = """
coalesce((SELECT sum(spots_count) FROM registration WHERE event_id = event.id AND status = 'CONFIRMED'), 0)
"""
_RULES = {
    "events are oversold": f"""
        SELECT count(*) FROM event
        WHERE id = ANY(%(events)s) AND greatest({_CONFIRMED}, spots_reserved) > capacity""",
    "counters differ from their rows": f"""
        SELECT count(*) FROM event WHERE id = ANY(%(events)s) AND spots_reserved <> {_CONFIRMED}""",
    "commands are pending": """
        SELECT count(*) FROM pending_command WHERE event_id = ANY(%(events)s)""",
    "answered registrations are missing": """
        SELECT %(answered)s - least(%(answered)s, count(*)) FROM registration
        WHERE event_id = ANY(%(events)s)""",
}
"""Each violation, with a statement that counts it."""

Events = dict[UUID, str]
"""The events of a turn: id and slug."""


class _Made(msgspec.Struct, frozen=True):
    id: UUID


class Version:
    """A running version: its processes, its address, and the judge's own connection to its database."""

    def __init__(self, name: str, checkout: Path, folder: Path, postgres: Postgres, valkey: Valkey) -> None:
        self.name = name
        self.folder = folder
        self._checkout = checkout
        self._postgres, self._valkey = postgres, valkey
        servers = arena.addresses_of(postgres, valkey)
        self._main_database_url = servers.database_url.replace("+psycopg", "")
        self._database_url = self._main_database_url.replace("@/admitone?", f"@/{name}?")
        self._environment = processes.service_environment(replace(servers, database_url=self._database_url))

    def start(self, ends: ExitStack, workers: int, variables: Mapping[str, str]) -> None:
        """Make the database, start the programs with these variables, and return when the API is ready."""
        with psycopg.connect(self._main_database_url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.name)))
        self.database = ends.enter_context(self._connect())
        environment = {**self._environment, **variables}
        program = str(self._checkout / checkouts.PROGRAM)
        checkouts.run([program, "migrate"], self._checkout, environment, self.folder / "migrate.log")
        if self._row("SELECT to_regclass('outcome')", [])[0] is None:
            self.database.execute(_AS_TABLES_OF_TODAY)
        self._api, self._workers = processes.service(
            self.name, [program], environment, folder=self.folder, workers=workers, checkout=self._checkout
        )
        ends.callback(processes.stop, (self._api, *self._workers))
        for process in (*self._workers, self._api):
            process.start()
        self._api.wait_ready()

    @property
    def url(self) -> str:
        """The address of the version's API."""
        return self._api.url

    def groups(self) -> dict[str, list[int]]:
        """Return the processes that work for this version, by group; PostgreSQL works for all versions."""
        return {
            cpu.API: [self._api.pid],
            cpu.WORKER: [worker.pid for worker in self._workers],
            cpu.POSTGRES: [self._postgres.pid],
            cpu.VALKEY: [self._valkey.pid],
        }

    @property
    def own_pids(self) -> list[int]:
        """Return the processes that work for this version alone."""
        return [self._api.pid, self._valkey.pid, *(worker.pid for worker in self._workers)]

    @contextmanager
    def events(self, count: int) -> Iterator[Events]:
        """Make open events for the block; afterwards close them, and do the server's background work."""
        slugs = [f"judge-{secrets.token_hex(6)}-{number}" for number in range(count)]
        requests = [
            ("POST", "/api/events", {"slug": slug, "title": "A drop", "capacity": SPOTS}) for slug in slugs
        ]
        answers = uvloop.run(self._administer(requests))
        events = {
            msgspec.json.decode(answer, type=_Made).id: slug
            for answer, slug in zip(answers, slugs, strict=True)
        }
        yield events
        closing = {"closesAt": "2000-01-01T00:00:00Z"}
        uvloop.run(self._administer([("PATCH", f"/api/events/{id_}", closing) for id_ in events]))
        self.wait_settled(events)
        self.database.execute("VACUUM (ANALYZE)")
        self.database.execute("CHECKPOINT")

    @contextmanager
    def rows_locked(self, events: Events) -> Iterator[None]:
        """Lock the events' rows for the block, so that no worker can decide their commands."""
        with self._connect() as connection, connection.transaction():
            connection.execute(_LOCK, [list(events)])
            yield

    def wait_settled(self, events: Events) -> bool:
        """Wait until no command of these events is pending; return False after `SETTLED_SECONDS_MAX`."""

        def is_busy() -> bool:
            for process in (self._api, *self._workers):
                process.check()
            return self.database.execute(_BUSY, [list(events)]).fetchone() != (False,)

        return arena.falls_quiet(is_busy, SETTLED_SECONDS_MAX)

    def pending(self, events: Events) -> int:
        """Count the commands of these events that are not decided."""
        (count,) = self._row(_PENDING, [list(events)])
        return int(count)

    def drained_per_second(self, events: Events) -> float:
        """Return the rate at which the commands of these events were settled.

        The time counts from the first batch's transaction to the last one's. The worker's delay before the
        first batch is not counted, so that batch is not either.
        """
        batches = self.database.execute(_BATCHES, [list(events)]).fetchall()
        seconds = (batches[-1][0] - batches[0][0]).total_seconds() if batches else 0.0
        return float(sum(count for _, count in batches[1:]) / seconds) if seconds else 0.0

    def violations(self, events: Events, answered: int) -> list[str]:
        """Return a sentence for each broken rule, after `answered` registrations were answered."""
        bound = {"events": list(events), "answered": answered}
        counts = {rule: self._row(statement, bound)[0] for rule, statement in _RULES.items()}
        return [f"{rule} ({count})" for rule, count in counts.items() if count]

    def _row(self, statement: str, bound: Sequence[object] | dict[str, object]) -> TupleRow:
        row = self.database.execute(statement.encode(), bound).fetchone()
        assert row is not None, "an aggregate yields a row"
        return row

    async def _administer(self, requests: Sequence[tuple[str, str, object]]) -> list[bytes]:
        """Send admin requests over a few connections; return the bodies of the answers in order."""
        shares = [range(first, len(requests), ADMIN_CONNECTIONS) for first in range(ADMIN_CONNECTIONS)]
        bodies: dict[int, bytes] = {}

        async def send(share: range) -> None:
            async with http_client.Connection(self.url) as connection:
                for number in share:
                    bodies[number] = await self._send(connection, *requests[number])

        await asyncio.gather(*map(send, shares))
        return [bodies[number] for number in range(len(requests))]

    async def _send(self, connection: http_client.Connection, method: str, path: str, body: object) -> bytes:
        headers = {
            "content-type": "application/json",
            "authorization": f"Bearer {self._environment['ADMITONE_ADMIN_KEY']}",
        }
        try:
            answer = await connection.request(method, path, headers, msgspec.json.encode(body))
        except http_client.ConnectionLost as lost:
            raise BenchmarkError(f"{self.name}: {method} {path} was not answered: {lost}") from lost
        if answer.status >= HTTPStatus.BAD_REQUEST:
            body_start = answer.body[:500].decode(errors="replace")
            raise BenchmarkError(f"{self.name}: {method} {path} answered HTTP {answer.status}: {body_start}")
        return answer.body

    def _connect(self) -> psycopg.Connection[TupleRow]:
        return psycopg.connect(self._database_url, autocommit=True)
