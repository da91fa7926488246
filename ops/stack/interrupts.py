"""Requests to stop: Ctrl-C, SIGTERM, a terminal that closes."""

import signal
from types import FrameType
from typing import Self


class Interrupts:
    """Counts the requests to stop; they never interrupt, so that no child is started and not noted."""

    def __init__(self) -> None:
        self.count = 0

    @property
    def hasten(self) -> bool:
        """Whether a stop was asked for again."""
        return self.count > 1

    def __enter__(self) -> Self:
        asked = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup, a closed terminal is no request
            asked.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in asked}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
