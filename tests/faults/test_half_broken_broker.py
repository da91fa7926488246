"""A Redis that answers and does not work: all is decided within two seconds, and `/readyz` says why."""

import base64
import json
import os
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis

from ops.embedded import Servers, valkey
from ops.rehearsal.temporary_stack import free_port
from shared.messaging import queues, results
from shared.postgres import locks
from tests.stage import WORKER_BYTES_MAX, Breakable, Json, Stage, peak_bytes

ANSWER_SECONDS_MAX = 2.0
REPAIRED_SECONDS_MAX = 20.0
_WORKERS = """
    SELECT objid::bigint AS number FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2 AND classid::bigint = %s
"""


def run(server: "redis.Redis", *command: str) -> None:
    """Run a command for which redis-py has no method of this form."""
    server.execute_command(*command)  # type: ignore[no-untyped-call]


def refuse_writes_as_a_replica(server: "redis.Redis") -> None:
    server.replicaof("127.0.0.1", "9")


def refuse_writes_without_replicas(server: "redis.Redis") -> None:
    server.config_set("min-replicas-to-write", 1)


def run_out_of_memory(server: "redis.Redis") -> None:
    server.config_set("maxmemory-policy", "noeviction")
    server.config_set("maxmemory", 1)


def fail_to_save(server: "redis.Redis") -> None:
    """Let a snapshot fail: Redis then refuses all writes with MISCONF."""
    server.set("kept", "value")
    server.config_set("rdb-key-save-delay", 60_000_000)
    server.config_set("save", "3600 1")
    server.config_set("stop-writes-on-bgsave-error", "yes")
    server.bgsave()
    pid = server.info("server")["process_id"]
    [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while server.info("persistence")["rdb_last_bgsave_status"] == "ok":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def forbid_scripts(server: "redis.Redis") -> None:
    run(server, "ACL", "SETUSER", "default", "-eval", "-evalsha")


def forbid_channels(server: "redis.Redis") -> None:
    run(server, "ACL", "SETUSER", "default", "resetchannels")


def forbid_subscriptions(server: "redis.Redis") -> None:
    run(server, "ACL", "SETUSER", "default", "-@pubsub")


def forbid_popping(server: "redis.Redis") -> None:
    run(server, "ACL", "SETUSER", "default", "-brpop")


def forbid_transactions(server: "redis.Redis") -> None:
    run(server, "ACL", "SETUSER", "default", "-multi")


BREAKS = {
    "replica": (refuse_writes_as_a_replica, {"broker", "results"}),
    "no-replicas": (refuse_writes_without_replicas, {"broker", "results"}),
    "out-of-memory": (run_out_of_memory, {"broker", "results"}),
    "misconf": (fail_to_save, {"broker", "results"}),
    "no-eval": (forbid_scripts, {"results"}),
    "no-channels": (forbid_channels, {"results"}),
    "no-pubsub": (forbid_subscriptions, {"results"}),
    "no-brpop": (forbid_popping, {"broker"}),
    "no-multi": (forbid_transactions, {"broker"}),
}


def repair(server: "redis.Redis") -> None:
    run(server, "ACL", "SETUSER", "default", "+@all", "allchannels")
    server.replicaof("NO", "ONE")
    for name, value in (
        ("min-replicas-to-write", "0"),
        ("maxmemory", "0"),
        ("save", ""),
        ("stop-writes-on-bgsave-error", "no"),
        ("rdb-key-save-delay", "0"),
    ):
        server.config_set(name, value)


@pytest.fixture(scope="module")
def broken(
    tmp_path_factory: pytest.TempPathFactory, migrated_cluster: Path
) -> Iterator[tuple[Breakable, Stage]]:
    """One stage with servers of its own for all breaks, each of which is repaired."""
    with Breakable(tmp_path_factory.mktemp("broken"), migrated_cluster) as made:
        yield made, made(workers=1)


def register(stage: Stage, event: Json, name: str) -> tuple[int, float]:
    """Register; return the answer's status and the seconds that it took."""
    began = time.monotonic()
    with stage.client() as client:
        answer = client.post(f"/api/p/{event['slug']}/register", json={"name": name})
    return answer.status_code, time.monotonic() - began


def owner_queue(stage: Stage) -> str:
    """Return the name of the queue of the only worker."""
    [number] = {worker["number"] for worker in stage.query(_WORKERS, locks.WORKER)}
    name: str = queues.OWNER_QUEUE % number
    return name


def assert_decided(stage: Stage, event: Json) -> None:
    answers = [register(stage, event, f"User {n}") for n in range(4)]
    assert [status for status, _ in answers] == [201] * 4, stage.log()[-5_000:]
    assert max(seconds for _, seconds in answers) < ANSWER_SECONDS_MAX, answers


def readiness(stage: Stage, until: Callable[[Json], object] = lambda _: True) -> Json:
    """Return the readiness as soon as `until` holds for it."""
    deadline = time.monotonic() + REPAIRED_SECONDS_MAX
    with stage.client() as client:
        while True:
            answer = client.get("/readyz")
            found: Json = {**answer.json(), "status": answer.status_code}
            if until(found):
                return found
            assert time.monotonic() < deadline, (found, stage.log()[-5_000:])
            time.sleep(0.1)


def wait_until_consuming(stage: Stage, server: "redis.Redis") -> None:
    """Wait until every worker reads messages from the broker again."""
    wait_until(
        lambda: sum(client["cmd"] == "brpop" for client in server.client_list()) >= len(stage.workers), stage
    )


def wait_until(is_so: Callable[[], bool], stage: Stage) -> None:
    """Return as soon as `is_so` holds."""
    deadline = time.monotonic() + REPAIRED_SECONDS_MAX
    while not is_so():
        assert time.monotonic() < deadline, stage.log()[-5_000:]
        time.sleep(0.02)


@pytest.mark.parametrize("name", BREAKS)
def test_deciding_outlives_a_redis_that_refuses(broken: tuple[Breakable, Stage], name: str) -> None:
    break_it, degraded = BREAKS[name]
    _, stage = broken
    event = stage.create_event(capacity=100)
    server = results.connect(stage.servers.broker_url)
    wait_until_consuming(stage, server)
    assert register(stage, event, "Before")[0] == 201
    break_it(server)
    try:
        assert_decided(stage, event)
        found = readiness(stage, lambda found: found["degraded"])
        stage.start_worker()
        stage.kill_worker(0)
        assert_decided_by_the_next(stage, event)
    finally:
        repair(server)
    assert (found["status"], found["ready"]) == (200, True)
    assert set(found["degraded"]) == degraded
    assert all(found["checks"][part] not in {"ok", ""} for part in degraded), found

    assert readiness(stage, lambda found: not found["degraded"])["status"] == 200
    wait_until_consuming(stage, server)
    assert [worker.poll() for worker in stage.workers] == [None]
    server.close()


def assert_decided_by_the_next(stage: Stage, event: Json) -> None:
    """Let the worker that has just started take the event over, then expect quick answers from it."""
    with stage.client() as client:
        taken = client.post(
            f"/api/p/{event['slug']}/register", json={"name": "Taken over"}, headers={"prefer": "wait=25"}
        )
    assert taken.status_code == 201, stage.log()[-5_000:]
    assert_decided(stage, event)


def test_deciding_outlives_a_redis_that_hangs(broken: tuple[Breakable, Stage]) -> None:
    breakable, stage = broken
    event = stage.create_event(capacity=100)
    assert register(stage, event, "Before")[0] == 201
    os.kill(breakable.valkey.pid, signal.SIGSTOP)
    try:
        time.sleep(1)
        for _ in range(3):  # publishing is tried again and again meanwhile
            assert_decided(stage, event)
        found = readiness(stage, lambda found: found["degraded"])
        stage.start_worker()
        stage.kill_worker(0)
        assert_decided_by_the_next(stage, event)
    finally:
        os.kill(breakable.valkey.pid, signal.SIGCONT)
    assert (found["status"], set(found["degraded"])) == (200, {"broker", "results"})
    assert readiness(stage, lambda found: not found["degraded"])["status"] == 200


def test_all_processes_end_beside_a_redis_that_hangs(breakable: Breakable) -> None:
    stage = breakable(workers=1)
    event = stage.create_event(capacity=100)
    assert register(stage, event, "Before")[0] == 201
    os.kill(breakable.valkey.pid, signal.SIGSTOP)
    try:
        register(stage, event, "Meanwhile")
        [worker] = stage.workers
        began = time.monotonic()
        worker.terminate()
        while stage.query("SELECT FROM pg_stat_activity WHERE application_name LIKE 'admitone-worker%%'"):
            assert time.monotonic() - began < ANSWER_SECONDS_MAX, "its events are free at once"
            time.sleep(0.05)
        stage.end_api()
        assert worker.wait(10) == 0
        assert all(api.wait(10) in {0, -signal.SIGTERM} for api in stage.apis)
    finally:
        os.kill(breakable.valkey.pid, signal.SIGCONT)


def test_deciding_outlives_a_redis_in_cluster_mode(
    tmp_path: Path, migrated_cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    cluster = {"cluster-enabled": "yes", "port": str(port), "cluster-port": str(free_port())}
    monkeypatch.setattr(valkey, "SETTINGS", {**valkey.SETTINGS, **cluster})
    with Breakable(tmp_path, migrated_cluster) as made:
        with redis.Redis(port=port) as server:
            run(server, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        stage = made(workers=1)
        event = stage.create_event(capacity=100)
        assert_decided(stage, event)
        found = readiness(stage, lambda found: found["degraded"])

    assert (found["status"], set(found["degraded"])) == (200, {"broker", "results"})


@contextmanager
def fake_redis(answer: bytes | None) -> Iterator[int]:
    """Accept connections on a port; give this answer to whatever is asked, or hang up at None."""
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while answer is not None and connection.recv(65_536) and not ended.is_set():
                connection.sendall(answer)

    def listen(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=[connection], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen, args=[listener], daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$100\r\nhalf",
        b"-NOAUTH Authentication required.\r\n",
    ],
    ids=["hangs-up", "silent", "another-protocol", "half", "no-password"],
)
def test_deciding_needs_no_answer_of_a_broker(
    servers: Servers, database: str, tmp_path: Path, answer: bytes | None
) -> None:
    with ExitStack() as stack:
        url = f"redis://127.0.0.1:{stack.enter_context(fake_redis(answer))}/0"
        beside = replace(servers, broker_url=url, result_url=url)
        stage = stack.enter_context(Stage(beside, database, tmp_path))
        event = stage.create_event(capacity=100)
        assert_decided(stage, event)
        found = readiness(stage, lambda found: found["degraded"])

        assert [worker.poll() for worker in stage.workers] == [None]

    assert (found["status"], set(found["degraded"])) == (200, {"broker", "results"})


def message(**changes: Any) -> bytes:
    """A message as kombu writes it, with something wrong."""
    plain: Json = {
        "body": "W10=",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": "apply_commands", "id": "1"},
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": "x"},
            "delivery_tag": "1",
            "body_encoding": "base64",
        },
    }
    return json.dumps({**plain, **changes}).encode()


def wake_body(event_ids: Iterable[str]) -> str:
    """Return the body of a message that wakes the owner of these events."""
    return base64.b64encode(json.dumps([[[*event_ids]], {}, {}]).encode()).decode()


ZEROS = base64.b64encode(zlib.compress(bytes(300_000_000))).decode()
MANY_LISTS = b"[" + b"[]," * 5_000_000 + b"[]]"
WAKE_HEADERS = {"task": "apply_commands", "id": "1"}

GARBAGE: dict[str, bytes] = {
    "no-json": b"\x00garbage",
    "no-utf-8": b"\xff\xfe\xfa",
    "a-number": b"7",
    "empty": b"{}",
    "deep": b"[" * 200_000,
    "no-body": b'{"properties": {"delivery_tag": "1", "delivery_info": {}}}',
    "content-type": message(**{"content-type": "application/x-python-serialize"}),
    "encoding": message(**{"content-encoding": "no-such-encoding"}),
    "unknown-task": message(headers={"task": "format_the_disk", "id": "1"}),
    "no-headers": message(headers={}),
    "null-headers": message(headers=None),
    "no-base64": message(body="$$$$"),
    "huge": message(body="A" * 20_000_000),
    "many-events": message(body=wake_body(str(UUID(int=number)) for number in range(300_000))),
    "compressed": message(headers={**WAKE_HEADERS, "compression": "zlib"}),
    "zeros": message(headers={**WAKE_HEADERS, "compression": "application/x-gzip"}, body=ZEROS),
    "zeros-of-codec": message(**{"content-type": "application/data", "content-encoding": "zlib"}, body=ZEROS),
    "lists": MANY_LISTS,
    "lists-in-body": message(body=base64.b64encode(MANY_LISTS).decode()),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_in_a_queue_costs_no_worker(broken: tuple[Breakable, Stage], name: str) -> None:
    _, stage = broken
    event = stage.create_event(capacity=100)
    server = results.connect(stage.servers.broker_url)
    wait_until_consuming(stage, server)
    assert register(stage, event, "Before")[0] == 201
    waiting = [queues.EVENT_QUEUE % UUID(event["id"]), owner_queue(stage)]
    for queue in waiting:
        server.lpush(queue, GARBAGE[name])
    wait_until(lambda: not server.exists(*waiting), stage)
    assert_decided(stage, event)
    assert [worker.poll() for worker in stage.workers] == [None]
    assert "wake_not_understood" in stage.log()
    assert "Can't decode" not in stage.log(), "Celery would log each such message with its text"
    assert len(stage.log()) < 2_000_000
    assert peak_bytes(stage.workers[0]) < WORKER_BYTES_MAX
    server.close()


def test_a_queue_of_another_type_is_freed(broken: tuple[Breakable, Stage]) -> None:
    _, stage = broken
    event = stage.create_event(capacity=1_000)
    server = results.connect(stage.servers.broker_url)
    wait_until_consuming(stage, server)
    assert register(stage, event, "Before")[0] == 201
    names = [queues.EVENT_QUEUE % UUID(event["id"]), owner_queue(stage)]
    for name in names:
        server.set(name, "of another program")
    deadline = time.monotonic() + REPAIRED_SECONDS_MAX
    while b"string" in {server.type(name) for name in names}:
        assert time.monotonic() < deadline, stage.log()[-3_000:]
        assert_decided(stage, event)
        event = stage.create_event(capacity=1_000)  # its first message goes to the worker's queue
    wait_until_consuming(stage, server)
    assert "WRONGTYPE" in stage.log()
    assert "CPendingDeprecationWarning" not in stage.log(), "a line for each try to consume"
    server.close()
