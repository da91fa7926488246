"""Faults of what PostgreSQL keeps: its disk is full, or the machine with its disk is lost."""

import time
from contextlib import suppress
from typing import ClassVar

import psycopg

from ops.embedded import EmbeddedError
from tests.chaos.faults.fault import Missed
from tests.chaos.faults.of_postgres import OfPostgres
from tests.chaos.service import STANDBY

LOG_FILES_MAX = 200
"""More than PostgreSQL keeps to write on in."""


class DiskFull(OfPostgres):
    name = "disk full"
    meaning = "no page is left on PostgreSQL's disk: no file can grow"
    lasts = (0.3, 2.0)
    needs = "small disk"

    def strike(self) -> None:
        self.service.disk.fill()

    def heal(self) -> None:
        self.service.disk.make_room()
        try:
            self.service.wait_writable()
        except EmbeddedError:  # it has stopped itself, because it could not write its log
            self.service.postgres.stop(crash=True)
            self.service.postgres.start()
            self.service.wait_writable()


class DiskFullAtItsLog(DiskFull):
    name = "disk full at its log"
    meaning = "likewise, and the log needs a new file: PostgreSQL stops itself"
    lasts = (0.0, 1.0)

    def strike(self) -> None:
        super().strike()
        with suppress(psycopg.OperationalError):
            with self.service.session() as session:
                for _ in range(LOG_FILES_MAX):
                    session.execute("SELECT pg_logical_emit_message(true, 'chaos', '')")
                    session.execute("SELECT pg_switch_wal()")
            self.heal()
            raise Missed
        self.struck_at = time.time()


class StandbyPromoted(OfPostgres):
    name = "standby promoted"
    meaning = "the primary and what waits for its synchronous standby are lost, and the standby takes over"
    lasts = (0.0, 1.0)
    waits: ClassVar[tuple[float, float]] = (0.2, 1.0)

    def strike(self) -> None:
        self.standby = self.service.replicated()
        time.sleep(self.chance.uniform(*self.waits))
        # Commits of this moment wait, and are told to no client.
        self.service.relays.change(f"{STANDBY}/postgres", "hold")
        time.sleep(self.chance.uniform(*self.waits))
        self.struck_at = time.time()
        self.service.postgres.stop(crash=True)

    def heal(self) -> None:
        self.service.fail_over(self.standby)


FAULTS: list[type[OfPostgres]] = [DiskFull, DiskFullAtItsLog, StandbyPromoted]
