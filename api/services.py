"""The services of an API process: its connections and the parts that use them, from start to end."""

import asyncio
import re
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from api.commands.early_answers import RefusingEvents
from api.commands.entrance import Entrance
from api.commands.intake import AcceptanceUnknown, Intake
from api.commands.ledger_fallback import LedgerFallback
from api.commands.outcome_waiter import OutcomeWaiter, ResultPoller
from api.commands.pending_count import PendingCount
from api.commands.retry_after import Pace
from api.commands.submit import Submission
from api.commands.waker import BucketOwners, Waker
from api.edge.problems import ProblemType
from api.edge.turns import Turns
from api.protection.address_spots import AddressSpots
from api.protection.addresses import Addresses
from api.protection.challenges import Challenges
from api.protection.client_limits import ClientLimits
from api.protection.shared_memory import SharedMemory
from api.protection.wrong_keys import WrongKeys
from api.queries import events
from api.queries.availability import Availabilities
from api.queries.exports import Exports
from api.queries.figures import Figures
from api.queries.keys import Keys
from api.queries.protections import Protections
from api.queries.reader import Query, Reader, Value
from api.queries.receipts import Receipts
from api.queries.slugs import Slugs
from api.queries.status_changes import StatusChanges
from api.readiness import ReadinessCheck
from shared.domain import commands
from shared.domain.commands import Command
from shared.messaging import queues, results
from shared.postgres import connections, durability, locks
from shared.postgres.durability import NotConfirmed
from shared.settings import Settings

_SLUG = re.compile(commands.SLUG)
_PAGES_PER_TURN_MAX = 10


class Services:
    """The API process's connections and the parts that use them; connections are made when first needed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = connections.async_engine(settings)
        self.admin_engine = connections.async_engine(settings, for_admins=True)
        self.reader, self.admin_reader = Reader(self.engine), Reader(self.admin_engine)
        self.read = self.reader.read
        self.redis = results.connect_async(settings.result_url)
        self.celery = queues.celery_app(settings)
        self.sender = queues.connect_sender(self.celery, settings)
        self.bucket_owners = BucketOwners(self.engine)
        self.waker = Waker(self.sender.send, self.bucket_owners, asyncio.get_running_loop().time)
        seen, read_seconds = self.waker.outcomes_seen, settings.ledger_read_seconds
        self.waiter = OutcomeWaiter(read_seconds)
        self.poller = ResultPoller(self.waiter, self.redis, settings, seen)
        self.intake = Intake(settings)
        self.pending_count = PendingCount(self.intake.shares, self.engine, settings.pending_max)
        self.fallback = LedgerFallback(self.waiter, self.engine, self.intake, read_seconds, seen)
        self.waiter.poller, self.waiter.ask_ledger = self.poller.task, self.fallback.ask
        self.receipts = Receipts(self.reader, self.intake.confirm)
        self.pace = Pace(self.engine)
        self.refusing_events = RefusingEvents(self.engine)
        self.submission = Submission(
            intake=self.intake,
            waker=self.waker,
            waiter=self.waiter,
            refusing_events=self.refusing_events,
            reader=self.reader,
            receipts=self.receipts,
            pace=self.pace,
        )
        self.slugs = Slugs(self.engine, self.reader)
        self.availabilities = Availabilities(self.reader)
        self.status_changes = StatusChanges(self.reader)
        self.figures = Figures(self.reader, self.admin_reader)
        self.exports = Exports(self.admin_engine, settings.admin_connections_max)
        self.keys = Keys(settings, self.reader)
        self.wrong_keys = WrongKeys()
        self.probe_turns, self.page_turns = Turns(), Turns(answers_max=_PAGES_PER_TURN_MAX)
        shared = SharedMemory(self.redis, settings.secret_keys[0])
        self.clients = Addresses(settings.trusted_proxies or ())
        self.limits = ClientLimits(settings, self.clients, shared)
        self.protections = Protections(self.reader)
        self.entrance = Entrance(
            challenges=Challenges(settings.secret_keys, settings.api_processes, shared),
            spots=AddressSpots(shared),
            submission=self.submission,
            reader=self.reader,
        )
        self.readiness = ReadinessCheck(
            self.engine,
            settings.owner_silence_seconds_max,
            intake_fault=self.intake.fault,
            sender=self.sender,
            client=self.redis,
            shared=shared,
        )

    async def admin_read(self, query: Query[Value], *, snapshot: bool = False) -> Value:
        """Return the value of `query` in one of the admins' places; 503 if none becomes free in time."""
        try:
            return await self.admin_reader.read(query, snapshot=snapshot)
        except PoolTimeoutError as error:
            raise ProblemType.ADMIN_READS_BUSY.error() from error

    async def write(self, change: Query[Value], due: float) -> Value:
        """Return the value of `change`, committed and confirmed: for the few writes that are no commands.

        Raises `AcceptanceUnknown` if the commit may have succeeded and cannot be told at the time `due`.
        """
        async with asyncio.timeout_at(due), self.engine.connect() as connection:
            await connection.execution_options(isolation_level="READ COMMITTED")
            # The intake waits for a standby: a commit of this connection would keep it from others.
            await connection.execute(durability.WAIT_FOR_NO_STANDBY)
            server = (await connection.execute(durability.SERVER)).scalar_one()
            value = await change(connection)
            try:
                await connection.commit()
            except (DBAPIError, asyncio.CancelledError) as error:
                raise AcceptanceUnknown from error
        try:
            await self.intake.confirm_all({server}, due)
        except NotConfirmed as error:
            raise AcceptanceUnknown from error
        return value

    async def find_event(self, slug: str) -> UUID:
        """Return the event's id and remember it; 404 if there is no such event."""
        id_ = await self.slugs.find(slug) if _SLUG.fullmatch(slug) else None
        if id_ is None:
            raise ProblemType.EVENT_NOT_FOUND.error()
        return id_

    async def must_be_known(self, command: Command) -> None:
        """Refuse a command of a version that a live worker does not know: it would stay pending.

        Settings of a new event are refused as a change of them would be: such a worker would not obey them.
        """
        version = commands.version_of(command)
        if version > 1 and version > await self.read(locks.version_known_by_all):
            raise ProblemType.WORKERS_OUTDATED.error()

    async def event_slug(self, event_id: UUID, *, deleted: bool = False) -> str:
        """Return the event's slug; 404 if there is no such event, or if it is deleted unless `deleted`."""
        slug = await self.read(lambda connection: events.event_slug(connection, event_id, deleted=deleted))
        if slug is None:
            raise ProblemType.EVENT_NOT_FOUND.error()
        return slug

    def start(self) -> None:
        """Open the intake's session before the pools take connections; begin what needs no request."""
        self.intake.open()
        self.bucket_owners.task.ensure_running()
        self.pending_count.task.ensure_running()

    async def close(self) -> None:
        """Finish the work in progress, then close all connections."""
        await self.fallback.close()
        await self.limits.close()
        self.readiness.close()
        await self.intake.close()
        await self.waker.close()
        await self.bucket_owners.task.cancel()
        await self.pending_count.task.cancel()
        await self.sender.close()
        await self.poller.close()
        await self.status_changes.close()
        await self.figures.close()
        await self.slugs.close()
        await self.redis.aclose()
        await self.engine.dispose()
        await self.admin_engine.dispose()
        self.celery.close()


async def _provide(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Provided = Annotated[Services, Depends(_provide)]
"""The type of the route parameter by which FastAPI passes the process's services."""
