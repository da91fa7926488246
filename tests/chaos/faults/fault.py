"""A fault: it strikes parts of the service, lasts a while, and is healed."""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar, Literal

from tests.chaos.service import Part, Service
from tests.chaos.workload import Workload

Since = Literal["strike", "end"]
TICK_SECONDS = 0.5
SILENCE_SECONDS = 10.0
"""The service's own defaults: an event without a message is decided at the next tick."""


class Missed(Exception):  # noqa: N818 - reads as the sentence "raise Missed"
    """The fault did not strike: what it waits for did not come."""


class Fault(ABC):
    """One fault of a run, drawn by `chance`; it strikes once and is healed once.

    `bar_seconds` is the longest time to the next decision of any event that has commands then, counted from
    the fault's strike or from its end. A fault that `needs` a part strikes only services that have it.
    """

    name: ClassVar[str]
    meaning: ClassVar[str]
    lasts: ClassVar[tuple[float, float]] = (0.0, 0.0)
    recovers_from: ClassVar[Since] = "strike"
    bar_seconds: ClassVar[float] = 1.0
    needs: ClassVar[Part | None] = None

    def __init__(self, service: Service, workload: Workload, chance: random.Random) -> None:
        self.service, self.workload, self.chance = service, workload, chance
        self.seconds = chance.uniform(*self.lasts)
        self.struck_at: float | None = None
        """The time of the strike, where that is not the moment at which `strike` is called."""
        self.parts = self.draw()

    @abstractmethod
    def draw(self) -> set[str]:
        """Draw the target; return the parts of the service that no other fault may touch meanwhile.

        A part is a program, a server, or the way of a program to a server, as "worker-1/postgres".
        """

    @abstractmethod
    def strike(self) -> None:
        """Break the parts; raises `Missed` if there was nothing to break."""

    def heal(self) -> None:  # noqa: B027 - most faults that last no time need no end
        """Mend the parts."""

    def is_apart_from(self, others: Iterable["Fault"]) -> bool:
        """Return True if no part is another fault's; a server has all ways to it."""
        theirs = {part for other in others for part in other.parts}
        ways_to = {part.partition("/")[2] for part in theirs}
        return theirs.isdisjoint(self.parts | {part.partition("/")[2] for part in self.parts} - {""}) and (
            ways_to.isdisjoint(self.parts)
        )

    def describe(self) -> str:
        """Return the fault with its target, for the log of a run."""
        return f"{self.name} ({', '.join(sorted(self.parts))}, {self.seconds:.1f} s)"
