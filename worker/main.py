"""The worker process: a Celery application that `celery -A worker.main worker` runs."""

import os
import time

from celery import signals

from shared import memory, settings, telemetry
from shared.messaging import queues
from shared.messaging.results import Publisher
from worker import celery_hooks, metrics_server
from worker.celery_hooks import EventQueues
from worker.owner import Owner

_settings = settings.current()
app = queues.celery_app(_settings)
_publisher = Publisher(_settings.result_url, _settings.result_keep_seconds, time.monotonic)
_event_queues = EventQueues(time.monotonic)
_owner = Owner(_settings, _publisher, _event_queues, time.monotonic)
celery_hooks.install(app, _owner, _event_queues)


@signals.worker_init.connect
def _serve_metrics(**_: object) -> None:  # whether or not the broker can be reached
    metrics_server.start(_settings, lambda: time.monotonic() - _owner.ticked_at)


@signals.worker_ready.connect
def _freeze(**_: object) -> None:
    memory.freeze()


@signals.setup_logging.connect
def _setup_logging(**_: object) -> None:
    telemetry.configure(_settings)


def serve() -> None:
    """Run this process as a worker until SIGTERM or SIGINT; end after the current batch."""
    app.worker_main(
        [
            "--quiet",
            "worker",
            "--pool=solo",
            "--concurrency=1",
            # Two workers of one name on a host would compete for the broker's exclusive queue of that name.
            f"--hostname=worker-{os.getpid()}@%h",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel",
            _settings.log_level,
        ]
    )
