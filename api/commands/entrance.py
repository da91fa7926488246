"""The entrance of protected events: a proof of work is checked and spots are counted before the ledger.

A request that is sent again under its idempotency key passes in any case: no second command
comes of it (decisions 0070 and 0071).
"""

import asyncio
from dataclasses import dataclass

from starlette.responses import Response

from api.commands.intake import CommandRejected, IntakeFull, LedgerUnavailable
from api.commands.submit import CommandRequest, Decided, Submission
from api.edge.problems import ProblemError, ProblemType
from api.edge.schemas_admin import Protection
from api.protection.address_spots import AddressSpots
from api.protection.challenges import Challenges
from api.queries import used_keys
from api.queries.reader import Reader


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrance:
    """The way of a registration into a protected event."""

    challenges: Challenges
    spots: AddressSpots
    submission: Submission
    reader: Reader

    async def enter(
        self, protection: Protection, client: str, spots: int, solution: str | None, request: CommandRequest
    ) -> Decided | Response:
        """Submit a registration of a client that asks for so many spots; raises the protection's problem.

        Spots of a registration that is refused are counted no longer.
        """
        event_id, name, taken = request.event_id, self.spots.request(request.idempotency_key, spots), False
        problem = None
        if protection.challenge:
            problem = await self.challenges.fault(event_id, solution, name)
        if problem is None and protection.spots_per_address is not None and client:
            found = await self.spots.take(event_id, client, name, spots, protection.spots_per_address)
            taken = found is True
            if found is None:
                problem = ProblemType.TOO_MANY_SPOTS_OF_ADDRESS.error(
                    f"From one address {protection.spots_per_address} spots can be asked for."
                )
        if problem is not None and not await self._is_known(request):
            raise problem
        try:
            return await self.submission.submit(request)
        except (ProblemError, IntakeFull, LedgerUnavailable, CommandRejected):
            if taken:
                await self.spots.give_back(event_id, client, name)
            raise

    async def _is_known(self, request: CommandRequest) -> bool:
        if request.idempotency_key is None:
            return False
        async with asyncio.timeout_at(request.deadline.accept_by):
            return await self.reader.read(lambda connection: used_keys.is_used(connection, request))
