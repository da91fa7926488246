"""Logs: one event a line, as JSON for machines or as text for people, with the ids bound to it.

What follows the first line of an error is left out: there PostgreSQL tells the values of a row, and libraries
their parameters, which can be personal. No entry has a command's id, which is a receipt; it has its digest.

A trouble that lasts is logged once a minute and not at each try; `/metrics` counts every entry.
"""

import logging
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from shared import metrics
from shared.settings import Settings

# These loggers write a line for each wake message, or for one that comes too late, and some for each try to
# consume from a broker that refuses.
_CHATTY = {
    "celery.app.trace": logging.WARNING,
    "celery.worker.strategy": logging.WARNING,
    "celery.worker.consumer.connection": logging.WARNING,
    "celery.worker.consumer.consumer": logging.ERROR,
    "kombu.transport.virtual.base": logging.ERROR,
}
_QUIET_SECONDS = 60
_LINES_MAX = 10
"""Lines of one event in that time, such as for different ids."""
_ERRORS_MAX = 20
"""Errors of one chain that a traceback shows."""
_LINE_END = re.compile(r"\n|\\n")
_TROUBLES = ("warning", "error", "critical")


@dataclass(slots=True)
class _Window:
    """The lines of one event since `began`, and how many entries were left out."""

    began: float
    lines: set[tuple[str, ...]] = field(default_factory=set)
    left_out: int = 0


class Repeats:
    """Drops a warning or an error that repeats one of the last minute; the next line has the number.

    Two entries are the same if event, ids, reason and kind of exception are. An incident is always logged,
    because its id leads to its entry.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def __call__(self, _: object, __: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Return the entry, or raise `DropEvent`; count it in any case."""
        event, level = str(entry.get("event")), str(entry.get("level"))
        if level not in _TROUBLES:
            return entry
        metrics.log_entries.labels(event, level).inc()
        if "incident_id" in entry:
            return entry
        window = self._windows.get(event)
        if window is None or self._clock() - window.began >= _QUIET_SECONDS:
            if window is not None and window.left_out:
                entry["left_out"] = window.left_out
            window = self._windows[event] = _Window(self._clock())
        line = _line(entry)
        if line in window.lines or len(window.lines) >= _LINES_MAX:
            window.left_out += 1
            raise structlog.DropEvent
        window.lines.add(line)
        return entry


def _line(entry: structlog.typing.EventDict) -> tuple[str, ...]:
    error = entry.get("exc_info")
    kind = type(error) if isinstance(error, BaseException) else sys.exc_info()[0]
    return (
        *(str(value) for name, value in entry.items() if name.endswith(("_id", "_digest", "reason"))),
        str(error and kind),
    )


def without_details(_: object, __: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Give an error as its kind and its words, and cut the words after their first line."""
    error = entry.get("error")
    if isinstance(error, BaseException):  # `repr` of a library's error may leave its words out
        entry["error"] = error = f"{type(error).__name__}: {error}"
    if error is not None:
        entry["error"] = _LINE_END.split(str(error), 1)[0]
    return entry


def traceback_of(exc_info: structlog.typing.ExcInfo) -> str:
    """Return the traceback of an error and of those that led to it, each with the first line of its words."""
    parts: list[str] = []
    error: BaseException | None = exc_info[1]
    while error is not None and len(parts) < _ERRORS_MAX:
        frames = "".join(traceback.format_tb(error.__traceback__))
        words = f"{type(error).__module__}.{type(error).__qualname__}: {_LINE_END.split(str(error), 1)[0]}"
        parts.append(f"Traceback (most recent call last):\n{frames}{words}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nThat led to:\n\n".join(reversed(parts))


def configure(settings: Settings) -> None:
    """Send this process's logs, and those of the libraries in it, to standard error."""
    level = logging.getLevelName(settings.log_level)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render_errors = structlog.processors.ExceptionRenderer(traceback_of)
    structlog.configure(
        processors=[
            *shared,
            Repeats(time.monotonic),
            without_details,
            render_errors,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, render_errors],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for chatty, chatty_level in _CHATTY.items():
        logging.getLogger(chatty).setLevel(max(level, chatty_level))
