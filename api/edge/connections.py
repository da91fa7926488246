"""The connections of an API process: a bound on their number, and on the time of clients that do nothing.

Once a second the process looks at all connections. It ends a connection that was in one phase, without any
progress, at more looks than its limit has seconds. So no request pays for a timer, and a process that stood
still ends no connection with data that it has not read yet (decision 0065).
"""

import asyncio
import heapq
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Protocol

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from api.edge.cross_origin import Origins
from shared import metrics

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1
_LINGER_SECONDS = 2
"""The time in which a client can read why its request was refused, before the connection is closed."""
_SHARE_ENDED = 16
"""When there is no room, a sixteenth of all connections is ended: looking for them costs little for each."""
_REFUSED_MAX = 64
"""Connections above the bound that are open for a moment, to be told that there are too many."""
_FULL = "full"
_NO_ROOM = "no_room"


class Phase(StrEnum):
    """The thing that the process waits for at a connection."""

    SILENT = auto()
    """The first byte of the first request."""
    IDLE = auto()
    """The first byte of a further request."""
    HEAD = auto()
    """The rest of a head."""
    BODY = auto()
    """The rest of a body."""
    ANSWER = auto()
    """The client, which takes nothing of an answer."""
    LEAVING = auto()
    """The service itself, of which the client may not wait for the answer: it has ended its side."""
    CLOSING = auto()
    """The client's end of a connection that is refused or closed."""
    SERVED = auto()
    """The service itself, so without a limit: a client may wait for its outcome."""


_MAKES_ROOM = {Phase.SILENT, Phase.IDLE, Phase.HEAD, Phase.LEAVING}
"""The phases in which a connection has no request, or perhaps no client: it may be ended to make room.

A client that has left looks like a client that sends no more.
"""
_USUAL = {Phase.IDLE, Phase.CLOSING}
"""The phases that end often: their ends are not logged."""


class Connection(Protocol):
    """One connection, as it is looked at."""

    transport: asyncio.Transport
    cycle: RequestResponseCycle
    seen: tuple[Phase, RequestResponseCycle, int] | None
    """The state in which it was seen."""
    seen_at_look: int
    """The number of the look at which that state was seen first."""

    @property
    def phase(self) -> Phase:
        """The step of the client that the process waits for."""

    @property
    def has_unread(self) -> bool:
        """The client has sent bytes that are not read yet."""

    def end(self, phase: Phase) -> None:
        """End the connection: its client took too long for this phase."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The connections that may be open, and the seconds that a client may take for each phase."""

    open_max: int
    head_seconds: float
    body_seconds: float
    idle_seconds: float
    answer_seconds: float


class Connections(ServerState):
    """The open connections of a server; `origins` may read why their requests were refused."""

    def __init__(self, limits: Limits, origins: Origins | None) -> None:
        super().__init__()
        self.origins = origins
        self._open_max = limits.open_max
        self._looks_max = {
            Phase.SILENT: math.ceil(limits.head_seconds),
            Phase.HEAD: math.ceil(limits.head_seconds),
            Phase.BODY: math.ceil(limits.body_seconds),
            Phase.IDLE: math.ceil(limits.idle_seconds),
            Phase.ANSWER: math.ceil(limits.answer_seconds),
            Phase.CLOSING: _LINGER_SECONDS,
        }
        self._looks = 0
        self._next_look: asyncio.TimerHandle | None = None
        self._ended: Counter[str] = Counter()

    def look(self) -> None:
        """End the connections of clients that have taken too long; tell how many were ended, and why.

        It is called again a second later, as long as connections are open.
        """
        self._next_look = None
        if self.connections:
            self._look_later()
        self._looks += 1
        for connection in self._protocols():
            phase = self._phase_of(connection)
            if self._looks - connection.seen_at_look > self._looks_max.get(phase, math.inf):
                self._ended[phase] += 1
                connection.end(phase)
        metrics.connections.set(len(self.connections))
        for reason, count in self._ended.items():
            metrics.connections_ended.labels(reason).inc(count)
            if reason not in _USUAL:
                log.warning("connections_ended", reason=reason, connections=count)
        self._ended.clear()

    def _look_later(self) -> None:
        self._next_look = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self.look)

    def has_room_for(self, newcomer: Connection) -> bool:
        """Return True if the newcomer may stay; connections without a request are ended for that, if need be.

        The one without progress for the longest time is ended first. A newcomer that may not stay is ended
        here if very many others are being told the same.
        """
        if self._next_look is None:
            self._look_later()
        surplus = len(self.connections) - self._open_max
        if surplus <= 0:
            return True
        idle = [
            connection
            for connection in self._protocols()
            if self._phase_of(connection) in _MAKES_ROOM
            and connection is not newcomer
            and not connection.has_unread
        ]
        count = max(surplus, self._open_max // _SHARE_ENDED)
        for connection in heapq.nsmallest(count, idle, key=lambda connection: connection.seen_at_look):
            connection.transport.close()
            self.connections.discard(connection)  # it is lost a moment later, when others have come already
            self._ended[_NO_ROOM] += 1
        if len(self.connections) <= self._open_max:
            return True
        self._ended[_FULL] += 1
        if len(self.connections) > self._open_max + _REFUSED_MAX:
            newcomer.transport.abort()
        return False

    def _protocols(self) -> Iterable[Connection]:
        return list(self.connections)  # type: ignore[arg-type]  # the server makes no others

    def _phase_of(self, connection: Connection) -> Phase:
        """Return the phase of a connection, and note the look at which its present state was seen first."""
        phase = connection.phase
        state = phase, connection.cycle, connection.transport.get_write_buffer_size()
        if state != connection.seen:
            connection.seen, connection.seen_at_look = state, self._looks
        return phase


class Server(uvicorn.Server):
    """A server with bounds on its connections."""

    def __init__(self, config: uvicorn.Config, limits: Limits, origins: Origins | None = None) -> None:
        super().__init__(config)
        self.server_state = Connections(limits, origins)
