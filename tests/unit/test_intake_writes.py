"""The intake while a write is on its way: what late requests are told, and what the write confirms."""

import asyncio
from types import SimpleNamespace
from uuid import UUID

import pytest
from psycopg import DataError
from structlog.testing import capture_logs

from api.commands.intake import AcceptanceUnknown, CommandRejected, Intake, LedgerUnavailable
from shared.postgres.durability import NotConfirmed
from shared.postgres.ledger import Acceptance, NewCommand, NumberingBehind
from shared.settings import Settings

SETTINGS = Settings(
    database_url="postgresql://127.0.0.1:9/nothing",
    broker_url="redis://127.0.0.1:9/0",
    result_url="redis://127.0.0.1:9/0",
)


def command(number: int) -> NewCommand:
    return NewCommand(
        event_id=UUID(int=1), id=UUID(int=number), kind="register", payload=b"{}", actor="public"
    )


class Writes:
    """An intake whose writes last until `go_on`; `begun` counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, commands: int = 1) -> None:
        self.begun = 0
        self._commands = commands
        self.error: Exception | None = None
        self.go_on = asyncio.Event()
        self.intake = Intake(SETTINGS)
        monkeypatch.setattr(self.intake, "_commit", self._commit)
        monkeypatch.setattr(self.intake, "_session", SimpleNamespace(server="server"))

    async def _commit(self, _: object) -> list[Acceptance]:
        self.begun += 1
        await self.go_on.wait()
        error, self.error = self.error, None
        if error is not None:
            raise error
        return [Acceptance(command_id=UUID(int=number + 1)) for number in range(self._commands)]


def test_only_what_was_sent_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers() -> tuple[list[object], int]:
        writes = Writes(monkeypatch)
        by = asyncio.get_running_loop().time() + 0.05
        sent = asyncio.create_task(writes.intake.accept(command(1), by))
        while not writes.begun:  # noqa: ASYNC110 - the write begins by itself
            await asyncio.sleep(0)
        waiting = writes.intake.accept(command(2), by)
        errors = await asyncio.gather(sent, waiting, return_exceptions=True)
        writes.go_on.set()
        await asyncio.sleep(0.01)
        return [type(error) for error in errors], writes.begun

    assert asyncio.run(answers()) == ([AcceptanceUnknown, LedgerUnavailable], 1)


def test_a_late_request_costs_no_other_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers() -> list[object]:
        writes = Writes(monkeypatch, commands=2)
        by = asyncio.get_running_loop().time() + 0.05
        late = asyncio.create_task(writes.intake.accept(command(1), by))
        patient = asyncio.create_task(writes.intake.accept(command(2)))
        await asyncio.wait([late])
        writes.go_on.set()
        await asyncio.wait([patient], timeout=5)
        return [type(late.exception()), patient.done() and patient.result().command_id]

    assert asyncio.run(answers()) == [AcceptanceUnknown, UUID(int=2)]


def test_a_late_request_costs_no_other_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers() -> list[object]:
        writes = Writes(monkeypatch, commands=2)
        writes.error = LedgerUnavailable()
        now = asyncio.get_running_loop().time()
        late = asyncio.create_task(writes.intake.accept(command(1), now + 0.05))
        patient = asyncio.create_task(writes.intake.accept(command(2)))
        await asyncio.wait([late])
        writes.go_on.set()
        await asyncio.wait([patient], timeout=5)
        return [type(late.exception()), patient.done() and type(patient.exception())]

    assert asyncio.run(answers()) == [AcceptanceUnknown, LedgerUnavailable]


def test_one_late_request_ends_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers() -> list[object]:
        writes = Writes(monkeypatch, commands=2)
        now = asyncio.get_running_loop().time()
        asked = [(command(1), now + 0.05), (command(2), now + 0.5)]
        late = [asyncio.create_task(writes.intake.accept(new, by)) for new, by in asked]
        await asyncio.wait(late, timeout=5)
        writes.go_on.set()
        return [request.done() and type(request.exception()) for request in late]

    assert asyncio.run(answers()) == [AcceptanceUnknown, AcceptanceUnknown]


def test_a_command_behind_a_confirmation_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer() -> object:
        writes = Writes(monkeypatch)
        confirmed = asyncio.create_task(writes.intake.confirm_all({"server"}))
        while not writes.begun:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0)
        by = asyncio.get_running_loop().time() + 0.25
        late = asyncio.create_task(writes.intake.accept(command(1), by))
        await asyncio.wait([late], timeout=5)
        writes.go_on.set()
        await confirmed
        return late.done() and type(late.exception())

    assert asyncio.run(answer()) is LedgerUnavailable


def test_written_commands_are_watched_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def still_sent() -> object:
        writes = Writes(monkeypatch)
        writes.go_on.set()
        await writes.intake.accept(command(1))
        async with asyncio.timeout(5):
            while writes.intake._watch is not None:  # noqa: ASYNC110, SLF001 - nothing else tells
                await asyncio.sleep(0.01)
        return writes.intake._sent  # noqa: SLF001 - likewise

    assert asyncio.run(still_sent()) == ()


def test_an_earlier_write_confirms_no_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def begun() -> int:
        writes = Writes(monkeypatch)
        accepted = asyncio.create_task(writes.intake.accept(command(1)))
        while not writes.begun:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0)
        confirmed = asyncio.create_task(writes.intake.confirm_all({"server"}))
        await asyncio.sleep(0)
        writes.go_on.set()
        await asyncio.gather(accepted, confirmed)
        return writes.begun

    assert asyncio.run(begun()) == 2


def test_a_late_reader_costs_no_other_its_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers() -> list[object]:
        writes = Writes(monkeypatch)
        now = asyncio.get_running_loop().time()
        late = asyncio.create_task(writes.intake.confirm_all({"server"}, now + 0.05))
        patient = asyncio.create_task(writes.intake.confirm_all({"server"}))
        await asyncio.wait([late])
        writes.go_on.set()
        await asyncio.wait([patient], timeout=5)
        return [type(late.exception()), patient.done() and patient.exception()]

    assert asyncio.run(answers()) == [NotConfirmed, None]


@pytest.mark.parametrize("error", [LedgerUnavailable(), AcceptanceUnknown(), NumberingBehind()])
def test_a_failed_write_confirms_no_read(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def answer() -> object:
        writes = Writes(monkeypatch)
        writes.error = error
        writes.go_on.set()
        confirmed = asyncio.create_task(writes.intake.confirm_all({"server"}))
        await asyncio.wait([confirmed], timeout=5)
        return confirmed.done() and type(confirmed.exception())

    with capture_logs():
        assert asyncio.run(answer()) is NotConfirmed


def test_a_write_confirms_no_other_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def confirm() -> None:
        writes = Writes(monkeypatch)
        writes.go_on.set()
        await writes.intake.confirm_all({"server", "another"})

    with pytest.raises(NotConfirmed):
        asyncio.run(confirm())


def test_a_write_confirms_the_reads_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def begun() -> int:
        writes = Writes(monkeypatch)
        writes.go_on.set()
        await asyncio.gather(writes.intake.accept(command(1)), writes.intake.confirm_all({"server"}))
        return writes.begun

    assert asyncio.run(begun()) == 1


def test_a_rejected_command_confirms_no_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers() -> tuple[object, int]:
        writes = Writes(monkeypatch)
        writes.error = DataError()
        writes.go_on.set()
        rejected, _ = await asyncio.gather(
            writes.intake.accept(command(1)), writes.intake.confirm_all({"server"}), return_exceptions=True
        )
        return type(rejected), writes.begun

    assert asyncio.run(answers()) == (CommandRejected, 2)
