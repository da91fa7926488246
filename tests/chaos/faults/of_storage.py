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
CUT_OFF_SHARE, CUT_OFF_SECONDS = 0.5, 0.1
_CUT_OFF = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


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
        cuts_off = self.chance.random() < CUT_OFF_SHARE
        began = time.monotonic()
        until = began + self.chance.uniform(*self.waits)
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, CUT_OFF_SECONDS))
            if cuts_off:  # the commits end, and only the primary has them
                self.service.query(_CUT_OFF)
        self.struck_at = time.time()
        self.service.postgres.stop(crash=True)
        if cuts_off:
            self.workload.history.undone.append((began, time.monotonic()))

    def heal(self) -> None:
        self.service.fail_over(self.standby)


FAULTS: list[type[OfPostgres]] = [DiskFull, DiskFullAtItsLog, StandbyPromoted]
