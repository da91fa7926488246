"""The HTTP contract of all contestants: one path, one body with the same rules, one small answer."""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Literal
from uuid import UUID

from fastapi import FastAPI, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from shared.domain import commands, texts

PATH = "/api/p/{slug}/register"
Status = Literal["CONFIRMED", "WAITLIST"]


class Registering(BaseModel):
    """The body of a registration, with the limits of the service's own."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=commands.NAME_LENGTH_MAX)]
    spots_count: Annotated[int, Field(alias="spotsCount", ge=1, le=commands.SPOTS_PER_COMMAND_MAX)] = 1
    email: Annotated[str, AfterValidator(texts.email_address)] | None = None


class Registered(BaseModel):
    """The answer to a registration; `id` is null where nothing was written."""

    id: UUID | None
    status: Status


def application(register: Callable[[str, Registering], Awaitable[Registered]]) -> FastAPI:
    """Return an application with one way of registering, started as the service is; a time-out is a 503."""
    app = FastAPI(lifespan=_lifespan)
    app.post(PATH, status_code=HTTPStatus.CREATED)(register)
    app.add_exception_handler(TimeoutError, _too_late)
    app.add_exception_handler(PoolTimeoutError, _too_late)
    return app


@asynccontextmanager
async def _lifespan(_app: FastAPI) -> AsyncIterator[None]:
    # As the service does; every request becomes a little cheaper.
    gc.collect()
    gc.freeze()
    yield


async def _too_late(_request: Request, _error: Exception) -> Response:
    return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE)
