"""Serves a contestant as the service is served: `python -m benchmarks.contestants.serving NAME FD`."""

import importlib
import socket
import sys

import uvicorn
from fastapi import FastAPI

from api.edge.http_protocol import HttpProtocol

BACKLOG = 4_096
KEEP_ALIVE_SECONDS = 75
SHUTDOWN_SECONDS_MAX = 3
SERVER_ERROR_MIN = 500


def serve(app: FastAPI, fd: int) -> None:
    """Serve on a listening socket until SIGTERM, with the flags of the service's own API."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=HttpProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS_MAX,
        proxy_headers=False,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)])


if __name__ == "__main__":
    name, handle = sys.argv[1:]
    serve(importlib.import_module(f"benchmarks.contestants.{name}").app, int(handle))
