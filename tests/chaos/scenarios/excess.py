"""Ten times what is sustainable, really sent: deciding is slow, and the API can take all of it.

On few cores the API takes hardly more than the workers decide. Here the only worker decides small batches,
and PostgreSQL is some milliseconds away from it. The worker waits most of the time, so a crowd takes nothing
from its rate, and no ballast is needed to compare the rates.
"""

from pathlib import Path

import msgspec

from tests.chaos.scenarios import pressure
from tests.chaos.scenarios.findings import Figure
from tests.chaos.scenarios.pressure import Limits
from tests.chaos.servers import Programs
from tests.chaos.service import Service

WORKER_DISTANCE_SECONDS = 0.015
"""Each way between the worker and PostgreSQL takes so long."""
LIMITS = Limits(pending_max=300, event_pending_max=100)
"""About as much as is decided in three or four seconds."""
SETTINGS = {
    "ADMITONE_APPLY_BATCH_MAX": "16",
    "ADMITONE_BACKLOG_BATCH_MAX": "16",
    "ADMITONE_PENDING_MAX": str(LIMITS.pending_max),
    "ADMITONE_EVENT_PENDING_MAX": str(LIMITS.event_pending_max),
}
SUSTAINED_CONNECTIONS = 128
CONNECTIONS = 1_000
SENT_SHARE_BAR = 9.0


def measure(
    folder: Path, programs: Programs, measured_seconds: float, seconds: float
) -> tuple[list[Figure], list[str]]:
    """Measure what is sustainable and send ten times as much, half of it to one event.

    Return the figures and the violations.
    """
    with Service(folder, workers=1, settings=SETTINGS, programs=programs) as service:
        service.wait_joined()
        (worker,) = service.workers
        service.relays.change(f"{worker}/postgres", "pass", WORKER_DISTANCE_SECONDS)
        sustained = pressure.sustained(service, SUSTAINED_CONNECTIONS, measured_seconds)
        paths = list(sustained.paths)
        _, sustainable = pressure.rate(service, sustained)
        crowd = msgspec.structs.replace(
            sustained,
            paths=[*paths, *paths[:1] * (len(paths) - 2)],
            prefer="respond-async",
            connections=CONNECTIONS,
            seconds=seconds,
            per_second=pressure.RATE_FACTOR * sustainable,
        )
        found = pressure.measure(service, crowd, LIMITS)
    figures = [
        Figure(name="sustainable rate", value=sustainable, unit="decisions/s"),
        Figure(
            name="sent, of that rate",
            value=found.sent_per_second / sustainable,
            unit="",
            least=SENT_SHARE_BAR,
        ),
        Figure(
            name="decided under overload, of that rate",
            value=found.decided_per_second / sustainable,
            unit="",
            least=pressure.GOODPUT_SHARE_BAR,
        ),
        *found.figures,
    ]
    renamed = [msgspec.structs.replace(figure, name=f"slow worker: {figure.name}") for figure in figures]
    return renamed, [f"{text} (slow worker)" for text in found.violations]
