"""TLS to Redis and RabbitMQ: each user of a URL verifies certificates, unless the URL says not to."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread

import pytest
import trustme
from celery import Celery

from shared.messaging import queues, results
from shared.settings import Settings

Use = Callable[[Celery, Settings], object]


async def ping(settings: Settings) -> None:
    async with results.connect_async(settings.result_url) as client:
        await client.ping()


USERS: dict[str, Use] = {
    "Celery's broker": lambda app, _: app.connection_for_write().transport.establish_connection(),
    "Celery's backend": lambda app, _: app.backend.client.ping(),  # type: ignore[attr-defined]
    "redis-py": lambda _, settings: results.connect(settings.result_url).ping(),
    "redis-py's asyncio": lambda _, settings: asyncio.run(ping(settings)),
}


class Server:
    """Ends each connection after the handshake, and counts the handshakes that clients completed."""

    def __init__(self, certificate: trustme.LeafCert) -> None:
        self.trusted = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                stream = self.socket.accept()[0]
            except OSError:
                return
            stream.settimeout(5)
            with suppress(OSError), closing(self._context.wrap_socket(stream, server_side=True)) as client:
                client.recv(1)  # with TLS 1.3 a client that does not trust the server says so here
                self.trusted += 1


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def authority_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(params=["127.0.0.1", "elsewhere.example"])
def server(authority: trustme.CA, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with a certificate for its own address, and one with a certificate for another."""
    running = Server(authority.issue_cert(request.param))
    yield running
    running.socket.close()


def trusts(use: Use, server: Server, scheme: str, parameters: str) -> bool:
    """Return True if this user of the URL sends anything to the server."""
    settings = Settings(
        database_url="postgresql://127.0.0.1:9/nothing",
        broker_url=f"{scheme}://127.0.0.1:{server.port}/{parameters}",
        result_url=f"rediss://127.0.0.1:{server.port}/{parameters}",
    )
    before = server.trusted
    with suppress(Exception):
        use(queues.celery_app(settings), settings)
    return server.trusted > before


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("user", "scheme"), [*((user, "rediss") for user in USERS), ("Celery's broker", "amqps")]
)
def test_certificates_are_verified_unless_the_url_says_not(
    server: Server, authority_file: str, user: str, scheme: str, request: pytest.FixtureRequest
) -> None:
    own_name = "elsewhere" not in request.node.name
    known = f"?ssl_ca_certs={authority_file}"
    found = {
        parameters: trusts(USERS[user], server, scheme, parameters)
        for parameters in (
            *("", known, f"{known}&ssl_cert_reqs=CERT_REQUIRED", f"{known}&ssl_check_hostname=false"),
            *("?ssl_cert_reqs=none", "?ssl_cert_reqs=CERT_NONE"),
        )
    }

    assert list(found.values()) == [False, own_name, own_name, True, True, True]
