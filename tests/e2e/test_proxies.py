"""The examples of nginx and Caddy as they are printed, with other ports, folders and certificates."""

import json
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit
from uuid import UUID

import httpx2
import pytest
import trustme

from ops.rehearsal.temporary_stack import free_port
from shared.settings import Settings
from tests.e2e.stacks import wait_for
from tests.integration.test_receipts import bearer, spellings
from tests.stage import CHECKOUT, Json, Stage

NGINX = (CHECKOUT / "docs/proxies/nginx.conf").read_text(encoding="utf-8")
CADDY = (CHECKOUT / "docs/proxies/Caddyfile").read_text(encoding="utf-8")
UPSTREAM = "127.0.0.1:9000"
NAME = "tickets.example.org"
LATEST_SECONDS = Settings.model_fields["answer_wait_seconds_max"].default + 2
Front = Callable[[str], "Proxy"]


def substitute(text: str, others: Mapping[str, str]) -> str:
    """Replace parts of an example, each of which has to be there."""
    for printed, here in others.items():
        assert printed in text
        text = text.replace(printed, here)
    return text


def nginx(folder: Path, upstream: str, port: int) -> list[str]:
    """Return nginx' command line, with the example included as a distribution does it."""
    (server,) = re.findall(r" *server .*;\n", NGINX)
    site = substitute(
        NGINX,
        {
            server: "".join(server.replace(UPSTREAM, address) for address in upstream.split()),
            "    listen [::]:80;\n": "",
            "    listen [::]:443 ssl http2;\n": "",
            "listen 80;": f"listen 127.0.0.1:{free_port()};",
            "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
            f"/etc/ssl/{NAME}/fullchain.pem": f"{folder}/chain.pem",
            f"/etc/ssl/{NAME}/privkey.pem": f"{folder}/key.pem",
            "/var/log/nginx": f"{folder}/log",
        },
    )
    (folder / "site.conf").write_text(site)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/log/error.log;\n"
        f"events {{}}\nhttp {{\n{temporary}include {folder}/site.conf;\n}}\n"
    )
    return ["-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, upstream: str, port: int) -> list[str]:
    """Return Caddy's command line."""
    text = substitute(
        CADDY,
        {
            UPSTREAM: upstream,
            f"{NAME} {{": f"https://127.0.0.1:{port} {{\n\ttls {folder}/chain.pem {folder}/key.pem\n",
            "\tservers {": "\tadmin off\n\tauto_https disable_redirects\n\tservers {",
            "lb_try_duration 3s": "lb_try_duration 300ms",
            "format filter": f"output file {folder}/log/caddy.log\n\t\tformat filter",
        },
    )
    (folder / "Caddyfile").write_text(text)
    return ["run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


PROXIES = {"nginx": nginx, "caddy": caddy}


class Proxy:
    """A running proxy, its URL, the context that trusts it, and its logs."""

    def __init__(self, folder: Path, port: int, context: ssl.SSLContext) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self.folder = folder
        self._context = context

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, verify=self._context, timeout=60)

    def logs(self) -> str:
        """Return all logs of the proxy, once the process has ended or written them."""
        return "".join(path.read_text() for path in sorted((self.folder / "log").iterdir()))


@contextmanager
def proxying(kind: str, upstream: str) -> Iterator[Proxy]:
    """Run a proxy in front of an address, or of several with blanks between them."""
    program = shutil.which(kind) or shutil.which(kind, path="/usr/sbin")
    if program is None:
        pytest.skip(f"there is no {kind} on this machine: this lane was not run (apt install {kind})")
    authority, port = trustme.CA(), free_port()
    with tempfile.TemporaryDirectory(prefix="ao-") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "log").mkdir()
        certificate = authority.issue_cert("127.0.0.1")
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        for part in certificate.cert_chain_pems:
            part.write_to_path(str(folder / "chain.pem"), append=True)
        context = ssl.create_default_context()
        authority.configure_trust(context)
        arguments = PROXIES[kind](folder, upstream, port)
        output = stack.enter_context((folder / "log" / "output").open("wb"))
        process = subprocess.Popen(
            [program, *arguments],
            env={"HOME": name, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        wait_for(process, port, folder / "log" / "output")
        yield Proxy(folder, port, context)


@pytest.fixture(params=PROXIES)
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    """A function that runs a proxy in front of an address."""
    with ExitStack() as stack:
        yield lambda upstream: stack.enter_context(proxying(request.param, upstream))


def test_a_drop_goes_through_the_proxy(stage: Stage, front: Front) -> None:
    event = stage.create_event(capacity=2)
    path = f"/api/p/{event['slug']}"
    proxy = front(urlsplit(stage.url).netloc)
    with proxy.client() as client:
        made = client.post(f"{path}/register", json={"name": "User"}, headers={"prefer": "wait=20"})
        mine = bearer(made.json()["receiptId"])
        tag = {"if-none-match": client.get(f"{path}/receipt", headers=mine).headers["etag"]}
        waited = client.get(f"{path}/receipt?wait=1", headers={**mine, **tag})
        by_path = client.get(made.headers["location"])
        upper = client.get(made.headers["location"].replace("receipts", "RECEIPTS"))
        cancelled = client.delete(f"{path}/receipt", headers=mine)
        exported = client.get(f"/api/events/{event['id']}/export", headers=stage.admin)
        found = client.get(f"/api/events/{event['id']}/registrations?q=Zacharias", headers=stage.admin)
        by_api = client.post(f"{path}/register", json={"name": "U" * 20_000})
        by_proxy = client.post(f"{path}/register", json={"name": "U" * 500_000})
        private = client.get("/metrics")
    with stage.client() as client:
        direct = client.get(f"/api/events/{event['id']}/export", headers=stage.admin)

    assert (made.status_code, made.json()["status"], waited.status_code) == (201, "CONFIRMED", 304)
    assert (by_path.status_code, upper.status_code, found.status_code) == (200, 404, 200)
    assert cancelled.json()["status"] == "CANCELLED"
    assert (exported.status_code, exported.text) == (200, direct.text)
    assert (by_api.status_code, by_api.json()["code"]) == (413, "BODY_TOO_LARGE")
    assert by_proxy.status_code == 413
    assert private.status_code == 401
    logs = proxy.logs()
    assert f"{path}/register" in logs
    assert logs.count(f"{path}/receipts/") >= 1
    assert "Zacharias" not in logs
    assert not [s for s in spellings(UUID(made.json()["receiptId"])) if s in logs.encode()]


def test_no_secret_is_in_a_log_of_errors(front: Front) -> None:
    receipt = "01a21425-ee83-7c40-98c6-b476ef478e89"
    proxy = front(f"127.0.0.1:{free_port()}")  # an address where no API is
    with proxy.client() as client:
        answers = [
            client.get(f"/api/p/drop/receipts/{receipt}"),
            client.request("DELETE", f"/api/p/drop/receipts/{receipt}?x={receipt}"),
            client.get("/api/p/drop/receipt", headers=bearer(receipt)),
            client.patch(f"/api/p/drop/receipts/{receipt}", content=b"x" * 100_000),
            client.get(f"/api/p/drop/receipts%2F{receipt}"),
            client.get(f"/api/p/drop/receipts/%0A{receipt}"),
            client.get(f"/api/p/drop/receip%74s/{receipt}"),
            client.get(f"/api/events/{receipt}/registrations?q={receipt}"),
            client.get("/api/p/drop"),
        ]

    logs = proxy.logs()
    assert {answer.status_code for answer in answers} <= {502, 503, 413}
    assert "/api/p/drop/receipts/" in logs
    assert logs.count(receipt) == logs.count(f"/api/events/{receipt}/registrations")


def test_a_redirection_logs_no_receipt() -> None:
    receipt = "01a21425-ee83-7c40-98c6-b476ef478e89"
    with proxying("nginx", f"127.0.0.1:{free_port()}") as proxy:
        (port,) = re.findall(r"listen 127\.0\.0\.1:(\d+);", (proxy.folder / "site.conf").read_text())
        with socket.create_connection(("127.0.0.1", int(port)), 10) as client:
            client.sendall(
                f"PATCH /api/p/drop/receipts/{receipt} HTTP/1.1\r\nHost: {NAME}\r\n"
                "Transfer-Encoding: chunked\r\n\r\nno chunk\r\n".encode()
            )
            assert client.recv(12) == b"HTTP/1.1 400"

        assert receipt not in proxy.logs()


class Upstream(BaseHTTPRequestHandler):
    """Answers with the headers of the request and the number of its connection."""

    protocol_version = "HTTP/1.1"
    connections: ClassVar[list[socket.socket]] = []

    def setup(self) -> None:
        super().setup()
        self.connections.append(self.request)

    def do_GET(self) -> None:
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        body = json.dumps({"headers": headers, "connections": len(self.connections)}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(port: int) -> Iterator[int]:
    """Run such a server at a port, and end it with its connections."""
    with ThreadingHTTPServer(("127.0.0.1", port), Upstream) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()
    for connection in Upstream.connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def upstream() -> Iterator[str]:
    """The address of a server that tells what it got."""
    Upstream.connections.clear()
    with serving(0) as port:
        yield f"127.0.0.1:{port}"


def test_a_restart_is_not_noticed_for_long(front: Front) -> None:
    first, second = free_port(), free_port()
    proxy = front(f"127.0.0.1:{first} 127.0.0.1:{second}")
    with proxy.client() as client:
        with serving(first):
            client.get("/")
            time.sleep(2)  # the other one is found to be away
            meanwhile = [client.get("/").status_code for _ in range(20)]
        with serving(second):
            until = time.monotonic() + 5
            while (status := client.get("/").status_code) != 200 and time.monotonic() < until:
                time.sleep(0.1)

    assert meanwhile == [200] * 20
    assert status == 200


def test_a_client_cannot_choose_its_address(front: Front, upstream: str) -> None:
    claims = {
        "x-forwarded-for": "203.0.113.7",
        "forwarded": "for=203.0.113.7",
        "x-forwarded-proto": "http",
    }
    proxy = front(upstream)
    with proxy.client() as client:
        told: list[Json] = [client.get("/", headers=claims).json() for _ in range(3)]

    for each in told:
        got = [value for name, value in each["headers"] if name == "x-forwarded-for"]
        assert got == ["127.0.0.1"]
        assert "203.0.113.7" not in str(each)
        assert ["x-forwarded-proto", "https"] in each["headers"]
    assert told[-1]["connections"] <= 2, "connections to the API are kept; Caddy's checks may need another"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
def test_clients_may_speak_http2(front: Front, upstream: str) -> None:
    proxy = front(upstream)
    command = ["curl", "-sk", "--http2", "-o", "/dev/null", "-w", "%{http_version}", proxy.url]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "2"


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        (NGINX, r"proxy_read_timeout (\d+)s;"),
        (CADDY, r"response_header_timeout (\d+)s\n"),
    ],
    ids=["nginx", "caddy"],
)
def test_a_proxy_waits_longer_than_a_request(text: str, setting: str) -> None:
    (seconds,) = re.findall(setting, text)
    assert int(seconds) > LATEST_SECONDS
