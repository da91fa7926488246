"""The addresses of clients, behind proxies too: each client is one text.

A header that names the client is believed only from a trusted proxy, and read from its right end: each
trusted hop names the one before it. The part left of the first hop that is not trusted may be made up.
`X-Forwarded-For` counts where it is there, else `Forwarded` (RFC 7239): a proxy that writes one of them often
hands the other one on as its client sent it (decision 0069).
"""

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

from starlette.types import Scope

_IPV6_NETWORK_BITS = 64
"""One client usually has a whole network of this size."""
_REMEMBERED_MAX = 10_000
_HOPS_MAX = 20
_X_FORWARDED_FOR = b"x-forwarded-for"
_FORWARDED = b"forwarded"
# A hop of `Forwarded` as it is read from the right, so that no quote that a client left open counts; its
# parameters; and the one with the node that sent the request. A quoted string may hold commas and semicolons.
_ELEMENT_REVERSED = re.compile(r'(?:[^,"]|"(?:[^"]|"(?=\\))*"?)+')
_PARAMETER = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*"?)+')
_NODE = re.compile(r'\s*for\s*=\s*("?)([^"\s]+)\1\s*', re.IGNORECASE)
# An address as proxies write it: IPv6 bare or in brackets, a port behind it.
_ADDRESS = re.compile(
    r"\[(?P<bracketed>[^\]]*)\](?::\d+)?|(?P<ipv4>[\d.]+)(?::\d+)?|(?P<bare>[0-9a-fA-F:.]+)"
)

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAPPED_BITS = 96
"""The bits in front of an IPv4 address in IPv6 form."""


class Addresses:
    """Tells clients apart by their addresses; `trusted` are the networks of the proxies in front."""

    def __init__(self, trusted: Iterable[str]) -> None:
        networks = [_network(network) for network in trusted]
        self.has_proxies = bool(networks)

        @lru_cache(_REMEMBERED_MAX)
        def is_trusted(address: _Address) -> bool:
            return any(address in network for network in networks)

        self._is_trusted = is_trusted

    def client(self, scope: Scope) -> str:
        """Return the client that sent a request: its address, of an IPv6 address its network."""
        peer = scope["client"]
        if not self.has_proxies:
            return "" if peer is None else _client(peer[0])
        address = None if peer is None else _parsed(peer[0])
        if peer is None or (address is not None and self._is_trusted(address)):  # a socket's peer is local
            for hop in _hops(scope):
                before = _parsed(hop)
                if before is None:  # hidden or unknown: the proxy is the last that is known
                    break
                address = before
                if not self._is_trusted(before):
                    break
        return _client("" if peer is None else peer[0]) if address is None else _client(str(address))


def is_public(client: str) -> bool:
    """Return True unless machines share the address by design: loopback, private, or none at all."""
    try:
        return ipaddress.ip_network(client).is_global
    except ValueError:
        return False


@lru_cache(_REMEMBERED_MAX)
def _client(address: str) -> str:
    parsed = _parsed(address)
    if parsed is None:
        return address  # of a socket that is no internet socket
    if isinstance(parsed, ipaddress.IPv4Address) or parsed.is_loopback:
        return str(parsed)
    return str(ipaddress.ip_network((int(parsed), _IPV6_NETWORK_BITS), strict=False))


def _network(text: str) -> _Network:
    """Return the network, of an IPv4 network in IPv6 form the IPv4 network."""
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def _parsed(text: str) -> _Address | None:
    """Return the address, of an IPv4 address in IPv6 form the IPv4 address; None for a text that is none."""
    match = _ADDRESS.fullmatch(text.partition("%")[0].strip())
    if match is None:
        return None
    try:
        address = ipaddress.ip_address(match["bracketed"] or match["ipv4"] or match["bare"] or "")
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _hops(scope: Scope) -> list[str]:
    """Return the hops that a request went through, the latest first."""
    lines: dict[bytes, list[str]] = {name: [] for name in (_X_FORWARDED_FOR, _FORWARDED)}
    for name, value in scope["headers"]:
        if name in lines:
            lines[name].append(value.decode("latin-1"))
    if lines[_X_FORWARDED_FOR]:
        return ",".join(lines[_X_FORWARDED_FOR]).rsplit(",", _HOPS_MAX)[: -_HOPS_MAX - 1 : -1]
    elements = _ELEMENT_REVERSED.findall(",".join(lines[_FORWARDED])[::-1])[:_HOPS_MAX]
    return [_node(element[::-1]) for element in elements]


def _node(element: str) -> str:
    """Return the node for which a hop speaks, the empty text if it names none."""
    nodes = (_NODE.fullmatch(parameter) for parameter in _PARAMETER.findall(element))
    return next((node[2] for node in nodes if node), "")
