"""Bugs to plant in the protocol, each in the place of the service's own code until its test ends."""
# ruff: noqa: ANN401, SLF001 - bugs live inside

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest

from api.commands import intake, outcome_waiter
from api.commands.early_answers import RefusingEvents
from api.commands.intake import Intake, LedgerUnavailable, Shares
from api.commands.ledger_fallback import LedgerFallback
from api.commands.outcome_waiter import OutcomeWaiter
from api.commands.submit import Submission
from api.commands.waker import Waker
from shared import keyed_digests
from shared.domain import ids
from shared.messaging import results
from shared.messaging.results import Publisher
from shared.postgres import connections, ledger
from shared.postgres.ledger import Acceptance, NewCommand
from tests.simulation.protocol import loop
from tests.simulation.protocol.memory import accepting
from tests.simulation.protocol.memory.sessions import WorkerSession
from worker import load, save, trouble
from worker.owner import Owner
from worker.ownership import Ownership
from worker.save import BatchWriter

Plant = Callable[[pytest.MonkeyPatch], None]


# --- owning


def takes_buckets_without_their_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ownership, "_lock", lambda _, buckets: set(buckets))


def owns_what_it_has_unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    rebalance = Ownership.rebalance

    def mutant(self: Ownership) -> Any:
        before = self.buckets
        moved = rebalance(self)
        self.buckets = self.buckets | before
        return moved

    monkeypatch.setattr(Ownership, "rebalance", mutant)


def connects_again_without_its_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def mutant(self: Owner, _: BaseException) -> None:
        if self._ownership is not None:
            try:
                self._ownership.session = connections.worker_session(self._settings)
            except Exception:  # noqa: BLE001 - PostgreSQL is away
                self._ownership = None

    monkeypatch.setattr(Owner, "_lose", mutant)


def looks_for_nothing_at_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ownership, "events_pending", lambda _: [])


# --- deciding


def reads_commands_behind_the_last_one_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    lock_events = load.lock_events
    seen: dict[Any, int] = {}

    def mutant(*arguments: Any) -> Any:
        locked = lock_events(*arguments)
        for event in locked:
            watermark = loop.current(), event.id
            last = seen.get(watermark, 0)
            seen[watermark] = max([last, *(seq for _, seq, *_ in event.pending)])
            event.pending[:] = [row for row in event.pending if row[1] > last]
        return [event for event in locked if event.pending]

    monkeypatch.setattr(load, "lock_events", mutant)


def decides_on_the_roster_of_the_batch_before(monkeypatch: pytest.MonkeyPatch) -> None:
    rosters = load.rosters
    kept: dict[Any, Any] = {}

    def mutant(session: Any, decidable: Any) -> Any:
        loaded = rosters(session, decidable)
        for place, event in enumerate(loaded):
            loaded[place] = kept.setdefault((loop.current(), event.id), event)
        return loaded

    monkeypatch.setattr(load, "rosters", mutant)


def decides_what_is_settled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = save._parameters

    def mutant(*arguments: Any) -> Any:
        sent: dict[str, Any] = parameters(*arguments)
        return {**sent, "settled_seqs": [-1] * len(sent["settled_seqs"])}

    monkeypatch.setattr(save, "_parameters", mutant)
    monkeypatch.setattr(BatchWriter, "check", lambda _: None)


def commits_each_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerSession, "transaction", lambda _: nullcontext())


def forgets_the_follow_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchWriter, "_save_follow_up", lambda *_: None)


def releases_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = save._parameters
    none: dict[str, Any] = {"released_event_ids": [], "released_ids": []}
    monkeypatch.setattr(save, "_parameters", lambda *arguments: {**parameters(*arguments), **none})


def releases_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = save._parameters

    def mutant(*arguments: Any) -> Any:
        sent = parameters(*arguments)
        return {**sent, "released_event_ids": sent["settled_event_ids"], "released_ids": sent["settled_ids"]}

    monkeypatch.setattr(save, "_parameters", mutant)


def publishes_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    publishers: dict[Any, Publisher] = {}
    settled: defaultdict[Any, list[Any]] = defaultdict(list)
    init, save_part, check = Publisher.__init__, BatchWriter.save, BatchWriter.check

    def created(self: Publisher, *arguments: Any) -> None:
        init(self, *arguments)
        publishers[loop.current()] = self

    def saved(self: BatchWriter, events: Any, commands: Any) -> None:
        settled[loop.current()] += commands
        save_part(self, events, commands)

    def checked(self: BatchWriter) -> None:
        check(self)
        process = loop.current()
        publishers[process].add(settled.pop(process, []))
        publishers[process].publish()

    monkeypatch.setattr(Publisher, "__init__", created)
    monkeypatch.setattr(BatchWriter, "save", saved)
    monkeypatch.setattr(BatchWriter, "check", checked)


# --- accepting


def accepts_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    accept = ledger.accept
    accepting: dict[Any, asyncio.Task[Any]] = {}

    async def mutant(session: Any, new: Sequence[NewCommand], keys: Any) -> list[Acceptance]:
        before = accepting.get(session)

        async def accept_later() -> None:
            if before is not None:
                await asyncio.wait([before])
            await accept(session, new, keys)

        accepting[session] = asyncio.create_task(accept_later())
        return [Acceptance(command_id=command.id) for command in new]

    monkeypatch.setattr(ledger, "accept", mutant)


def tries_again_under_other_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    accept = ledger.accept
    tried: set[UUID] = set()

    async def mutant(session: Any, new: Sequence[NewCommand], keys: Any) -> list[Acceptance]:
        again = [
            msgspec.structs.replace(command, id=ids.new_id()) if command.id in tried else command
            for command in new
        ]
        tried.update(command.id for command in new)
        return await accept(session, again, keys)

    monkeypatch.setattr(ledger, "accept", mutant)


def says_that_nothing_was_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "AcceptanceUnknown", LedgerUnavailable)


def binds_the_key_of_a_command_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "known", lambda *_: set())
    monkeypatch.setattr(accepting, "check", lambda _: None)


def names_the_second_command_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    find = ledger._find

    async def mutant(session: Any, new: Sequence[NewCommand], keys: Any) -> Any:
        found = await find(session, new, keys)
        return found and [
            msgspec.structs.replace(acceptance, command_id=command.id)
            for acceptance, command in zip(found, new, strict=True)
        ]

    monkeypatch.setattr(ledger, "_find", mutant)


def answers_a_late_request_again(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Intake._write

    class Late(NamedTuple):
        accepted: Any

        def done(self) -> bool:
            return False

        def set_result(self, acceptance: Acceptance) -> None:
            self.accepted.set_result(acceptance)

        def set_exception(self, error: Exception) -> None:
            self.accepted.set_exception(error)

    async def mutant(self: Intake, batch: Any) -> bool:
        late: Any = [(command, Late(accepted), by) for command, accepted, by in batch]
        return await write(self, late)

    monkeypatch.setattr(Intake, "_write", mutant)


def accepts_no_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_is_serialization_failure", lambda _: False)


def fails_what_a_second_try_would_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "_OF_THE_COMMAND", (*trouble._OF_THE_COMMAND, "40"))


# --- waking and answering


def wakes_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    submit, wake = Submission.submit, Waker.wake

    async def mutant(self: Submission, request: Any) -> Any:
        wake(self.waker, request.event_id, request.id)
        return await submit(self, request)

    monkeypatch.setattr(Submission, "submit", mutant)
    monkeypatch.setattr(Waker, "wake", lambda *_: None)


def wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waker, "wake", lambda *_: None)


def refuses_by_an_old_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read = RefusingEvents._read
    kept: dict[Any, tuple[float, Any]] = {}

    async def mutant(self: RefusingEvents, batch: Any) -> Any:
        now = asyncio.get_running_loop().time()
        event_id, _ = batch[0]  # a world has one event
        at, refusals = kept.get((self, event_id), (-1.0, [None]))
        if now - at > 1 or None in refusals:
            refusals = await read(self, batch)
            kept[self, event_id] = now, refusals
        return [refusals[0]] * len(batch)

    monkeypatch.setattr(RefusingEvents, "_read", mutant)


def tells_the_outcome_of_a_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    read = results.read

    async def mutant(client: Any, command_ids: Collection[UUID]) -> Any:
        found = [outcome for outcome in await read(client, command_ids) if outcome is not None]
        return found + [None] * (len(command_ids) - len(found))

    monkeypatch.setattr(results, "read", mutant)


def answers_all_requests_of_an_event_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = OutcomeWaiter.answer

    def mutant(self: OutcomeWaiter, awaited: Any, outcome: Any) -> None:
        of_event: Collection[Any] = list(self.by_event.get(awaited.event_id, {}).values())
        for one in {awaited.command_id: awaited, **{a.command_id: a for a in of_event}}.values():
            answer(self, one, outcome)

    monkeypatch.setattr(OutcomeWaiter, "answer", mutant)


def answers_whatever_is_asked_under_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_digests, "is_of", lambda *_: True)


def publishes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Publisher, "add", lambda *_, **__: None)


def asks_the_ledger_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LedgerFallback, "ask", lambda *_: None)


def asks_the_ledger_once(monkeypatch: pytest.MonkeyPatch) -> None:
    init = LedgerFallback.__init__

    def mutant(self: LedgerFallback, *arguments: Any, **more: Any) -> None:
        init(self, *arguments, **more)
        self._again_seconds = float("inf")

    monkeypatch.setattr(LedgerFallback, "__init__", mutant)


def waits_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome_waiter, "_give_up", lambda _: None)


def forgets_what_no_batch_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    next_batch = Shares.next_batch

    def mutant(self: Shares) -> Any:
        batch = next_batch(self)
        self.waiting.clear()
        return batch

    monkeypatch.setattr(Shares, "next_batch", mutant)
