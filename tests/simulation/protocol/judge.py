"""Judges a history: each answer when it is told, each transaction when it commits, everything at the end.

It knows the promises of the protocol and nothing of how they are kept. Its numbers are the auditor's, and:

 0. No error ends a task or a callback unseen by the rest of the service.
 3. An answer that names a receipt is told after the commit of its command, and an outcome after the commit of
    that outcome; both are the ledger's own, and what the request asked for. Redis has no outcome that the
    ledger has not.
 4. A request makes one command and one registration at most, however often it is sent under its key.
 5. A request that was told "not accepted" leaves no command.
 6. A request that was sent after the answer to another one is behind it in the ledger, and decided after it
    (unless commits are refused: a command that is refused alone is set aside).
13. A key is bound to a command that was not refused, from its acceptance on; no other key is bound.
14. After the last fault everything pending is decided within two ticks, and without any fault at once.
16. The session that settles a command holds the lock of the event's bucket.
17. A refusal without a command is true at a moment between request and answer.
18. A request has an answer by its deadline, unless its process is killed or stopped. A request that waits is
    told soon after the outcome's commit, unless PostgreSQL or a process is disturbed; none is told then that
    the outcome is pending.
19. No command fails, and each is accepted if PostgreSQL is there and refuses no more than a few commits.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from uuid import UUID

import msgspec

from shared.domain import ids, outcomes
from shared.domain.commands import Command, Register
from shared.messaging import results
from shared.postgres import locks
from tests.simulation import histories, worlds
from tests.simulation.model import Json, Told
from tests.simulation.protocol.loop import Process
from tests.simulation.protocol.memory.broker import Redis
from tests.simulation.protocol.memory.database import START, Database, Rows, Transaction
from tests.simulation.protocol.memory.rows import EVENTS, Event, Registration
from tests.simulation.protocol.processes import Answer
from tests.simulation.snapshot import Entry, Row, Snapshot
from tests.simulation.worlds import Witness

NEVER = float("inf")


@dataclass(eq=False)
class Asked:
    """What one client asks for, in one or several attempts under one key."""

    number: int
    event_id: UUID
    command: Command
    actor: str
    key: str | None
    begun: float = NEVER
    accepted: float = NEVER
    """The time of the first answer with a receipt."""
    ids: list[UUID] = field(default_factory=list)
    not_accepted: list[UUID] = field(default_factory=list)
    receipts: list[UUID] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)


class Judge:
    """Collects `violations`, each with its number."""

    def __init__(
        self, database: Database, redis: Redis, first_settings: dict[UUID, Json], prompt_seconds_max: float
    ) -> None:
        self.violations: list[str] = []
        self.asked: list[Asked] = []
        self.decided: defaultdict[UUID, list[UUID]] = defaultdict(list)
        self.slowest = 0.0
        self.calm_at = NEVER
        self.accepts_all, self.decides_in_order = False, True
        self.told_seconds_max = self.late_seconds_max = self.pending_seconds_max = NEVER
        self._arrived: dict[UUID, tuple[float, Process, float]] = {}
        self._settled_at: dict[UUID, float] = {}
        self._database, self._redis, self._first_settings = database, redis, first_settings
        self._prompt_seconds_max = prompt_seconds_max
        self._party_max: defaultdict[UUID, list[tuple[float, float]]] = defaultdict(list)

    def say(self, number: int, what: str) -> None:
        self.violations.append(f"{number}: {what}")

    # --- answers

    def arrived(self, id_: UUID, process: Process, wait_seconds: float) -> None:
        """Note a request that an API process has to answer, and how long the request waits for an outcome."""
        self._arrived[id_] = self._database.loop.time(), process, wait_seconds

    def answered(self, asked: Asked, id_: UUID, answer: Answer) -> None:
        """Judge an answer at the moment at which an API process tells it."""
        arrived, _, wait_seconds = self._arrived.pop(id_)
        asked.answers.append(answer)
        if (late := self._database.loop.time() - arrived - wait_seconds) > self.late_seconds_max:
            self.say(18, f"request {asked.number} was answered {late:.3f} s after its wait")
        if answer.status == "not accepted":
            self._not_accepted(asked, id_, answer)
        if answer.status == "refused early":
            self._refused_early(asked, answer, arrived)
        if answer.receipt_id is None:
            return
        if answer.receipt_id not in asked.receipts:
            asked.receipts.append(answer.receipt_id)
        command = self._database.rows("command", asked.event_id).get(answer.receipt_id)
        if command is None:
            self.say(3, f"request {asked.number} was told a receipt before its command was committed")
        elif command.payload != msgspec.json.encode(asked.command).decode():
            self.say(3, f"request {asked.number} was told the command of another request")
        if answer.status == "told":
            self._told(asked, answer, arrived)
        settled_at = self._settled_at.get(answer.receipt_id, NEVER)
        if answer.status == "pending" and self._database.loop.time() - settled_at > self.pending_seconds_max:
            self.say(18, f"request {asked.number} was told 'pending' after its outcome was committed")

    def _not_accepted(self, asked: Asked, id_: UUID, answer: Answer) -> None:
        asked.not_accepted.append(id_)
        if self.accepts_all and answer.code is None:
            self.say(19, f"request {asked.number} was not accepted")

    def _told(self, asked: Asked, answer: Answer, arrived: float) -> None:
        recorded = self._database.rows("outcome", asked.event_id).get(answer.receipt_id)
        if recorded is None:
            self.say(3, f"request {asked.number} was told an outcome before it was committed")
            return
        outcome = outcomes.decode(recorded)
        assert answer.receipt_id is not None, "an outcome is told with its receipt"
        seconds = self._database.loop.time() - max(self._settled_at[answer.receipt_id], arrived)
        if seconds > self.told_seconds_max:
            self.say(18, f"request {asked.number} was told its outcome after {seconds:.3f} s")
        if answer.code is None:
            right = outcome == answer.outcome
        elif isinstance(outcome, outcomes.Refused):
            right = outcome.code.name == answer.code
        else:
            right = isinstance(outcome, outcomes.Failed) and answer.code == "COMMAND_FAILED"
        if not right:
            self.say(3, f"request {asked.number} was told {answer}, the ledger has {outcome}")

    def _refused_early(self, asked: Asked, answer: Answer, arrived: float) -> None:
        if answer.code != "EVENT_FULL":
            return
        states = self._party_max[asked.event_id]
        before = [party_max for at, party_max in states if at <= arrived][-1:]
        since = [party_max for at, party_max in states if at > arrived]
        spots_count = asked.command.spots_count if isinstance(asked.command, Register) else 0
        if not any(spots_count > party_max for party_max in before + since):
            self.say(17, f"request {asked.number} was refused as full, which the event was not then")

    # --- transactions

    def committing(self, transaction: Transaction) -> None:
        """Judge a transaction at the moment of its commit, before it is seen."""
        for (table, event_id), rows in transaction.written.items():
            if table != "outcome":
                continue
            if not transaction.backend.holds(locks.BUCKET, ids.bucket(event_id)):
                self.say(
                    16, f"session {transaction.backend.pid} settles commands of an event it does not own"
                )
            for id_ in rows:
                self.decided[event_id].append(id_)
                command = transaction.get("command", event_id, id_)
                if command is not None and command.kind != "promote_waitlist":
                    accepted = (command.accepted_at - START).total_seconds()
                    waited = self._database.loop.time() - max(accepted, self.calm_at)
                    self.slowest = max(self.slowest, waited)

    def committed(self, transaction: Transaction) -> None:
        """Note what is settled, and whether the events are full now."""
        for (table, _), rows in transaction.written.items():
            if table == "outcome":
                self._settled_at |= dict.fromkeys(rows, self._database.loop.time())
        for event_id in {event_id for table, event_id in transaction.written if table != "event"}:
            event = self._database.rows(*EVENTS).get(event_id)
            if event is not None:
                self._party_max[event_id].append((self._database.loop.time(), self._largest_party(event)))

    def _largest_party(self, event: Event) -> float:
        """Return the spots of the largest newcomer that an event may take after what is pending."""
        settings, event_id = event.settings, event.id
        commands = self._database.rows("command", event_id)
        pending = self._database.rows("pending", event_id).values()
        waiting = [
            row
            for row in self._database.rows("registration", event_id).values()
            if row.status == "WAITLIST" and row.spots_count <= (settings.capacity or row.spots_count)
        ]
        limit = settings.waitlist_limit
        room = settings.waitlist_enabled and (limit is None or len(waiting) < limit)
        only_registers = all(commands[id_].kind == "register" for id_ in pending)
        if room or not only_registers:
            return float("inf")
        return 0 if waiting else settings.capacity - event.spots_reserved

    # --- the end

    def judge(self, promoted_spots_max: int) -> list[str]:
        """Judge what is there at the end, and return all violations."""
        if self.slowest > self._prompt_seconds_max:
            self.say(14, f"a command was decided {self.slowest:.3f} s after all was well")
        for id_, (_, process, _) in self._arrived.items():
            if process.alive:
                self.say(18, f"the request for {id_} has no answer")
        by_event: defaultdict[UUID, list[Asked]] = defaultdict(list)
        for asked in self.asked:
            by_event[asked.event_id].append(asked)
        for event_id, all_asked in by_event.items():
            self._ledger(event_id, all_asked)
            self._keys(event_id, all_asked)
            self._order(event_id, all_asked)
            self._results(event_id)
            self._tables(event_id, promoted_spots_max)
        return self.violations

    def _ledger(self, event_id: UUID, all_asked: list[Asked]) -> None:
        commands = self._database.rows("command", event_id)
        recorded = self._database.rows("outcome", event_id)
        made = Counter(row.name for row in self._database.rows("registration", event_id).values())
        for name, count in made.items():
            if count > 1:
                self.say(4, f"{name} asked once and has {count} registrations")
        for id_ in commands:
            if id_ not in recorded:
                self.say(14, f"command {id_} has no outcome")
        for id_, outcome in recorded.items():
            if isinstance(outcomes.decode(outcome), outcomes.Failed):
                self.say(19, f"command {id_} failed")
        for asked in all_asked:
            self._request(asked, commands, recorded)
        known = {id_ for asked in all_asked for id_ in asked.ids}
        for command in commands.values():
            if command.id not in known and command.kind != "promote_waitlist":
                self.say(5, f"no client asked for the command {command.id}")

    def _request(self, asked: Asked, commands: Rows, recorded: Rows) -> None:
        own = [id_ for id_ in asked.ids if id_ in commands]
        effective = [id_ for id_ in own if id_ in recorded and not _released(recorded[id_])]
        if len(effective) > 1:
            self.say(4, f"request {asked.number} made {len(effective)} commands with an effect")
        if asked.key is None and len(own) > 1:
            self.say(4, f"request {asked.number} made {len(own)} commands without a key")
        for id_ in asked.not_accepted:
            if id_ in commands:
                self.say(5, f"request {asked.number} was told 'not accepted', and left a command")

    def _keys(self, event_id: UUID, all_asked: list[Asked]) -> None:
        recorded = self._database.rows("outcome", event_id)
        commands = self._database.rows("command", event_id)
        bound = {command_id for command_id, _ in self._database.rows("key", event_id).values()}
        keyed = {id_ for asked in all_asked if asked.key is not None for id_ in asked.ids if id_ in commands}
        released = {id_ for id_, outcome in recorded.items() if _released(outcome)}
        for id_ in bound & released:
            self.say(13, f"a key is bound to the command {id_}, which was refused")
        for id_ in keyed - released - bound:
            self.say(13, f"the key of the command {id_} is not bound")

    def _order(self, event_id: UUID, all_asked: list[Asked]) -> None:
        """The last that was begun before each acceptance is enough: others only are further apart."""
        commands = self._database.rows("command", event_id)
        place = {id_: number for number, id_ in enumerate(self.decided[event_id])}
        receipts = [(asked, asked.receipts[0]) for asked in all_asked if asked.receipts]
        first = [(asked, commands[id_]) for asked, id_ in receipts if id_ in commands]
        for asked, command in first:
            for later, behind in first:
                if later.begun > asked.accepted and command.id != behind.id:
                    if behind.seq < command.seq:
                        self.say(
                            6, f"request {later.number} is ahead of {asked.number}, which was answered before"
                        )
                    elif self.decides_in_order and place.get(behind.id, 0) < place.get(command.id, 0):
                        self.say(6, f"request {later.number} was decided before {asked.number}")

    def _results(self, event_id: UUID) -> None:
        for id_, outcome in self._database.rows("outcome", event_id).items():
            stored = self._redis.values.get(results.key(id_))
            if stored is not None and msgspec.json.decode(stored)["result"] != msgspec.json.decode(outcome):
                self.say(3, f"Redis has another outcome of {id_} than the ledger")
        for id_ in self._database.rows("command", event_id):
            if id_ not in self._database.rows("outcome", event_id) and results.key(id_) in self._redis.values:
                self.say(3, f"Redis has an outcome of {id_}, the ledger has none")

    def _tables(self, event_id: UUID, promoted_spots_max: int) -> None:
        now = with_true_positions(snapshot(self._database, event_id, self.decided[event_id]))
        first = self._first_settings[event_id]
        witness = Witness(_AtTheEnd(now), first, promoted_spots_max)
        witness.look()
        self.violations += witness.objections


def with_true_positions(now: Snapshot) -> Snapshot:
    """Return the snapshot with the positions that the auditor expects.

    A command that is decided after one with a higher number is told a position that counts that one as well,
    which is a known limit. Every other position stays as it was told.
    """
    commands = {told.id: told for told in now.commands}
    places: dict[str | None, int] = {}
    for entry in now.entries:
        places.pop(entry.registration_id, None)
        if entry.to_status == "WAITLIST":
            told = commands[entry.command_id]
            ahead = sum(place < told.seq for place in places.values())
            if told.outcome is not None and told.outcome.get("position") == len(places) + 1:
                commands[told.id] = replace(told, outcome={**told.outcome, "position": ahead + 1})
            places[entry.registration_id] = told.seq
    return replace(now, commands=tuple(commands.values()))


def _released(outcome: str) -> bool:
    """Return True if this outcome releases its command's key."""
    return isinstance(outcomes.decode(outcome), outcomes.Refused | outcomes.Failed)


@dataclass
class _AtTheEnd:
    """A world in which nothing happens any more."""

    now: Snapshot

    def accept(self, asked: object) -> None:
        raise NotImplementedError

    def apply(self, limit: int) -> int:
        raise NotImplementedError

    def snapshot(self) -> Snapshot:
        return self.now


def snapshot(database: Database, event_id: UUID, decided: list[UUID]) -> Snapshot:
    """Return an event as plain data, its commands in the order in which they were decided."""
    event: Event = database.rows(*EVENTS)[event_id]
    settings = {name: getattr(event.settings, worlds.column(name)) for name in histories.SETTINGS}
    return Snapshot(
        settings=settings,
        spots_reserved=event.spots_reserved,
        waitlist_length=event.waitlist_length,
        overbooked_spots=event.overbooked_spots,
        audit_seq=event.audit_seq,
        rows=tuple(_row(row) for row in database.rows("registration", event_id).values()),
        entries=tuple(_entries(database, event_id)),
        commands=tuple(_commands(database, event_id, decided)),
    )


def _row(row: Registration) -> Row:
    return Row(
        id=str(row.id),
        seq=row.seq,
        command_id=str(row.command_id),
        name=row.name,
        email=row.email,
        spots_count=row.spots_count,
        status=row.status,
    )


def _entries(database: Database, event_id: UUID) -> Iterator[Entry]:
    for _, entry in sorted(database.rows("entry", event_id).items()):
        before_after = entry["before_after"]
        yield Entry(
            **{
                **entry,
                "event_id": str(event_id),
                "command_id": str(entry["command_id"]),
                "registration_id": None
                if entry["registration_id"] is None
                else str(entry["registration_id"]),
                "before_after": None if before_after is None else msgspec.json.decode(before_after),
            }
        )


def _commands(database: Database, event_id: UUID, decided: list[UUID]) -> Iterator[Told]:
    commands, recorded = database.rows("command", event_id), database.rows("outcome", event_id)
    keys = {command_id: key for key, (command_id, _) in database.rows("key", event_id).items()}
    places = {id_: place for place, id_ in enumerate(decided)}
    for command in sorted(commands.values(), key=lambda c: (places.get(c.id, len(places)), c.seq)):
        outcome = recorded.get(command.id)
        yield Told(
            id=str(command.id),
            seq=command.seq,
            kind=command.kind,
            payload=msgspec.json.decode(command.payload),
            accepted_at=command.accepted_at,
            registration_id=str(ids.registration_id(command.id)),
            follow_up_id=str(ids.follow_up_id(command.id)),
            actor=command.actor,
            idempotency_key=keys.get(command.id),
            outcome=None if outcome is None else worlds.as_read(msgspec.json.decode(outcome)),
        )
