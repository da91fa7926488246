"""An outcome that cannot be read concerns the request for it alone."""

import asyncio
import math
from uuid import UUID

import pytest

from api.commands.intake import Intake
from api.edge.problems import ProblemError
from api.edge.schemas import ReceiptStatus
from api.queries.reader import Reader
from api.queries.receipts import Found, Receipts
from shared.domain import ids
from shared.messaging import results
from shared.postgres import connections
from shared.settings import Settings
from tests.stage import Stage

_CORRUPT = "UPDATE outcome SET body = %s::jsonb WHERE command_id = %s"

_GARBLE = """
    CREATE FUNCTION garble() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE outcome SET body = '{"outcome":"teleported"}' WHERE body ->> 'outcome' = 'confirmed';
        RETURN NULL;
    END $$;
    CREATE TRIGGER garble AFTER INSERT ON outcome FOR EACH STATEMENT EXECUTE FUNCTION garble();
"""
"""From now on the next outcome makes those of earlier registrations unreadable."""
_UNGARBLE = "DROP FUNCTION garble CASCADE"


@pytest.mark.parametrize(
    "outcome",
    [
        '{"outcome":"teleported"}',
        '{"outcome":"confirmed","spotsCount":1}',
        '{"outcome":"confirmed","spotsCount":1,"registrationId":"no id"}',
        "[]",
        '"text"',
        "[" * 2_000 + "]" * 2_000,
    ],
    ids=["kind", "field", "id", "list", "text", "depth"],
)
def test_an_unreadable_outcome_hides_no_other(stage: Stage, outcome: str) -> None:
    event = stage.create_event()
    bodies = [{"name": f"User {n}"} for n in range(3)]
    receipts = [UUID(answer.json()["receiptId"]) for answer in stage.register_at_once(event, bodies)]
    stage.query(_CORRUPT, outcome, receipts[1])
    settings = Settings(
        database_url=stage.database_url,
        broker_url=stage.servers.broker_url,
        result_url=stage.servers.result_url,
    )

    async def read() -> list[Found | BaseException]:
        engine = connections.async_engine(settings)
        reader = Receipts(Reader(engine), Intake(settings).confirm)
        try:
            reading = (reader.find(UUID(event["id"]), receipt, math.inf) for receipt in receipts)
            return await asyncio.gather(*reading, return_exceptions=True)
        finally:
            await engine.dispose()

    first, unreadable, last = asyncio.run(read())

    assert isinstance(first, Found)
    assert isinstance(last, Found)
    assert [found.receipt and found.receipt.status for found in (first, last)] == [
        ReceiptStatus.CONFIRMED
    ] * 2
    assert isinstance(unreadable, ProblemError)
    assert (unreadable.status, unreadable.code) == (503, "ANSWER_UNAVAILABLE")


def test_a_cancellation_is_told_its_own_receipt(stage: Stage) -> None:
    event = stage.create_event()
    path = f"/api/p/{event['slug']}"
    with stage.client() as client:
        told = client.post(f"{path}/register", json={"name": "User"}).json()
        stage.query(_GARBLE)
        try:
            answer = client.delete(f"{path}/receipts/{told['receiptId']}")
        finally:
            stage.query(_UNGARBLE)
        of_cancellation = client.get(answer.headers["location"]).json()
        again = client.delete(f"{path}/receipts/{told['receiptId']}")
    [row] = stage.query(
        "SELECT id::text FROM command WHERE kind = 'change_status' AND event_id = %s::uuid", event["id"]
    )

    assert (answer.status_code, answer.json()["code"]) == (503, "ANSWER_UNAVAILABLE")
    assert answer.json()["receiptId"] == row["id"]
    assert answer.headers["location"] == f"{path}/receipts/{row['id']}"
    assert (again.status_code, again.json()["code"]) == (503, "ANSWER_UNAVAILABLE")
    assert (of_cancellation["receiptId"], of_cancellation["status"]) == (row["id"], "CANCELLED")


def test_an_unreadable_result_hides_no_other(stage: Stage) -> None:
    client = results.connect_async(stage.servers.result_url)
    command_ids = [ids.new_id() for _ in range(4)]
    values = [b"text", b'{"result":{"outcome":"\xff"}}', b"[" * 9_000, _STORED]

    async def read() -> list[str | None]:
        for command_id, value in zip(command_ids, values, strict=True):
            await client.set(results.key(command_id), value, ex=60)
        found = await results.read(client, command_ids)
        await client.aclose()
        return [None if outcome is None else type(outcome).__name__ for outcome in found]

    assert asyncio.run(read()) == [None, None, None, "Failed"]


_STORED = b'{"result":{"outcome":"failed","incidentId":"00000000-0000-0000-0000-000000000001"}}'


def test_an_unreadable_failure_hides_no_other(stage: Stage) -> None:
    event = stage.create_event()
    bodies = [{"name": f"User {n}"} for n in range(2)]
    receipts = [UUID(answer.json()["receiptId"]) for answer in stage.register_at_once(event, bodies)]
    incident = "00000000-0000-0000-0000-000000000001"
    for receipt, id_ in zip(receipts, ("no id", incident), strict=True):
        stage.query(_CORRUPT, f'{{"outcome":"failed","incidentId":"{id_}"}}', receipt)

    failed = stage.get(f"/api/events/{event['id']}/commands?outcome=failed")["items"]

    assert {command["incidentId"] for command in failed} == {None, incident}
