"""The fault harness: a short run of it, and the parts that all of its findings rest on."""

import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ops import child_processes
from ops.stack.programs import CHECKOUT
from tests.chaos.faults import at_a_step, table
from tests.chaos.faults.fault import Fault
from tests.chaos.relays import Relays
from tests.faults.chaos_runs import RUN_SECONDS_MAX, run

SEED = 20
HEAR_SECONDS = 0.3
"""A text that comes later is taken for held."""


@pytest.mark.timeout(300)
def test_a_short_run_breaks_no_promise() -> None:
    options = ("--seed", str(SEED), "--faults", "10", "--minutes", "0.4", "--backlog", "1000")
    status, report = run(*options)

    assert report["violations"] == []
    assert status == 0
    assert report["seed"] == SEED
    assert report["faults"] >= 1
    assert report["operations"] > 100
    assert report["commands"] >= report["decidedAgain"] > 100
    kinds = set(report["outcomes"])
    assert {"confirmed", "waitlisted", "refused", "status_changed", "event_changed", "erased"} <= kinds


@pytest.mark.timeout(300)
def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.chaos", "--backlog", "0"],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        assert b" s  " in process.stderr.readline(), "a fault was struck"
        assert processes_of(tmp_path) != []
        process.terminate()
        _, log = process.communicate(timeout=RUN_SECONDS_MAX)
    finally:
        process.kill()
        process.communicate()

    assert process.returncode == 130, log
    assert processes_of(tmp_path) == []


def processes_of(folder: Path) -> list[int]:
    """Return all processes that have something to do with this folder."""
    text = str(folder)
    return child_processes.find(
        lambda pid, argv: text in "".join(argv) or text in "".join(child_processes.environment(pid).values())
    )


class Nowhere:
    """A service for faults that are drawn and do not strike."""

    workers, apis = ("worker-1", "worker-2"), ("api-1", "api-2")
    programs = (*workers, *apis)
    parts = frozenset(("Redis as broker", "RabbitMQ", "small disk"))
    rabbitmq = None


def drawn(seed: int, count: int) -> list[str]:
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    deck: Iterator[Fault] = table.deck(Nowhere(), Nowhere(), chance)  # type: ignore[arg-type]
    return [next(deck).describe() for _ in range(count)]


def test_a_seed_draws_the_same_faults_again() -> None:
    assert drawn(SEED, 200) == drawn(SEED, 200)
    assert drawn(SEED, 200) != drawn(SEED + 1, 200)


def test_a_round_has_every_fault() -> None:
    count = len(table.FAULTS) + len(at_a_step.FAULTS)
    names = {description.partition(" (")[0] for description in drawn(SEED, count)}

    assert names == {kind.name for kind in table.FAULTS}


def test_every_fault_is_in_the_fault_model() -> None:
    page = (CHECKOUT / "docs/reliability.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    since = {"strike": "", "end": " of its end"}

    assert {name.strip("`"): words for name, *words in rows} == {
        kind.name: [kind.meaning, f"{kind.bar_seconds:g} s{since[kind.recovers_from]}"]
        for kind in table.FAULTS
    }


def test_every_fault_has_words_and_a_bar() -> None:
    assert len({kind.name for kind in table.FAULTS}) == len(table.FAULTS)
    assert all(kind.meaning and kind.bar_seconds > 0 for kind in table.FAULTS)


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Path]:
    """A server that sends back all that it gets."""
    path = tmp_path / "echo"
    heard = path.with_name("heard")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(4_096):
                with heard.open("ab") as file:
                    file.write(data)
                connection.sendall(b"echo " + data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=[connection], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield path
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.fixture
def relays(echo: Path) -> Iterator[Relays]:
    with Relays({"way": (str(echo.with_name("relay")), str(echo))}, echo.with_name("log")) as made:
        yield made


@pytest.fixture
def client(relays: Relays) -> Iterator[socket.socket]:
    (path, _) = relays.links["way"]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.settimeout(10)
        assert ask(connection, b"hello") == b"echo hello"
        yield connection


def ask(connection: socket.socket, data: bytes, seconds: float = 10) -> bytes | None:
    """Return the answer; None if there is none in this time, empty if the connection has ended."""
    connection.settimeout(seconds)
    try:
        connection.sendall(data)
        return connection.recv(4_096)
    except TimeoutError:
        return None
    except OSError:
        return b""


def heard(echo: Path) -> bytes:
    return echo.with_name("heard").read_bytes()


def test_a_held_way_passes_nothing_until_released(relays: Relays, client: socket.socket) -> None:
    relays.change("way", "hold")
    held = ask(client, b"held", HEAR_SECONDS)
    relays.change("way", "pass")
    client.settimeout(10)

    assert (held, client.recv(4_096)) == (None, b"echo held")


def test_a_refusing_way_ends_old_and_new_connections(relays: Relays, client: socket.socket) -> None:
    relays.change("way", "refuse")
    assert ask(client, b"old") == b""
    path, _ = relays.links["way"]
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(path))
        assert ask(other, b"new") == b""


def test_a_trap_before_a_request_keeps_it_back(relays: Relays, client: socket.socket, echo: Path) -> None:
    number = relays.set_trap("way", "COMMIT", "before", "cut")
    assert ask(client, b"SELECT") == b"echo SELECT"
    assert ask(client, b"COMMIT") == b""

    assert relays.sprung(number, 10) is not None
    assert heard(echo) == b"helloSELECT"


def test_a_trap_at_an_answer_lets_the_request_pass(relays: Relays, client: socket.socket, echo: Path) -> None:
    number = relays.set_trap("way", "COMMIT", "answered", "cut")
    assert ask(client, b"COMMIT") == b""

    assert relays.sprung(number, 10) is not None
    assert heard(echo) == b"helloCOMMIT"


def test_a_trap_kills_after_the_answer_is_told(relays: Relays, client: socket.socket) -> None:
    victim = subprocess.Popen(["sleep", "60"])  # noqa: S607 - of the platform
    try:
        number = relays.set_trap("way", "COMMIT", "told", "kill", victim.pid)
        assert ask(client, b"COMMIT") == b"echo COMMIT"
        assert relays.sprung(number, 10) is not None
        assert victim.wait(10) == -9
    finally:
        victim.kill()
        victim.wait()


def test_a_trap_that_is_taken_away_is_not_sprung(relays: Relays, client: socket.socket) -> None:
    number = relays.set_trap("way", "COMMIT", "before", "cut")
    relays.take_away("way")

    assert ask(client, b"COMMIT") == b"echo COMMIT"
    assert relays.sprung(number, HEAR_SECONDS) is None
