"""Erasures during a run: an operator that erases registrations and addresses, as `./admitone erase` does.

An erasure empties the texts by which the judge finds a command, so the database keeps each payload before
(`chaos_erased`). It also frees idempotency keys: a client that asks once more then asks for a new command.
"""

import random
import threading
import time
from types import TracebackType
from typing import Self
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from ops.maintenance import erasure
from ops.maintenance.erasure import Subject
from shared.domain import texts
from shared.errors import ExpectedError
from tests.chaos import wishes
from tests.chaos.history import Operation
from tests.chaos.service import Service
from tests.chaos.workload import Workload

PAUSE_SECONDS = 1.0
BY_ADDRESS_SHARE = 0.3
AGAIN_SECONDS = 0.2
PATIENCE_SECONDS = 60.0


class Erasures:
    """Erases while the block lasts, on a thread of its own, and writes each erasure into the history."""

    def __init__(self, service: Service, workload: Workload, seed: int) -> None:
        self._settings = service.operator_settings()
        self._workload = workload
        self._chance = random.Random(f"{seed} erasures")  # noqa: S311 - a run must be repeatable
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="erasures", daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        if error is None:
            self._thread.join()
            if self._error is not None:
                raise self._error

    def _run(self) -> None:
        try:
            while not self._ending.wait(self._chance.expovariate(1 / PAUSE_SECONDS)):
                if (drawn := self._draw()) is not None:
                    self._perform(*drawn)
        except BaseException as error:  # noqa: BLE001 - raised again at the end
            self._error = error

    def _draw(self) -> tuple[Operation, Subject] | None:
        """Return an erasure of a party or of an address; None if the event has no party yet."""
        event = self._chance.choice(self._workload.events)
        operation = Operation(
            number=-1,
            kind="erase",
            event_id=event.made.id,
            mark=f"chaos erasure {self._chance.randrange(10**9)}",
        )
        event_id = UUID(event.made.id)
        if self._chance.random() < BY_ADDRESS_SHARE:
            operation.address = wishes.address(self._chance)
            return operation, Subject(event_id=event_id, email_key=texts.email_key(operation.address))
        if not event.parties:
            return None
        operation.registration_id = self._chance.choice(event.parties)[1]
        return operation, Subject(event_id=event_id, registration_id=UUID(operation.registration_id))

    def _perform(self, operation: Operation, subject: Subject) -> None:
        """Erase a subject, and again until that is done."""
        self._workload.history.operations.append(operation)
        operation.begun = time.monotonic()
        while not operation.told and time.monotonic() < operation.begun + PATIENCE_SECONDS:
            # Each round of an erasure writes a command of its own.
            operation.attempts += erasure.ROUNDS_MAX
            try:
                erasure.erase(self._settings, [subject], operation.mark, dry_run=False)
            except (ExpectedError, DBAPIError):
                time.sleep(AGAIN_SECONDS)
            else:
                operation.told.append("DONE")
                operation.decided = time.monotonic()
