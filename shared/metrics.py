"""The metrics: their names, meanings and labels, for all processes of the service.

With `ADMITONE_METRICS_FOLDER` each process of a host counts in files of that folder, and any of them can show
the sums. Without it a process shows its own counts. No label holds a slug, a name or an address, and each
label has few values (decision 0042).

It relies on these internals of prometheus-client, which is pinned to one minor version: the environment
variable is read when the package is imported, its files are named by kind and process and keep the size that
they have, and a histogram has `_upper_bounds`, `_buckets` and `_sum`.
"""

import os
import re
import sys
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from shared import environment, open_files
from shared.domain.outcomes import Outcome
from shared.errors import ExpectedError

_KINDS = "counter", "gauge_livesum", "histogram"
_FILE = re.compile(rf"({'|'.join(_KINDS)})_([0-9]+)\.db")
"""The names of the files: a kind, and the process that counts in the file."""
_FILE_BYTES = 1 << 18
"""More than all series of a process take, so that no file of it grows."""
_HEADER_BYTES = 8
"""The least that a file has; its first four bytes tell how many are used."""


def _files(folder: Path, *, ended: bool = False) -> set[Path]:
    """Return the files in which processes count; only those of processes that have ended if `ended`."""
    named = {file: _FILE.fullmatch(file.name) for file in folder.iterdir()}
    return {file for file, name in named.items() if name and not (ended and Path("/proc", name[2]).exists())}


def _reserve(folder: Path) -> None:
    """Give this process's files their room on the disk; those of ended processes keep what they use.

    Else a process is killed by SIGBUS, without a word, when it counts something new and the disk is full.
    """
    files = [folder / f"{kind}_{os.getpid()}.db" for kind in _KINDS]
    try:
        for path in _files(folder, ended=True):
            with suppress(OSError), path.open("r+b") as file:  # another user's stays as it is
                file.truncate(max(int.from_bytes(file.read(4), sys.byteorder), _HEADER_BYTES))
        for path in files:
            with path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)
    except OSError as error:
        for path in files:
            path.unlink(missing_ok=True)
        raise ExpectedError(f"ADMITONE_METRICS_FOLDER: {folder}: {error.strerror}") from error


open_files.open_standard_streams()  # before the first file of a worker that `celery` starts
environment.clean()
_FOLDER = os.environ.get("ADMITONE_METRICS_FOLDER")
if _FOLDER:
    _reserve(Path(_FOLDER))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _FOLDER
else:
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

from prometheus_client import (  # noqa: E402 - the folder must be known before
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric  # noqa: E402
from prometheus_client.multiprocess import MultiProcessCollector  # noqa: E402
from prometheus_client.registry import Collector  # noqa: E402

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
UNKNOWN_ROUTE = "unknown"
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")

_SECONDS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COMMANDS_BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)

disable_created_metrics()  # type: ignore[no-untyped-call]
_registry = CollectorRegistry()


class Distribution(Histogram):
    """A histogram that takes many observations at once, which costs little more than one."""

    def observe_all(self, values: Sequence[float]) -> None:
        """Add these observations."""
        if not values:
            return
        self._sum.inc(sum(values))
        for bucket, count in Counts(bisect_left(self._upper_bounds, value) for value in values).items():
            self._buckets[bucket].inc(count)


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    return Counter(f"admitone_{name}", meaning, labels, registry=_registry)


def _gauge(name: str, meaning: str) -> Gauge:
    return Gauge(f"admitone_{name}", meaning, multiprocess_mode="livesum", registry=_registry)


def _distribution(name: str, meaning: str, buckets: Sequence[float], *labels: str) -> Distribution:
    return Distribution(f"admitone_{name}", meaning, labels, buckets=buckets, registry=_registry)


accepted = _counter("commands_accepted", "Commands that the API wrote into the ledger.")
answer_seconds = _distribution(
    "accept_to_answer_seconds",
    "From a command's acceptance until the outcome was read for the request that waits for it.",
    _SECONDS_BOUNDS,
)
http_requests = _counter("http_requests", "Answers of the API.", "route", "status")
http_seconds = _distribution(
    "http_request_seconds", "From a request's head until its answer was sent.", _SECONDS_BOUNDS, "route"
)
limited = _counter(
    "requests_limited", "Requests that were answered 429, by the limit of their client.", "limit"
)
connections = _gauge("connections", "Open connections of clients.")
connections_ended = _counter("connections_ended", "Connections that the API ended, by reason.", "reason")
wakes_sent = _counter("wakes_sent", "Wake messages that the broker took.")
ledger_reads = _counter("ledger_reads", "Reads of outcomes from the ledger, where Redis had none in time.")

settled = _counter("settled", "Commands that workers settled.", "outcome")
failed = _counter("failed", "Commands that workers settled as failed.")
commit_seconds = _distribution(
    "accept_to_commit_seconds",
    "From a command's acceptance until its outcome was committed.",
    _SECONDS_BOUNDS,
)
batch_commands = _distribution("batch_commands", "Commands that one transaction settled.", _COMMANDS_BOUNDS)
events_owned = _gauge("events_owned", "Active events that workers own.")
owner_changes = _counter("owner_changes", "Buckets of events that workers gained or lost.")
wakes_missed = _counter("wakes_missed", "Events whose pending commands a tick found without a message.")
results_lost = _counter("results_lost", "Outcomes that were not stored in the result backend.")
set_aside = _counter("set_aside", "Tries after which a command was set aside.")

log_entries = _counter("log_entries", "Warnings and errors, repeated ones included.", "event", "level")

settled_by_kind = {kind: settled.labels(str(kind.__struct_config__.tag)) for kind in get_args(Outcome)}


def gauge(name: str, meaning: str, value: float) -> Metric:
    """Return a figure that is read at the moment it is shown."""
    return GaugeMetricFamily(f"admitone_{name}", meaning, value=value)


def gauges(name: str, meaning: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    """Return figures that are read at the moment they are shown, by a label."""
    family = GaugeMetricFamily(f"admitone_{name}", meaning, labels=[label])
    for key, value in values:
        family.add_metric([key], value)
    return family


def show(*read_now: Metric) -> bytes:
    """Return all metrics in Prometheus' text format, together with figures that were read just now.

    Reads files: call it in a thread where nothing may block.
    """
    registry = CollectorRegistry()
    if _FOLDER:
        registry.register(_OfFolder(Path(_FOLDER)))
    else:
        registry.register(_registry)
    registry.register(_ReadNow(read_now))
    return generate_latest(registry)


class _OfFolder(Collector):
    """The sums of all processes of a folder; the gauges of processes that have ended do not count."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        past = {file for file in _files(self._folder, ended=True) if file.name.startswith("gauge")}
        for file in past:
            with suppress(OSError):  # another user's, which this process may not remove
                file.unlink()
        return MultiProcessCollector.merge(map(str, _files(self._folder) - past))  # type: ignore[no-untyped-call, no-any-return]


class _ReadNow(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def is_local(address: str | None, headers: Mapping[str, str]) -> bool:
    """Return True for a client of this machine, which may read the metrics without a key.

    `headers` are found by names in lower case. A request that a proxy forwards comes from elsewhere, although
    the proxy may be on this machine. So does a request that names another host: a browser of this machine
    sends it for a page of that host after a change of its address to this machine's (DNS rebinding).
    """
    if address is None or any(header in headers for header in _FORWARDED):
        return False
    try:
        host = urlsplit(f"//{headers.get('host', 'localhost')}").hostname
        return ip_address(address).is_loopback and (host == "localhost" or ip_address(host or "").is_loopback)
    except ValueError:
        return False
