"""Samples a service beside a scenario, on a thread of its own."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.chaos.service import Service


@contextmanager
def sampled(
    service: Service, every_seconds: float, sample: Callable[["psycopg.Connection[tuple[Any, ...]]"], None]
) -> Iterator[None]:
    """Call `sample` with one session of the harness again and again while the block lasts.

    Raises its error at the end of the block.
    """
    ending = threading.Event()

    def run() -> None:
        with service.session() as session:
            while not ending.wait(every_seconds):
                sample(session)

    with ThreadPoolExecutor(1, "sampler") as thread:
        samples = thread.submit(run)
        try:
            yield
        finally:
            ending.set()
    samples.result()
