"""The requests to stop: Ctrl-C, SIGTERM, a closed terminal."""

import signal
from types import FrameType
from typing import Self


class Interrupts:
    """Counts the requests to stop. They raise no exception, so that no started child goes unnoted."""

    def __init__(self) -> None:
        self.count = 0

    @property
    def hasten(self) -> bool:
        """True if a second stop was requested."""
        return self.count > 1

    def __enter__(self) -> Self:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup, a closed terminal is no request
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
