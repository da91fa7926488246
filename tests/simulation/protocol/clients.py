"""The clients of a history: newcomers in bursts, holders that leave, admins; they ask again by key."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from uuid import UUID

import msgspec

from shared.domain.commands import (
    HOLDER,
    ChangeEvent,
    ChangeStatus,
    Command,
    DeleteRegistration,
    Register,
    Status,
)
from shared.domain.outcomes import Confirmed, Waitlisted
from tests.simulation.model import ACTOR
from tests.simulation.protocol.chances import Chances
from tests.simulation.protocol.judge import Asked, Judge
from tests.simulation.protocol.loop import Loop
from tests.simulation.protocol.processes import SETTINGS, Answer, Api

BUSY_SECONDS = 2.0
"""All clients begin within this time."""
_ATTEMPTS_MAX = 6
_PATIENCE_SECONDS = 8.0


class Clients:
    """All clients; `apis` are the API processes so far, the dead ones too."""

    def __init__(
        self, chances: Chances, judge: Judge, apis: Sequence[Api], watch: Callable[[asyncio.Task[None]], None]
    ) -> None:
        self._chances, self._dice = chances, chances.dice
        self._judge, self._apis, self._watch = judge, apis, watch

    async def ask_all(self, world: Loop, event_ids: Sequence[UUID]) -> None:
        """Ask for everything, and return when each client has an answer or has given up."""
        await asyncio.wait([world.spawn(self._client(asked), None) for asked in self._drawn(event_ids)])

    def _drawn(self, event_ids: Sequence[UUID]) -> Iterator[Asked]:
        burst = 0.0
        for number in range(self._dice.randint(8, 40)):
            if self._dice.random() < 0.3:
                burst = self._dice.uniform(0, BUSY_SECONDS)
            newcomer = self._dice.random() < 0.85
            asked = Asked(
                number=number,
                event_id=self._dice.choice(event_ids),
                command=self._register(number) if newcomer else self._change(),
                actor="public" if newcomer else ACTOR,
                key=f"key {number}" if self._dice.random() < 0.5 else None,
                begun=burst + self._dice.uniform(0, 0.01),
            )
            self._judge.asked.append(asked)
            yield asked

    def _register(self, number: int) -> Command:
        email = self._dice.choice([None, None, None, "ada@example.org"])
        return Register(name=f"guest {number}", spots_count=self._dice.choice([1, 1, 1, 2, 3]), email=email)

    def _change(self) -> Command:
        return self._dice.choice(
            [
                ChangeEvent(capacity=self._dice.randint(1, 10)),
                ChangeEvent(capacity=self._dice.randint(8, 12)),
                ChangeEvent(waitlist_enabled=self._dice.random() < 0.5),
            ]
        )

    async def _client(self, asked: Asked) -> None:
        await asyncio.sleep(asked.begun)
        asked.begun = asyncio.get_running_loop().time()
        twice = asked.key is not None and self._dice.random() < 0.2
        await asyncio.gather(*(self._insist(asked) for _ in range(2 if twice else 1)))
        told = next((a for a in asked.answers if isinstance(a.outcome, Confirmed | Waitlisted)), None)
        if told is not None and self._dice.random() < 0.35:
            await asyncio.sleep(self._dice.uniform(0, 0.5))
            await self._leave(asked, told.outcome.registration_id)
        if asked.key is not None and self._dice.random() < 0.1:
            await self._ask_for_another(asked)

    async def _ask_for_another(self, asked: Asked) -> None:
        """Ask for something else under the same key."""
        number = len(self._judge.asked)
        other = Asked(
            number=number,
            event_id=asked.event_id,
            command=self._register(number),
            actor=asked.actor,
            key=asked.key,
            begun=asyncio.get_running_loop().time(),
        )
        self._judge.asked.append(other)
        await self._insist(other)

    async def _leave(self, asked: Asked, registration_id: UUID) -> None:
        """Let the holder cancel, or an admin delete the registration."""
        command: Command = DeleteRegistration(registration_id=registration_id)
        if by_holder := self._dice.random() < 0.7:
            command = ChangeStatus(registration_id=registration_id, status=Status.CANCELLED)
        leaving = Asked(
            number=len(self._judge.asked),
            event_id=asked.event_id,
            command=command,
            actor=HOLDER if by_holder else ACTOR,
            key=f"leaves {asked.number}" if self._dice.random() < 0.5 else None,
            begun=asyncio.get_running_loop().time(),
        )
        self._judge.asked.append(leaving)
        await self._insist(leaving)

    async def _insist(self, asked: Asked) -> None:
        """Ask until there is an answer; without a key ask once."""
        for _ in range(_ATTEMPTS_MAX):
            id_ = self._chances.new_id()
            asked.ids.append(id_)
            answer = await self._ask(asked, id_)
            self._chances.tell(f"{asked.number}: {short(id_)} is answered {_told(answer)}")
            if answer.receipt_id is not None:
                asked.accepted = min(asked.accepted, asyncio.get_running_loop().time())
            if asked.key is None or answer.status in ("told", "refused early"):
                return
            await asyncio.sleep(self._dice.uniform(0.02, 0.4))

    async def _ask(self, asked: Asked, id_: UUID) -> Answer:
        world = asyncio.get_running_loop()
        assert isinstance(world, Loop)
        api = self._dice.choice(self._apis)
        self._chances.tell(f"{asked.number}: {short(id_)} asks {api.process.name} for {_wanted(asked)}")
        await self._chances.moment()
        if not api.process.alive:
            return Answer("no connection")
        told: asyncio.Future[Answer] = world.create_future()
        api.process.on_death.append(lambda: None if told.done() else told.set_result(Answer("broken")))
        self._watch(world.spawn(self._handle(api, asked, id_, told), api.process))
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                answer = await told
        except TimeoutError:
            return Answer("no answer")
        await self._chances.moment()
        return answer

    async def _handle(self, api: Api, asked: Asked, id_: UUID, told: "asyncio.Future[Answer]") -> None:
        """Answer a request, as a step of the API process."""
        wait_seconds = self._dice.choice([0.3, SETTINGS.answer_wait_seconds])
        self._judge.arrived(id_, api.process, wait_seconds)
        answer = await api.answer(asked.event_id, asked.command, asked.actor, asked.key, id_, wait_seconds)
        self._judge.answered(asked, id_, answer)
        if not told.done():
            told.set_result(answer)


def short(id_: object) -> str:
    """Return an id as the trace shows it."""
    return id_.hex[-4:] if isinstance(id_, UUID) else id_.hex()[:4] if isinstance(id_, bytes) else str(id_)


def _told(answer: Answer) -> str:
    outcome = type(answer.outcome).__name__ if answer.outcome is not None else answer.code or ""
    return f"{answer.status} {outcome} {short(answer.receipt_id) if answer.receipt_id else ''}".strip()


def _wanted(asked: Asked) -> str:
    match asked.command:
        case Register(spots_count=spots):
            what = f"{spots} spots"
        case ChangeEvent() as change:
            what = msgspec.json.encode(change).decode()
        case command:
            what = type(command).__name__
    return f"{what} at {short(asked.event_id)}{' under a key' if asked.key else ''}"
