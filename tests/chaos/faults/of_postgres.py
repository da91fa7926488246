"""Faults of PostgreSQL, and of the ways to it: deciding goes on as soon as it takes writes again."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import ClassVar

from tests.chaos.faults.fault import SILENCE_SECONDS, TICK_SECONDS, Fault, Missed, Since
from tests.chaos.service import OPERATOR

WRITABLE_SECONDS_MAX = 3.0
_REFUSE = """
    CREATE OR REPLACE FUNCTION chaos_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'refused for a while' USING ERRCODE = '{state}'; END $$;
    CREATE TRIGGER chaos_refuse BEFORE INSERT ON {table}
    FOR EACH ROW EXECUTE FUNCTION chaos_refuse();
"""


class OfPostgres(Fault):
    recovers_from: ClassVar[Since] = "end"
    bar_seconds = WRITABLE_SECONDS_MAX

    def draw(self) -> set[str]:
        return {"postgres"}


class SessionEnded(OfPostgres):
    name = "session ended"
    meaning = "pg_terminate_backend of one session of the service"

    def strike(self) -> None:
        self.end(self.chance.sample(sorted(self.service.sessions()) or [0], 1))

    def end(self, pids: list[int]) -> None:
        self.service.query("SELECT pg_terminate_backend(pid) FROM unnest(%s::integer[]) AS pid", pids)


class AllSessionsEnded(SessionEnded):
    name = "all sessions ended"
    meaning = "pg_terminate_backend of every session of the service"

    def strike(self) -> None:
        self.end(self.service.sessions())


class PostgresRestarted(OfPostgres):
    name = "PostgreSQL restarted"
    meaning = "an immediate shutdown, then a start with its recovery"

    def strike(self) -> None:
        self.service.postgres.stop(crash=True)

    def heal(self) -> None:
        self.service.postgres.start()
        self.service.wait_writable()


class PostgresReadOnly(OfPostgres):
    name = "PostgreSQL read-only"
    meaning = "default_transaction_read_only for all sessions, as after a failover"
    lasts = (0.5, 2.0)

    def strike(self) -> None:
        self.service.query("ALTER SYSTEM SET default_transaction_read_only = on")
        self.service.query("SELECT pg_reload_conf()")

    def heal(self) -> None:
        self.service.query("ALTER SYSTEM RESET default_transaction_read_only")
        self.service.query("SELECT pg_reload_conf()")


class OfWay(OfPostgres):
    """A fault of the ways of some programs to PostgreSQL."""

    lasts = (0.3, 2.0)

    def draw(self) -> set[str]:
        names = self.service.programs
        self.names = self.chance.choice((names, [self.chance.choice(names)]))
        return {"postgres"} if self.names == names else {f"{name}/postgres" for name in self.names}

    def heal(self) -> None:
        for name in self.names:
            self.service.relays.change(f"{name}/postgres", "pass")


class PostgresUnreachable(OfWay):
    name = "PostgreSQL unreachable"
    meaning = "for one program or all: connections are cut, and new ones refused"

    def strike(self) -> None:
        for name in self.names:
            self.service.relays.change(f"{name}/postgres", "refuse")


class PostgresCutOff(OfWay):
    name = "PostgreSQL cut off"
    meaning = "for one program or all: all connections are cut once"
    lasts = (0.0, 0.0)

    def strike(self) -> None:
        for name in self.names:
            self.service.relays.change(f"{name}/postgres", "cut")


class PostgresBlackHole(OfWay):
    name = "PostgreSQL a black hole"
    meaning = "for one program or all: nothing passes, either way, and no connection ends"

    def strike(self) -> None:
        for name in self.names:
            self.service.relays.change(f"{name}/postgres", "hold")


class WorkerPartitioned(OfWay):
    name = "worker partitioned"
    meaning = (
        "a worker's way to PostgreSQL is a black hole for longer than the silence that costs it its events"
    )
    lasts = (SILENCE_SECONDS + 2, SILENCE_SECONDS + 3)
    recovers_from = "strike"
    bar_seconds = SILENCE_SECONDS + 1

    def draw(self) -> set[str]:
        self.names = [self.chance.choice(self.service.workers)]
        return {*self.names, *(f"{name}/postgres" for name in self.names)}

    def strike(self) -> None:
        self.service.relays.change(f"{self.names[0]}/postgres", "hold")


class PostgresSlow(OfWay):
    name = "PostgreSQL slow"
    meaning = "for one program or all: everything takes 5 to 50 ms longer"

    def strike(self) -> None:
        seconds = self.chance.uniform(0.005, 0.05)
        for name in self.names:
            self.service.relays.change(f"{name}/postgres", "pass", seconds)


class Locked(OfPostgres):
    """A lock of another session."""

    lasts = (0.3, 1.5)
    bar_seconds = 1.0 + 2 * TICK_SECONDS
    lock: str

    def draw(self) -> set[str]:
        return {f"{OPERATOR}/postgres"}

    def strike(self) -> None:
        self.ends = ExitStack()
        session = self.ends.enter_context(self.service.session())
        session.execute("BEGIN")
        event = self.chance.choice(list(self.workload.history.events)[-4:])
        if not session.execute(self.lock.encode(), [event]).fetchall():
            self.ends.close()
            raise Missed

    def heal(self) -> None:
        self.ends.close()


class EventLocked(Locked):
    name = "event locked"
    meaning = "another session has an event's row locked"
    lock = "SELECT FROM event WHERE id = %s FOR UPDATE SKIP LOCKED"


class RegistrationsLocked(Locked):
    name = "registrations locked"
    meaning = "another session has all registrations of an event locked"
    lock = "SELECT FROM registration WHERE event_id = %s FOR UPDATE SKIP LOCKED"


class NoSpace(OfPostgres):
    """A table refuses all new rows with an error that is not the command's own: that of a full disk."""

    lasts = (0.3, 2.0)
    table: ClassVar[str]
    states: ClassVar[Sequence[str]] = ("53100",)

    def strike(self) -> None:
        self.service.query(_REFUSE.format(table=self.table, state=self.chance.choice(self.states)))

    def heal(self) -> None:
        self.service.query(f"DROP TRIGGER chaos_refuse ON {self.table}")


class NoSpaceAtAccepting(NoSpace):
    name = "no space at accepting"
    meaning = "the ledger refuses new commands as on a full disk"
    table = "command"


class NoSpaceAtApplying(NoSpace):
    name = "no space at applying"
    meaning = "the ledger refuses outcomes as on a full disk"
    table = "outcome"


class RegistrationsRefused(NoSpace):
    name = "registrations refused"
    meaning = "no registration can be added, as without disk or memory, or after a deadlock; outcomes can"
    table = "registration"
    states = ("53100", "53200", "40P01", "58030")


class Checkpointed(OfPostgres):
    name = "checkpoint and vacuum"
    meaning = "CHECKPOINT, and VACUUM of the ledger's tables"
    recovers_from = "strike"

    def strike(self) -> None:
        began = time.monotonic()
        self.service.query("CHECKPOINT")
        for table in ("pending_command", "event", "outcome"):
            self.service.query(f"VACUUM {table}")
        self.seconds = time.monotonic() - began


FAULTS: list[type[Fault]] = [
    SessionEnded,
    AllSessionsEnded,
    PostgresRestarted,
    PostgresReadOnly,
    PostgresUnreachable,
    PostgresCutOff,
    PostgresBlackHole,
    WorkerPartitioned,
    PostgresSlow,
    EventLocked,
    RegistrationsLocked,
    NoSpaceAtAccepting,
    NoSpaceAtApplying,
    RegistrationsRefused,
    Checkpointed,
]
