"""Rings the event queues from a task of its own: no request waits for the broker.

Whatever was accepted is rung for after its commit. What comes alone is rung for while it is being accepted
already, because waking its owner takes about as long; the owner waits for the commit.

A ring that fails is logged and forgotten. The command is in the ledger, and the event's owner finds
it at its next tick.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import structlog

from api.owners import Owners
from api.rings import Rings

log = structlog.get_logger(__name__)

_IDS_PER_RING_MAX = 500  # an owner takes all that is pending anyway
# An owner of a crowd goes on by itself for as long as it finds something. So after a ring, whatever
# is accepted next waits until an outcome of what was rung for is heard, for so long at most, and a little
# longer: most of it needs no ring then, and the rest shares one. Who comes alone is rung for at once. An
# owner that lags behind is thereby rung less often, and not more.
_HEARING_SECONDS_MAX = 0.05
_GOING_ON_SECONDS = 0.001
_COMING_SECONDS_MAX = 0.005  # an owner that was told too early has looked in vain

_Due = dict[UUID, dict[UUID, None]]


class Bell:
    """Rings for many commands at once, and not for those whose outcomes are there already."""

    def __init__(self, rings: Rings, owners: Owners) -> None:
        self._rings = rings
        self._owners = owners
        self._due: _Due = {}
        self._rung: _Due = {}
        self._coming = False
        self._heard = asyncio.Event()
        self._ringer: asyncio.Task[None] | None = None

    def ring(self, event_id: UUID, command_ids: Sequence[UUID], *, coming: bool = False) -> None:
        """Wake the event's owner soon; never raises, never waits.

        What is `coming`, and not yet in the ledger, is to be rung for again when it is.
        """
        self._coming |= coming
        due = self._due.setdefault(event_id, {})
        due.update(dict.fromkeys(command_ids[: _IDS_PER_RING_MAX - len(due)]))
        if self._ringer is None:
            self._ringer = asyncio.create_task(self._ring_all())

    def heard(self, event_id: UUID, command_ids: Sequence[UUID]) -> None:
        """Ring no more for these commands: their outcomes are there."""
        due = self._due.get(event_id)
        if due is not None:
            for command_id in command_ids:
                due.pop(command_id, None)
            if not due:
                del self._due[event_id]
        if not self._rung.get(event_id, {}).keys().isdisjoint(command_ids):
            self._heard.set()

    async def close(self) -> None:
        """Wait for the rings that are due."""
        if self._ringer is not None:
            await asyncio.wait([self._ringer])
        await self._rings.close()

    async def _ring_all(self) -> None:
        try:
            while self._due:
                self._rung, self._due = self._due, {}
                patience, self._coming = _COMING_SECONDS_MAX if self._coming else _HEARING_SECONDS_MAX, False
                self._heard.clear()
                for together in await self._owners.together(self._rung):
                    await self._ring(together)
                with suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await self._heard.wait()
                if self._due:
                    await asyncio.sleep(_GOING_ON_SECONDS)
        finally:
            self._ringer = None

    async def _ring(self, together: Sequence[UUID]) -> None:
        event_id, *others = together
        try:
            await self._rings.send(event_id, list(self._rung[event_id]), others)
        except Exception as error:  # noqa: BLE001 - whatever a broker does, the ledger has the command
            log.warning("ring_failed", event_id=str(event_id), error=repr(error))
