"""Single requests before a load: one that checks the expected answer, and receipts to poll."""

import asyncio

import msgspec

from benchmarks.load.load import Load
from benchmarks.processes import BenchmarkError
from ops.rehearsal import http_client

RECEIPTS = 256
"""The number of different receipts that are polled in turn."""
RECEIPT_CONNECTIONS = 32


class _Receipt(msgspec.Struct, frozen=True, rename="camel"):
    receipt_id: str


async def probe(load: Load) -> None:
    """Send one request of the load; raises `BenchmarkError` when its answer is not the expected one."""
    async with http_client.Connection(load.url) as connection:
        answer = await _ask(connection, load, load.paths[0])
    if answer.status != load.expected:
        body = answer.body[:500].decode(errors="replace")
        raise BenchmarkError(f"{load.method} {load.paths[0]} answered HTTP {answer.status}: {body}")


async def polls(load: Load) -> Load:
    """Register `RECEIPTS` times, and return a load that reads each receipt in turn."""
    paths = [load.paths[n % len(load.paths)] for n in range(RECEIPTS)]
    parts = [paths[n::RECEIPT_CONNECTIONS] for n in range(RECEIPT_CONNECTIONS)]
    receipts_by_part = await asyncio.gather(*(_receipts(load, part) for part in parts))
    receipts = [path for part in receipts_by_part for path in part]
    return msgspec.structs.replace(load, method="GET", paths=receipts, headers={}, body="", expected=200)


async def _receipts(load: Load, paths: list[str]) -> list[str]:
    receipts = []
    async with http_client.Connection(load.url) as connection:
        for path in paths:
            answer = await _ask(connection, load, path)
            receipt = msgspec.json.decode(answer.body, type=_Receipt)
            receipts.append(f"{path.removesuffix('register')}receipts/{receipt.receipt_id}")
    return receipts


async def _ask(connection: http_client.Connection, load: Load, path: str) -> http_client.Answer:
    try:
        return await connection.request(load.method, path, load.headers, load.body.encode())
    except http_client.ConnectionLost as lost:
        raise BenchmarkError(f"{load.url}{path} did not answer: {lost}") from lost
