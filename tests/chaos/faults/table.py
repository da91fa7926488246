"""The table of all faults; a run draws from it as from a deck, so that each comes once in each round."""

import random
from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from tests.chaos.faults import at_a_step, of_postgres, of_rabbitmq, of_redis, of_storage, processes
from tests.chaos.faults.fault import Fault
from tests.chaos.service import HarnessError, Part, Service
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
    *of_rabbitmq.FAULTS,
    *of_postgres.FAULTS,
    *of_storage.FAULTS,
    *at_a_step.FAULTS,
    Poison,
    Overload,
]
SLOW = frozenset(kind for kind in FAULTS if kind.lasts[1] > 5 or kind is of_storage.StandbyPromoted)
"""Faults that take many seconds: each comes in every third round only."""


def of_service(parts: AbstractSet[Part], only: str = "") -> list[type[Fault]]:
    """Return the faults of a service with these parts, with this text in their names."""
    return [kind for kind in FAULTS if only in kind.name and (kind.needs is None or kind.needs in parts)]


def deck(service: Service, workload: Workload, chance: random.Random, only: str = "") -> Iterator[Fault]:
    """Yield faults without end, of the types of this service with this text in their names.

    Those at a step come twice as often: each breaks one promise most directly, and takes little time.
    """
    named = of_service(service.parts, only)
    if not named:
        raise HarnessError(f"this service has no fault with {only!r} in its name")
    named += [kind for kind in named if kind in at_a_step.FAULTS]
    round_ = 0
    while True:
        kinds = [kind for kind in named if kind not in SLOW or only or round_ % 3 == 0]
        for kind in chance.sample(kinds, len(kinds)):
            # A source of its own: a fault that misses draws less, and must not change those after it.
            yield kind(service, workload, random.Random(chance.random()))  # noqa: S311 - repeatable
        round_ += 1
