"""The result backend: outcomes in Celery's own format, and receipts nowhere."""

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
import redis
from celery.result import AsyncResult

from shared.domain import ids, outcomes
from shared.domain.outcomes import Confirmed, SettledCommand
from shared.messaging import queues, results
from shared.messaging.results import Publisher
from shared.settings import Settings
from tests.stage import Json

KEEP_SECONDS = 60
CLOSED_SECONDS = 0.1


def decided(count: int) -> list[SettledCommand]:
    event_id = ids.new_id()
    return [
        SettledCommand(
            event_id=event_id,
            command_id=ids.new_id(),
            seq=1,
            outcome=Confirmed(registration_id=ids.new_id(), spots_count=1),
        )
        for _ in range(count)
    ]


def cut_off(settings: Settings) -> None:
    """Close the connections of all writers."""
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
                    if not answer or answer.startswith(
                        (b"$-1", b"_")
                    ):  # the script's, after those of connecting
                        return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Once) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/{backend['db']}"
        server.shutdown()


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)


def stored(settings: Settings, settled: Sequence[SettledCommand]) -> int:
    with results.connect(settings.result_url) as client:
        return int(client.exists(*(results.key(command.command_id) for command in settled)))


def both_stored(settings: Settings, url: str, between: Callable[[], None]) -> bool:
    """Write a batch, let something happen, write another; tell whether both are there."""
    before, after = decided(3), decided(5)
    writer = Publisher(url, KEEP_SECONDS, lambda: 0.0)
    writer.write(before)
    between()
    writer.write(after)
    writer.close()
    return (stored(settings, before), stored(settings, after)) == (3, 5)


def test_a_cut_off_writer_loses_no_batch(settings: Settings) -> None:
    assert both_stored(settings, settings.result_url, lambda: cut_off(settings))


def test_a_writer_cut_off_over_tcp_loses_none(settings: Settings) -> None:
    with closing_after_each_answer(settings) as url:
        assert both_stored(settings, url, lambda: time.sleep(CLOSED_SECONDS))


def test_a_missing_result_backend_is_reported() -> None:
    writer = Publisher("redis://127.0.0.1:9/0", KEEP_SECONDS, lambda: 0.0)
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            writer.write(decided(1))


def test_a_full_result_backend_is_reported(settings: Settings) -> None:
    writer = Publisher(settings.result_url, KEEP_SECONDS, lambda: 0.0)
    with results.connect(settings.result_url) as client:
        configured = client.config_get("maxmemory", "maxmemory-policy")
        # A server that may evict accepts a write for as long as it has something left to evict.
        client.config_set("maxmemory-policy", "noeviction", "maxmemory", 1)
        try:
            with pytest.raises(redis.ResponseError):
                writer.write(decided(1))
        finally:
            client.config_set(*(text for pair in configured.items() for text in pair))
    writer.close()


def test_celery_reads_the_outcome(settings: Settings) -> None:
    (command,) = decided(1)
    writer = Publisher(settings.result_url, KEEP_SECONDS, lambda: 0.0)
    writer.write([command])
    writer.close()

    result: AsyncResult[Json] = AsyncResult(ids.task_id(command.command_id), app=queues.celery_app(settings))

    assert result.status == "SUCCESS"
    assert outcomes.decode(json.dumps(result.result)) == command.outcome
    with results.connect(settings.result_url) as client:
        assert 0 < client.pttl(results.key(command.command_id)) <= KEEP_SECONDS * 1000
