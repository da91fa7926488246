"""The history that the clients saw: an operation is one wish of one client, from its first send to its end.

Times are seconds of one monotonic clock of one process. An operation is one of

    ok          it has an outcome, as `told` says
    refused     its outcome is a refusal or a failure
    rejected    an answer said that nothing was accepted
    accepted    it has a receipt, and no outcome was told in time
    unknown     no answer says whether it was accepted
"""

import time
from typing import Any

from msgspec import Struct, field


class Operation(Struct, kw_only=True):
    """One wish of one client, with all the answers to it.

    `mark` is the text by which its command is found in the ledger; operations may share one. A keyed
    operation is repeated under its idempotency key, so at most one command of it has an effect. `doubtful`:
    one of its attempts may have been accepted without an answer. `told` has each different answer, in the
    order in which they came, and `read_again` what its receipt says at rest; `rejected` is the last answer
    that said that nothing was accepted. An erasure is of the
    registration, or of all that has the `address`.
    """

    number: int
    kind: str
    event_id: str
    mark: str
    spots: int = 0
    keyed: bool = False
    begun: float = 0.0
    accepted: float | None = None
    decided: float | None = None
    attempts: int = 0
    doubtful: bool = False
    receipt: str | None = None
    registration_id: str | None = None
    address: str | None = None
    told: list[str] = field(default_factory=list)
    rejected: str | None = None
    rejected_at: float = 0.0
    read_again: str | None = None

    @property
    def refused_early(self) -> bool:
        """True if its one answer is a refusal without a command, because the event is full."""
        return self.rejected == "409 EVENT_FULL" and self.receipt is None and self.attempts == 1

    @property
    def state(self) -> str:
        if self.told:
            return "refused" if self.told[0].startswith(("REFUSED", "FAILED")) else "ok"
        if self.receipt is not None:
            return "accepted"
        return "rejected" if self.rejected and not self.doubtful else "unknown"


class Made(Struct, kw_only=True):
    """An event that the clients made: its settings as it was created."""

    id: str
    slug: str
    settings: dict[str, Any]


class History(Struct, kw_only=True):
    """All events and operations of a run, and the answers that no client should ever get.

    `lost` are the wishes that were sent and not answered at all, with the reason. `undone` are the times in
    which changes were seen that a failover undid.
    `epoch` is the zero of the operations' clock, in seconds since 1970.
    """

    events: dict[str, Made] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    undone: list[tuple[float, float]] = field(default_factory=list)
    epoch: float = field(default_factory=lambda: time.time() - time.monotonic())
