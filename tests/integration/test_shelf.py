"""The worker's shelf: outcomes are in the result backend, also after it cut the worker off."""

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
import redis
from structlog.testing import capture_logs

from shared.domain import ids
from shared.domain.outcomes import Confirmed
from shared.messaging import results
from shared.messaging.results import Shelf
from shared.postgres.ledger import Settled
from shared.settings import Settings

KEEP_SECONDS = 60
PAUSE_MS = 10_000
CLOSED_SECONDS = 0.1


def decided(count: int) -> list[Settled]:
    event_id = ids.new_id()
    outcomes = [Confirmed(registration_id=ids.new_id(), spots_count=1) for _ in range(count)]
    return [Settled(event_id=event_id, command_id=ids.new_id(), outcome=outcome) for outcome in outcomes]


def cut_off(settings: Settings) -> None:
    """Close the connections of everybody who has written."""
    with results.connect(settings.result_url) as client:
        mine = client.client_id()
        for other in client.client_list():
            if other["cmd"] == "eval" and int(other["id"]) != mine:
                client.client_kill_filter(_id=other["id"])


@contextmanager
def closing_after_each_answer(settings: Settings) -> Iterator[str]:
    """Offer the result backend over TCP, a connection for each command, the end of which is polite."""
    backend = results.connect(settings.result_url).connection_pool.connection_kwargs

    class Once(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as there:
                there.connect(backend["path"])
                asking = threading.Thread(target=pump, args=(self.request, there), daemon=True)
                asking.start()
                while True:
                    answer = there.recv(65_536)
                    self.request.sendall(answer)
                    if not answer or answer.startswith(b":"):  # that of the script, after those of connecting
                        return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Once) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/{backend['db']}"
        server.shutdown()


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)


def stored(settings: Settings, settled: Sequence[Settled]) -> int:
    with results.connect(settings.result_url) as client:
        return int(client.exists(*(results.key(one.command_id) for one in settled)))


def both_stored(settings: Settings, url: str, between: Callable[[], None]) -> bool:
    """Put a batch on a shelf, let something happen, put another; tell whether both are there."""
    before, after = decided(3), decided(5)
    shelf = Shelf(url, KEEP_SECONDS)
    shelf.put(before)
    shelf.confirm()
    between()
    shelf.put(after)
    shelf.confirm()
    shelf.close()
    return (stored(settings, before), stored(settings, after)) == (3, 5)


def test_who_was_cut_off_between_batches_loses_none(settings: Settings) -> None:
    assert both_stored(settings, settings.result_url, lambda: cut_off(settings))


def test_who_was_cut_off_over_tcp_loses_none(settings: Settings) -> None:
    with closing_after_each_answer(settings) as url:
        assert both_stored(settings, url, lambda: time.sleep(CLOSED_SECONDS))


def test_a_batch_that_is_lost_is_told_and_the_next_one_is_there(settings: Settings) -> None:
    lost, after = decided(4), decided(5)
    shelf = Shelf(settings.result_url, KEEP_SECONDS)
    with results.connect(settings.result_url) as client, capture_logs() as logs:
        client.client_pause(PAUSE_MS, all=False)  # nothing is written
        try:
            shelf.put(lost)
            cut_off(settings)
        finally:
            client.client_unpause()
        shelf.put(after)
    shelf.confirm()
    shelf.close()

    assert (stored(settings, lost), stored(settings, after)) == (0, 5)
    assert [entry["event"] for entry in logs] == ["results_lost"]


def test_without_a_result_backend_every_batch_is_told_to_be_lost() -> None:
    shelf = Shelf("redis://127.0.0.1:9/0", KEEP_SECONDS)
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            shelf.put(decided(1))


def test_what_was_not_stored_is_not_confirmed(settings: Settings) -> None:
    with results.connect(settings.result_url) as client:
        memory = client.config_get("maxmemory")["maxmemory"]
        client.config_set("maxmemory", 1)
        shelf = Shelf(settings.result_url, KEEP_SECONDS)
        try:
            shelf.put(decided(1))
            with pytest.raises(redis.ResponseError):
                shelf.confirm()
        finally:
            client.config_set("maxmemory", memory)
    shelf.close()
