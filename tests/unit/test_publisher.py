"""The publisher: a result backend that fails is left alone for a while, and never stops the worker."""

import itertools
from collections.abc import Callable, Sequence
from uuid import UUID

import pytest
import redis
from structlog.testing import capture_logs

from shared.domain.outcomes import Confirmed, SettledCommand
from shared.messaging.results import Publisher


class Backend(Publisher):
    """A publisher to a result backend in memory, which fails when it is told to."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__("redis://127.0.0.1:9/0", keep_seconds=60, clock=clock)
        self.tried: list[int] = []
        self.error: Exception | None = None

    def write(self, settled: Sequence[SettledCommand]) -> None:
        self.tried += [command.command_id.int for command in settled]
        if self.error is not None:
            raise self.error


class SlowBackend(Backend):
    """A backend of which each answer takes its time."""

    TAKES = 0.075

    def __init__(self, seconds: list[float]) -> None:
        super().__init__(lambda: seconds[0])
        self.seconds = seconds

    def write(self, settled: Sequence[SettledCommand]) -> None:
        self.seconds[0] += self.TAKES
        super().write(settled)


def settled(number: int) -> list[SettledCommand]:
    outcome = Confirmed(registration_id=UUID(int=9), spots_count=1)
    return [SettledCommand(event_id=UUID(int=1), command_id=UUID(int=number), seq=number, outcome=outcome)]


def publish(publisher: Publisher, number: int) -> None:
    publisher.add(settled(number))
    publisher.publish()


@pytest.mark.parametrize("error", [redis.ConnectionError(), redis.ResponseError("OOM"), ValueError()])
def test_a_failure_pauses_publishing(error: Exception) -> None:
    seconds = [100.0]
    backend = Backend(lambda: seconds[0])
    publish(backend, 1)

    backend.error = error
    with capture_logs() as logs:
        publish(backend, 2)
    backend.error = None
    for number, now in ((3, 100.0), (4, 100.4), (5, 100.5), (6, 100.6)):
        seconds[0] = now
        publish(backend, number)

    assert backend.tried == [1, 2, 5, 6]
    assert [entry["event"] for entry in logs] == ["results_not_stored"]


def test_pauses_grow_until_publishing_succeeds() -> None:
    seconds = [0.0]
    backend = SlowBackend(seconds)
    backend.error = redis.TimeoutError()
    with capture_logs():
        for number in range(1, 301):  # one each 100 ms
            seconds[0] = number / 10
            publish(backend, number)
        tried = [number / 10 for number in backend.tried]
        backend.error, seconds[0] = None, 100
        publish(backend, 1_000)
        backend.error = redis.TimeoutError()
        publish(backend, 1_001)
        seconds[0] = 100.8
        publish(backend, 1_002)

    pauses = [after - before for before, after in itertools.pairwise(tried)]
    assert pauses == pytest.approx([0.6, 1.1, 2.1, 4.1, 5.1, 5.1, 5.1, 5.1])
    assert backend.tried[-3:] == [1_000, 1_001, 1_002]


def test_quick_failures_do_not_lengthen_the_pause() -> None:
    seconds = [0.0]
    backend = Backend(lambda: seconds[0])
    backend.error = redis.ResponseError("LOADING")
    with capture_logs():
        for number in range(1, 31):  # one each 100 ms
            seconds[0] = number / 10
            publish(backend, number)

    assert backend.tried == [1, 6, 11, 16, 21, 26]


def test_outcomes_are_published_together_and_once() -> None:
    backend = Backend()
    for number in (1, 2):
        backend.add(settled(number))
    assert backend.tried == []
    backend.publish()
    backend.publish()

    assert backend.tried == [1, 2]


def test_closing_publishes_unpublished_outcomes() -> None:
    backend = Backend()
    backend.add(settled(1))
    backend.close()

    assert backend.tried == [1]


def test_nothing_settled_is_not_published() -> None:
    backend = Backend()
    backend.error = AssertionError("written")
    backend.add([])
    with capture_logs() as logs:
        backend.publish()

    assert (backend.tried, logs) == ([], [])
