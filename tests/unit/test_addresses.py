"""The addresses of clients: by the peer, and by headers of trusted proxies only."""

import pytest

from api.protection import addresses
from api.protection.addresses import Addresses

PROXIES = ("10.0.0.0/8", "127.0.0.1", "2001:db8:ffff::/48")


def client(peer: str | None, *headers: tuple[str, str], trusted: tuple[str, ...] = PROXIES) -> str:
    """Return the client of a request from this peer, with these headers."""
    scope = {
        "client": None if peer is None else (peer, 4711),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }
    return Addresses(trusted).client(scope)


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::9", "2001:db8:0:1::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        ("testclient", "testclient"),
        (None, ""),
    ],
)
def test_a_peer_is_an_address_or_a_network(peer: str | None, expected: str) -> None:
    assert client(peer) == client(peer, trusted=()) == expected


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded"])
@pytest.mark.parametrize("peer", ["192.0.2.1", "11.0.0.1", "127.0.0.2", "2001:db8:fffe::1"])
def test_headers_of_other_peers_do_not_count(name: str, peer: str) -> None:
    spoofed = "for=" * (name == "Forwarded") + "203.0.113.9"

    assert client(peer, (name, spoofed)) == client(peer)
    assert client("10.0.0.1", (name, spoofed), trusted=()) == "10.0.0.1"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9, 10.0.0.2,10.0.0.3", "203.0.113.9"),
        ("10.0.0.9, 10.0.0.2", "10.0.0.9"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8:0:1::1]:443", "2001:db8:0:1::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, unknown", "10.0.0.1"),
        ("203.0.113.9, unknown, 10.0.0.2", "10.0.0.2"),
        ("203.0.113.9, 10.0.0.2, ", "10.0.0.1"),
        ("203.0.113.300", "10.0.0.1"),
        ("", "10.0.0.1"),
        (", ".join(["203.0.113.9", *["10.0.0.2"] * 50]), "10.0.0.2"),
    ],
)
def test_a_trusted_proxy_names_the_client(sent: str, expected: str) -> None:
    assert client("10.0.0.1", ("X-Forwarded-For", sent)) == expected
    assert client("::ffff:10.0.0.1", ("X-Forwarded-For", sent)) in {expected, "10.0.0.1"}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("for=203.0.113.9", "203.0.113.9"),
        ('For="203.0.113.9:4711";proto=http;by=10.0.0.7', "203.0.113.9"),
        ('for=1.1.1.1, proto=https;for="[2001:db8:0:1::1]:4711"', "2001:db8:0:1::/64"),
        ("for=203.0.113.9, for=10.0.0.2;by=1.1.1.1", "203.0.113.9"),
        ('for=203.0.113.9;host="a,for=1.1.1.1"', "203.0.113.9"),
        ('proto=http;host="a;for=1.1.1.1;b";for=203.0.113.9', "203.0.113.9"),
        ('host="a;for=1.1.1.1;b"', "10.0.0.1"),
        (r'host="a\";for=1.1.1.1;b=\"";for=203.0.113.9', "203.0.113.9"),
        (r'for=1.1.1.1;host="a\", b", for=203.0.113.9;host="\"c"', "203.0.113.9"),
        ('for=1.1.1.1;host=", for=203.0.113.9', "203.0.113.9"),
        ('for=1.1.1.1;host=", for="203.0.113.9:4711";host="a"', "203.0.113.9"),
        (r'for=1.1.1.1;host="\", for=203.0.113.9;host="a"', "203.0.113.9"),
        ("for=203.0.113.9, for=_hidden", "10.0.0.1"),
        ("for=203.0.113.9, by=10.0.0.2", "10.0.0.1"),
        (", ".join(["for=203.0.113.9", *["for=10.0.0.2"] * 50]), "10.0.0.2"),
    ],
)
def test_forwarded_names_the_client(sent: str, expected: str) -> None:
    assert client("10.0.0.1", ("Forwarded", sent)) == expected


def test_all_lines_of_a_header_count() -> None:
    lines = ("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "10.0.0.2")

    assert client("10.0.0.1", *lines) == "203.0.113.9"
    assert client("10.0.0.1", *reversed(lines)) == "203.0.113.9"


def test_one_header_counts_before_the_other() -> None:
    spoofed = "Forwarded", "for=1.1.1.1"

    assert client("10.0.0.1", spoofed, ("X-Forwarded-For", "203.0.113.9")) == "203.0.113.9"


def test_the_peer_of_a_local_socket_is_a_proxy() -> None:
    assert client(None, ("X-Forwarded-For", "203.0.113.9")) == "203.0.113.9"
    assert client(None, ("X-Forwarded-For", "203.0.113.9"), trusted=()) == ""


@pytest.mark.parametrize("network", ["::ffff:10.0.0.0/104", "::ffff:10.0.0.1"])
def test_a_proxy_may_have_an_ipv6_form(network: str) -> None:
    for peer in ("10.0.0.1", "::ffff:10.0.0.1"):
        assert client(peer, ("X-Forwarded-For", "203.0.113.9"), trusted=(network,)) == "203.0.113.9"
        assert client("11.0.0.1", ("X-Forwarded-For", "203.0.113.9"), trusted=(network,)) == "11.0.0.1"


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::/64", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("fe80::/64", False),
        ("testclient", False),
        ("", False),
    ],
)
def test_private_addresses_are_not_public(text: str, public: bool) -> None:  # noqa: FBT001 - a parameter
    assert addresses.is_public(text) is public
