"""`empty`: validates the body and answers: the cost of the server and the framework alone."""

from fastapi import status

from benchmarks.contestants import http
from benchmarks.contestants.http import Registered, Registering

app = http.application()


@app.post(http.PATH, status_code=status.HTTP_201_CREATED)
async def register(slug: str, registering: Registering) -> Registered:  # noqa: ARG001 - read and validated
    """Answer without a decision."""
    return Registered(id=None, status="CONFIRMED")
