"""Publishes outcomes to the result backend, without ever getting in the way of deciding."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from shared.domain.outcomes import SettledCommand
from shared.messaging.results import ResultWriter

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 5
"""After a failure: a result backend that hangs must not be waited for again and again."""


class Publisher:
    """Offers committed outcomes to the API processes; the ledger has them whether this succeeds or not.

    It writes in a thread of its own, so that the next batch is decided meanwhile (decision 0004).
    """

    def __init__(self, writer: ResultWriter, clock: Callable[[], float]) -> None:
        self._writer = writer
        self._clock = clock
        self._paused_until = 0.0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publisher")

    def publish(self, settled: Sequence[SettledCommand]) -> None:
        """Store and announce outcomes soon, in this order; never raises, never waits."""
        if settled:
            self._thread.submit(self._write, settled)

    def close(self) -> None:
        """Return when all outcomes are written, and close the connection to the result backend."""
        self._thread.shutdown()
        self._writer.close()

    def _write(self, settled: Sequence[SettledCommand]) -> None:
        if self._clock() < self._paused_until:
            return
        try:
            self._writer.write(settled)
        except Exception as error:  # noqa: BLE001 - any error: the outcomes are committed
            self._paused_until = self._clock() + _PAUSE_SECONDS
            log.warning("results_not_stored", count=len(settled), error=str(error))
