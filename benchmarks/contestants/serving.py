"""Serves a contestant: `python -m benchmarks.contestants.serving NAME FD`.

The other ways are served by uvicorn as it comes, so that figures stay comparable from version to version.
`empty-here` is `empty` on the service's own server, with its flags and its bounds.
"""

import socket
import sys
from collections.abc import Mapping
from typing import Any

import uvicorn
from fastapi import FastAPI

from benchmarks.contestants import http, ways

BACKLOG = 4_096
KEEP_ALIVE_SECONDS = 75
SHUTDOWN_SECONDS_MAX = 3
_HERE = "-here"


_COMMON: Mapping[str, Any] = {
    "loop": "uvloop",
    "ws": "none",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "backlog": BACKLOG,
    "timeout_graceful_shutdown": SHUTDOWN_SECONDS_MAX,
    "proxy_headers": False,
}


def serve(app: FastAPI, fd: int) -> None:
    """Serve on a listening socket until SIGTERM, by uvicorn as it comes."""
    config = uvicorn.Config(
        app, http="httptools", date_header=False, timeout_keep_alive=KEEP_ALIVE_SECONDS, **_COMMON
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)])


def serve_here(app: FastAPI, fd: int) -> None:
    """Serve on a listening socket until SIGTERM, by the service's own server."""
    from api.edge import connections  # noqa: PLC0415 - these change uvicorn for the whole process
    from api.edge.http_protocol import HttpProtocol  # noqa: PLC0415

    limits = connections.Limits(
        open_max=5_000, head_seconds=20, body_seconds=20, idle_seconds=75, answer_seconds=30
    )
    config = uvicorn.Config(app, http=HttpProtocol, date_header=True, **_COMMON)
    connections.Server(config, limits).run(sockets=[socket.socket(fileno=fd)])


if __name__ == "__main__":
    name, handle = sys.argv[1:]
    app = http.application(getattr(ways, name.removesuffix(_HERE)))
    (serve_here if name.endswith(_HERE) else serve)(app, int(handle))
