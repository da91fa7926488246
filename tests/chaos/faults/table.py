"""The table of all faults; a run draws from it as from a deck: each comes before any comes again."""

import random
from collections.abc import Iterator

from tests.chaos.faults import at_a_step, of_postgres, of_redis, processes
from tests.chaos.faults.fault import Fault
from tests.chaos.service import Service
from tests.chaos.workload import CROWD, Workload


class Poison(Fault):
    name = "poisoned command"
    meaning = "a command that cannot be written: it alone fails"

    def draw(self) -> set[str]:
        return {"poison"}

    def strike(self) -> None:
        self.workload.wishes.poisonous = self.chance.randint(1, 3)


class Overload(Fault):
    name = "overload"
    meaning = "a crowd sends registrations without a pause, and waits for none"
    lasts = (1.0, 2.0)
    recovers_from = "end"
    bar_seconds = 5.0

    def draw(self) -> set[str]:
        return {"crowd"}

    def strike(self) -> None:
        self.workload.crowd = CROWD

    def heal(self) -> None:
        self.workload.crowd = 0


FAULTS: list[type[Fault]] = [
    *processes.FAULTS,
    *of_redis.FAULTS,
    *of_postgres.FAULTS,
    *at_a_step.FAULTS,
    Poison,
    Overload,
]
SLOW = frozenset(kind for kind in FAULTS if kind.lasts[1] > 5)
"""Faults that last longer than a worker's silence: each comes once in a deck of three."""


def deck(service: Service, workload: Workload, chance: random.Random) -> Iterator[Fault]:
    """Yield faults without end."""
    round_ = 0
    while True:
        kinds = [kind for kind in FAULTS if kind not in SLOW or round_ % 3 == 0]
        for kind in chance.sample(kinds, len(kinds)):
            yield kind(service, workload, chance)
        round_ += 1
