"""The metrics count exactly what was done, whichever process did it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx2
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import make_url
from starlette.testclient import TestClient

from api.main import create_app
from ops.embedded import Servers
from ops.rehearsal.temporary_stack import free_port
from shared import metrics
from shared.settings import Settings
from tests.stage import Breakable, Json, Stage

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
CONTRACT = {
    "admitone_commands_accepted_total",
    "admitone_settled_total",
    "admitone_failed_total",
    "admitone_pending",
    "admitone_accept_to_commit_seconds_count",
    "admitone_accept_to_answer_seconds_count",
    "admitone_batch_commands_count",
    "admitone_events_owned",
    "admitone_owner_changes_total",
    "admitone_tick_age_seconds",
    "admitone_oldest_snapshot_seconds",
    "admitone_wakes_sent_total",
    "admitone_wakes_missed_total",
    "admitone_results_lost_total",
    "admitone_ledger_reads_total",
    "admitone_drift",
    "admitone_http_requests_total",
    "admitone_http_request_seconds_count",
}
"""All but `admitone_pending_oldest_seconds`, which has no sample at rest."""
REGISTER = "/api/p/{slug}/register"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def samples(text: str) -> Samples:
    """Return all samples of an exposition, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(stage: Stage, **headers: str) -> Samples:
    with stage.client() as client:
        answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(answer.text)


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0)


def register(stage: Stage, event: Json, count: int) -> list[httpx2.Response]:
    return stage.register_at_once(event, [{"name": "A"}] * count)


def test_counts_equal_what_was_done(stage: Stage) -> None:
    event = stage.create_event(capacity=20, waitlistLimit=5)
    before, began = scrape(stage), time.monotonic()
    answers = [answer.status_code for answer in register(stage, event, 30)]
    seconds = time.monotonic() - began
    assert (answers.count(201), answers.count(409)) == (25, 5)
    with stage.client() as client:
        for path in ("/api/p/no-such-event", "/nothing/here", "/nothing/there"):
            assert client.get(path).status_code == 404
        assert client.get(f"/api/events/{event['id']}").status_code == 401

    after = scrape(stage)
    counted = {key: after[key] - before.get(key, 0) for key in after}
    assert value(counted, "admitone_settled_total", outcome="confirmed") == 20
    assert value(counted, "admitone_settled_total", outcome="waitlisted") == 5
    commands = 25 + value(counted, "admitone_settled_total", outcome="refused")
    assert value(counted, "admitone_commands_accepted_total") == commands
    assert value(counted, "admitone_accept_to_commit_seconds_count") == commands
    assert value(counted, "admitone_accept_to_answer_seconds_count") == commands
    assert value(counted, "admitone_batch_commands_sum") == commands
    assert value(counted, "admitone_failed_total") == 0
    assert value(counted, "admitone_http_requests_total", route=REGISTER, status="201") == 25
    assert value(counted, "admitone_http_requests_total", route=REGISTER, status="409") == 5
    assert value(counted, "admitone_http_request_seconds_count", route=REGISTER) == 30
    assert value(counted, "admitone_http_requests_total", route="/api/p/{slug}", status="404") == 1
    assert value(counted, "admitone_http_requests_total", route="unknown", status="404") == 2
    assert value(counted, "admitone_http_requests_total", route="/api/events/{event_id}", status="401") == 1
    assert value(counted, "admitone_http_request_seconds_count", route="unknown") == 2
    for sum_of, labels in (("accept_to_answer", {}), ("http_request", {"route": REGISTER})):
        assert 0 < value(counted, f"admitone_{sum_of}_seconds_sum", **labels) < 30 * seconds
    assert value(counted, "admitone_wakes_sent_total") >= 1
    assert {name for name, _ in after} >= CONTRACT


def test_no_label_names_an_event_or_a_person(stage: Stage) -> None:
    event = stage.create_event()
    register(stage, event, 3)
    found = scrape(stage)
    assert {label for _, labels in found for label, _ in labels} <= {
        "outcome",
        "route",
        "status",
        "reason",
        "le",
        "event",
        "level",
    }
    assert not any(event["slug"] in text for _, labels in found for _, text in labels)


def test_pending_and_drift_are_read_at_the_scrape(stage: Stage) -> None:
    event = stage.create_event()
    url = make_url(stage.database_url)
    with ExitStack() as stack:
        import psycopg  # noqa: PLC0415

        holder = stack.enter_context(
            psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
        )
        holder.execute("SELECT FROM event WHERE id = %s FOR UPDATE", [event["id"]])
        with stage.client() as client:
            path = f"/api/p/{event['slug']}/register"
            for _ in range(3):
                answer = client.post(path, json={"name": "A"}, headers={"prefer": "respond-async"})
                assert answer.status_code == 202
        found = scrape(stage)
        while value(found, "admitone_pending") < 3:
            time.sleep(0.1)
            found = scrape(stage)
        assert value(found, "admitone_pending_oldest_seconds", event=event["id"]) > 0
        assert value(found, "admitone_oldest_snapshot_seconds") > 0

    before = value(scrape(stage), "admitone_drift")  # other tests share the database
    stage.query("UPDATE event SET spots_reserved = spots_reserved + 2 WHERE id = %s", event["id"])
    while value(scrape(stage), "admitone_drift") != before + 2:
        time.sleep(0.1)
    stage.query("UPDATE event SET spots_reserved = spots_reserved - 2 WHERE id = %s", event["id"])
    while value(scrape(stage), "admitone_drift") != before:
        time.sleep(0.1)


def test_a_proxy_needs_a_key(stage: Stage) -> None:
    with stage.client() as client:
        forwarded = {"x-forwarded-for": "192.0.2.1"}
        assert client.get("/metrics").status_code == 200
        for name in ("forwarded", "via", *forwarded, "x-forwarded-host", "x-forwarded-proto", "x-real-ip"):
            assert client.get("/metrics", headers={name: "192.0.2.1"}).status_code == 401
        wrong = {**forwarded, "authorization": "Bearer wrong"}
        assert client.get("/metrics", headers=wrong).status_code == 401
        for key in (stage.viewer_key, stage.key):
            headers = {**forwarded, "authorization": f"Bearer {key}"}
            assert client.get("/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:9000", 200),
        ("LOCALHOST", 200),
        ("127.0.0.2", 200),
        ("[::1]:9000", 200),
        ("rebound.example.org:9000", 401),
        ("127.0.0.1.example.org", 401),
        ("localhost.example.org", 401),
        ("192.0.2.1", 401),
        ("", 401),
    ],
)
def test_metrics_of_another_host_need_a_key(stage: Stage, host: str, status: int) -> None:
    with stage.client() as client:
        assert client.get("/metrics", headers={"host": host}).status_code == status
        key = {"authorization": f"Bearer {stage.viewer_key}"}
        assert client.get("/metrics", headers={"host": host} | key).status_code == 200


def test_metrics_outlive_a_worker_and_a_restart(breakable: Breakable) -> None:
    stage = breakable(workers=2)
    event = stage.create_event()
    count = 0
    while value(scrape(stage), "admitone_events_owned") != 1:
        # While the workers divide the events, the event may move, and is active at its next message.
        count += len(register(stage, event, 1))
        time.sleep(0.1)
    stage.kill_worker(0)
    stage.kill_worker(0)
    found = scrape(stage)
    assert value(found, "admitone_events_owned") == 0
    assert value(found, "admitone_settled_total", outcome="confirmed") == count
    breakable.postgres.stop()
    while ("admitone_pending", frozenset()) in (found := scrape(stage)):
        time.sleep(0.1)  # a figure is kept for a second
    assert value(found, "admitone_settled_total", outcome="confirmed") == count
    breakable.valkey.stop()
    breakable.postgres.start()
    breakable.postgres.wait_ready()


def test_a_worker_shows_its_own_metrics(
    servers: Servers, database: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("ADMITONE_WORKER_METRICS_PORT", str(port))
    with Stage(servers, database, tmp_path_factory.mktemp("stage"), workers=2) as stage:
        register(stage, stage.create_event(), 4)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
            answer = client.get("/metrics")
            found = samples(answer.text)
            assert value(found, "admitone_settled_total", outcome="confirmed") == 4
            assert 0 <= value(found, "admitone_tick_age_seconds") < 10
            assert client.get("/other").status_code == 404
            forwarded = {"X-Forwarded-For": "192.0.2.1"}
            assert client.get("/metrics", headers=forwarded).status_code == 401
            assert client.get("/metrics", headers={"Host": "rebound.example.org"}).status_code == 401
            key = {"authorization": f"Bearer {stage.viewer_key}"}
            assert client.get("/metrics", headers=forwarded | key).status_code == 200
        assert "metrics_port_taken" in stage.log()


def test_many_scrapes_read_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    show = metrics.show

    def counted(*read_now: Metric) -> bytes:
        shown.append(read_now)
        return show(*read_now)

    monkeypatch.setattr(metrics, "show", counted)
    key = settings.model_copy(update={"viewer_key": SecretStr("the key of a viewer")})
    headers = {"authorization": "Bearer the key of a viewer"}
    with TestClient(create_app(key)) as client, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: client.get("/metrics", headers=headers), range(200)))

    assert {answer.status_code for answer in answers} == {200}
    assert len(shown) < 50
