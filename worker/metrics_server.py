"""Shows a worker's metrics on a port of its own, for hosts without an API process."""

import secrets
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog

from shared import metrics
from shared.settings import Settings

log = structlog.get_logger(__name__)

_REQUEST_SECONDS_MAX = 5


def start(settings: Settings, tick_age: Callable[[], float]) -> None:
    """Serve `/metrics` in a thread if a port is set; the worker goes on if the port is taken."""
    port = settings.worker_metrics_port
    if port is None:
        return

    class Handler(_Handler):
        keys = tuple(
            f"Bearer {key.get_secret_value()}".encode()
            for key in (settings.viewer_key, settings.admin_key)
            if key is not None
        )
        age = staticmethod(tick_age)

    try:
        server = ThreadingHTTPServer((settings.host, port), Handler)
    except OSError as error:
        log.warning("metrics_port_taken", port=port, error=str(error))
        return
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    keys: tuple[bytes, ...]
    age: Callable[[], float]
    timeout = _REQUEST_SECONDS_MAX

    def do_GET(self) -> None:
        """Answer a scrape."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND)
        elif not self._may_read():
            self.send_error(HTTPStatus.UNAUTHORIZED)
        else:
            age = metrics.gauge("tick_age_seconds", "The time since this worker's tick.", type(self).age())
            body = metrics.show(age)
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", metrics.CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def _may_read(self) -> bool:
        """Return True for a client of this machine, or one with the viewer's or the admin's key."""
        sent = self.headers.get("Authorization", "").encode()
        known = any(secrets.compare_digest(sent, key) for key in self.keys)
        headers = {name.lower(): value for name, value in self.headers.items()}
        return known or metrics.is_local(self.client_address[0], headers)

    def log_message(self, *_: object) -> None:
        """Log nothing: a scrape is no news."""
