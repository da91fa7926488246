"""Serves a contestant as the service is served: `python -m benchmarks.contestants.serving NAME FD`."""

import importlib
import socket
import sys

import uvicorn
from fastapi import FastAPI

from api.edge.connections import Limits, Server
from api.edge.http_protocol import HttpProtocol

BACKLOG = 4_096
LIMITS = Limits(open_max=5_000, head_seconds=20, body_seconds=20, idle_seconds=75, answer_seconds=30)
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
        timeout_graceful_shutdown=SHUTDOWN_SECONDS_MAX,
        proxy_headers=False,
    )
    Server(config, LIMITS).run(sockets=[socket.socket(fileno=fd)])


if __name__ == "__main__":
    name, handle = sys.argv[1:]
    serve(importlib.import_module(f"benchmarks.contestants.{name}").app, int(handle))
