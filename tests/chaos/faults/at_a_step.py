"""Faults at one step of accepting or applying: a relay sees the step on the wire, and strikes there.

So the programs need no failpoints, and nothing of this is in the code that runs in production.
"""

import signal
from typing import ClassVar

from tests.chaos.faults.fault import SILENCE_SECONDS, Fault, Missed, Since
from tests.chaos.faults.processes import WORKER_KILLED_SECONDS_MAX
from tests.chaos.relays import Point, Then

STEP_SECONDS_MAX = 3.0
"""The step must come within this time; else the fault does not strike."""
LAST_MOMENT_SECONDS = 0.5
"""A trap may be sprung while it is taken away."""
_TEXT_OF_COMMAND, _TEXT_OF_WAKING = '"spotsCount"', "apply_commands"
_TEXT_OF_COMMIT, _TEXT_OF_PUBLISHING = "COMMIT", "celery-task-meta-"


class AtAStep(Fault):
    """Kill, stop or cut off a program at a step of its work with a server."""

    kind: ClassVar[str]
    server: str = "postgres"
    text: ClassVar[str]
    point: ClassVar[Point]
    then: ClassVar[Then] = "kill"
    bar_seconds = WORKER_KILLED_SECONDS_MAX

    def draw(self) -> set[str]:
        self.program = self.chance.choice(
            self.service.workers if self.kind == "worker" else self.service.apis
        )
        return {self.program, f"{self.program}/{self.server}"}

    def strike(self) -> None:
        relays, link = self.service.relays, f"{self.program}/{self.server}"
        number = relays.set_trap(link, self.text, self.point, self.then, self.service.pid(self.program))
        self.struck_at = relays.sprung(number, STEP_SECONDS_MAX)
        if self.struck_at is None:
            relays.take_away(link)
            self.struck_at = relays.sprung(number, LAST_MOMENT_SECONDS)
        if self.struck_at is None:
            raise Missed

    def heal(self) -> None:
        match self.then:
            case "kill":
                self.service.start(self.program)
            case "stop":
                self.service.signal(self.program, signal.SIGCONT)
                self.service.relays.change(f"{self.program}/{self.server}", "pass")
            case "refuse":
                self.service.relays.change(f"{self.program}/{self.server}", "pass")
            case "cut":  # the program connects again by itself
                pass


class _Accepting(AtAStep):
    kind, text = "api", _TEXT_OF_COMMAND


class ApiKilledBeforeInsert(_Accepting):
    name, meaning, point = "API killed before its INSERT", "no command has left it", "before"


class ApiKilledAfterInsert(_Accepting):
    name, meaning, point = "API killed after its INSERT", "committed, and not heard", "answered"


class ApiKilledBeforeWaking(_Accepting):
    name, meaning, point = "API killed before its message", "committed and heard", "told"


class _Waking(_Accepting):
    text = _TEXT_OF_WAKING

    def draw(self) -> set[str]:
        self.server = "redis" if self.service.rabbitmq is None else "rabbitmq"
        return super().draw()


class ApiKilledAtWaking(_Waking):
    name, meaning, point = "API killed at its message", "the message has not left it", "before"


class ApiKilledAfterWaking(_Waking):
    name, meaning, point = "API killed after its message", "the message is sent", "answered"


class AcceptanceUnheard(_Accepting):
    name, meaning, point = "COMMIT unheard at accepting", "committed, the connection cut", "answered"
    then = "cut"


class AcceptanceUnsent(_Accepting):
    name, meaning, point = "INSERT lost at accepting", "the connection cut before it left", "before"
    then = "cut"


class AcceptanceUnheardAndAway(_Accepting):
    name = "COMMIT unheard at accepting, then no PostgreSQL"
    meaning = "committed, and the way refused for longer than the intake's patience"
    point, then = "answered", "refuse"
    lasts = (2.5, 4.0)
    recovers_from: ClassVar[Since] = "end"


class _Applying(AtAStep):
    kind, text = "worker", _TEXT_OF_COMMIT


class WorkerKilledBeforeCommit(_Applying):
    name, meaning, point = "worker killed before its COMMIT", "all is written, nothing committed", "before"


class WorkerKilledAfterCommit(_Applying):
    name, meaning, point = "worker killed in its COMMIT", "committed, and not heard", "answered"


class WorkerKilledBeforePublishing(_Applying):
    name, meaning, point = "worker killed after its COMMIT", "committed and heard", "told"


class WorkerKilledAtPublishing(_Applying):
    name, meaning, point = "worker killed at publishing", "the outcomes have not left it", "before"
    server, text = "redis", _TEXT_OF_PUBLISHING


class CommitUnheard(_Applying):
    name, meaning, point = "COMMIT unheard at applying", "committed, the connection cut", "answered"
    then = "cut"


class CommitUnsent(_Applying):
    name, meaning, point = "COMMIT lost at applying", "the connection cut before it left", "before"
    then = "cut"


class CommitUnheardAndAway(_Applying):
    name = "COMMIT unheard at applying, then no PostgreSQL"
    meaning = "committed, and the worker's way refused for a while"
    point, then = "answered", "refuse"
    lasts = (1.0, 3.0)


class WorkerStoppedInTransaction(_Applying):
    name, meaning, point = (
        "worker stopped in a transaction",
        "SIGSTOP, its COMMIT held for a moment",
        "before",
    )
    then = "stop"
    lasts = (0.2, 2.0)
    recovers_from: ClassVar[Since] = "end"


class WorkerHungInTransaction(WorkerStoppedInTransaction):
    name = "worker hung in a transaction"
    meaning = "SIGSTOP, its COMMIT held for longer than the silence that ends its session"
    lasts = (SILENCE_SECONDS + 2, SILENCE_SECONDS + 3)
    recovers_from = "strike"
    bar_seconds = SILENCE_SECONDS + 1


FAULTS: list[type[Fault]] = [
    ApiKilledBeforeInsert,
    ApiKilledAfterInsert,
    ApiKilledBeforeWaking,
    ApiKilledAtWaking,
    ApiKilledAfterWaking,
    AcceptanceUnheard,
    AcceptanceUnsent,
    AcceptanceUnheardAndAway,
    WorkerKilledBeforeCommit,
    WorkerKilledAfterCommit,
    WorkerKilledBeforePublishing,
    WorkerKilledAtPublishing,
    CommitUnheard,
    CommitUnsent,
    CommitUnheardAndAway,
    WorkerStoppedInTransaction,
    WorkerHungInTransaction,
]
