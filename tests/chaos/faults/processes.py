"""Faults of the service's own processes."""

import signal
import time

from tests.chaos.faults.fault import SILENCE_SECONDS, TICK_SECONDS, Fault

WORKER_KILLED_SECONDS_MAX = 2.0


class OfProcess(Fault):
    """A fault of one program."""

    kind = "worker"

    def draw(self) -> set[str]:
        self.program = self.chance.choice(
            self.service.workers if self.kind == "worker" else self.service.apis
        )
        return {self.program}


class Killed(OfProcess):
    lasts = (0.0, 0.5)
    bar_seconds = WORKER_KILLED_SECONDS_MAX

    def strike(self) -> None:
        self.service.signal(self.program, signal.SIGKILL)

    def heal(self) -> None:
        self.service.start(self.program)


class WorkerKilled(Killed):
    name = "worker killed"
    meaning = "SIGKILL at any moment, and started again"


class ApiKilled(Killed):
    name = "API killed"
    meaning = "SIGKILL at any moment, and started again"
    kind = "api"


class AllWorkersKilled(Fault):
    name = "all workers killed"
    meaning = "SIGKILL to every worker at once; counted from the moment at which one has joined again"
    recovers_from = "end"
    bar_seconds = WORKER_KILLED_SECONDS_MAX

    def draw(self) -> set[str]:
        return set(self.service.workers) | {"postgres"}

    def strike(self) -> None:
        for name in self.service.workers:
            self.service.signal(name, signal.SIGKILL)

    def heal(self) -> None:
        for name in self.service.workers:
            self.service.start(name)
        self.service.wait_joined()


class Stopped(OfProcess):
    def strike(self) -> None:
        self.service.signal(self.program, signal.SIGSTOP)

    def heal(self) -> None:
        self.service.signal(self.program, signal.SIGCONT)


class WorkerStopped(Stopped):
    name = "worker stopped"
    meaning = "SIGSTOP for a moment, shorter than the silence that costs it its events"
    lasts = (0.2, 3.0)
    recovers_from = "end"


class WorkerHung(Stopped):
    name = "worker hung"
    meaning = "SIGSTOP for longer than that silence, then SIGCONT: it must not commit"
    lasts = (SILENCE_SECONDS + 2, SILENCE_SECONDS + 3)
    bar_seconds = SILENCE_SECONDS + 1


class ApiStopped(Stopped):
    name = "API stopped"
    meaning = "SIGSTOP for a moment, then SIGCONT"
    kind = "api"
    lasts = (0.2, 3.0)


class Restarted(OfProcess):
    def strike(self) -> None:
        self.service.signal(self.program, signal.SIGTERM)

    def heal(self) -> None:
        self.service.start(self.program)


class WorkerRestarted(Restarted):
    name = "worker restarted"
    meaning = "SIGTERM, and started again"


class ApiRestarted(Restarted):
    name = "API restarted"
    meaning = "SIGTERM, and started again"
    kind = "api"


class EachRestarted(Fault):
    name = "every process restarted"
    meaning = "all workers and API processes, one after the other"
    bar_seconds = WORKER_KILLED_SECONDS_MAX

    def draw(self) -> set[str]:
        return set(self.service.programs)

    def strike(self) -> None:
        for name in self.service.programs:
            self.service.signal(name, signal.SIGTERM)
            self.service.start(name)
            time.sleep(4 * TICK_SECONDS)


class Clock(OfProcess):
    lasts = (2.0, 4.0)
    bar_seconds = WORKER_KILLED_SECONDS_MAX

    def strike(self) -> None:
        self.restart(self.chance.choice((-3_600.0, 3_600.0)))

    def heal(self) -> None:
        self.restart(0.0)

    def restart(self, ahead: float) -> None:
        self.service.signal(self.program, signal.SIGTERM)
        self.service.start(self.program, clock_ahead=ahead)


class WorkerClock(Clock):
    name = "worker's clock wrong"
    meaning = "restarted with a clock that is an hour ahead or behind"


class ApiClock(Clock):
    name = "API's clock wrong"
    meaning = "restarted with a clock that is an hour ahead or behind"
    kind = "api"


FAULTS: list[type[Fault]] = [
    WorkerKilled,
    ApiKilled,
    AllWorkersKilled,
    WorkerStopped,
    WorkerHung,
    ApiStopped,
    WorkerRestarted,
    ApiRestarted,
    EachRestarted,
    WorkerClock,
    ApiClock,
]
