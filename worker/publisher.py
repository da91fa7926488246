"""Publishes outcomes to the result backend; a failure never stops the decisions."""

from collections.abc import Callable, Sequence

import structlog

from shared import metrics
from shared.domain.outcomes import SettledCommand
from shared.messaging.results import ResultWriter

log = structlog.get_logger(__name__)

_PAUSE_SECONDS_MIN = 0.5
_PAUSE_SECONDS_MAX = 5
"""The pause after a failure doubles at each, so that a result backend that hangs delays few batches."""


class Publisher:
    """Publishes committed outcomes for the API processes; the ledger has them even if this fails."""

    def __init__(self, writer: ResultWriter, clock: Callable[[], float]) -> None:
        self._writer = writer
        self._clock = clock
        self._paused_until = 0.0
        self._pause_seconds: float = _PAUSE_SECONDS_MIN
        self._unpublished: list[SettledCommand] = []

    def add(self, settled: Sequence[SettledCommand], *, confirmed: bool = True) -> None:
        """Add these outcomes to the next `publish`; outcomes that are not `confirmed` are left to the API."""
        if confirmed:
            self._unpublished += settled
        else:
            log.warning("outcomes_not_confirmed", count=len(settled))

    def publish(self) -> None:
        """Store and announce the added outcomes, unless the result backend has just failed; never raises."""
        settled, self._unpublished = self._unpublished, []
        if self._clock() < self._paused_until:
            metrics.results_lost.inc(len(settled))
            return
        if not settled:
            return
        try:
            self._writer.write(settled)
        except Exception as error:  # noqa: BLE001 - any error: the outcomes are committed
            self._paused_until = self._clock() + self._pause_seconds
            self._pause_seconds = min(2 * self._pause_seconds, _PAUSE_SECONDS_MAX)
            metrics.results_lost.inc(len(settled))
            log.warning("results_not_stored", count=len(settled), error=str(error))
        else:
            self._pause_seconds = _PAUSE_SECONDS_MIN

    def close(self) -> None:
        """Publish the added outcomes, and close the connection to the result backend."""
        self.publish()
        self._writer.close()
