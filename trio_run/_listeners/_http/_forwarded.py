"""Which proxies are believed when they say whose request it is: X-Forwarded-For and
X-Forwarded-Proto.

Each proxy appends the address that it was asked from to X-Forwarded-For. So what counts is the last
one in it that is none of our own proxies: what stands before that may have been written by anybody.
Of X-Forwarded-Proto the last counts, which is what the proxy in front of us has written.

The meaning is Uvicorn's, but that this reads a list of schemes, and takes only an address for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any

from .._bind import format_host

if TYPE_CHECKING:
    from ._refusal import Headers

_SCHEMES = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}
_ENTRY = re.compile(  # some write a port behind it
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<ipv4>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?"
    r"|(?P<bare>[0-9A-Fa-f:.]+)"
)
_HIGHEST_PORT = 65535
_MAPPED = 96  # bits before an IPv4 address that is written as IPv6


class Proxies:
    """Those that are believed.

    Args:
      addresses: of theirs, or networks; or "*" for whoever asks.

    Raises:
      TypeError, ValueError: if one is none.
    """

    def __init__(self, addresses: str | Iterable[str]) -> None:
        if isinstance(addresses, str):
            addresses = filter(None, map(str.strip, addresses.split(",")))
        if not isinstance(addresses, Iterable):
            raise _no_strings(addresses)
        self._has_all = False
        self._networks: list[IPv4Network | IPv6Network] = []
        for each in addresses:
            if not isinstance(each, str):
                raise _no_strings(addresses)
            if each == "*":
                self._has_all = True
                continue
            try:
                self._networks.append(_network(each))
            except ValueError as exc:
                raise ValueError(
                    f'forwarded_allow_ips takes addresses, networks or "*": {exc}'
                ) from None

    def __bool__(self) -> bool:
        return self._has_all or bool(self._networks)

    def has(self, client: Any) -> bool:
        """Is this peer, (host, port), or None on a Unix socket, one of them?"""
        return self._has_all or (client is not None and self._has_host(client[0]))

    def _has_host(self, host: str) -> bool:
        address = ip_address(host)
        # On a socket for both, IPv4 is written as IPv6.
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._networks)

    def believe(self, scope: dict[str, Any]) -> str:
        """Have the scope say what the proxy says of the client and the scheme, where it does.

        Returns the client, "" if it is not known.
        """
        headers: Headers = scope["headers"]
        scheme = _list(headers, b"x-forwarded-proto")[-1].strip().lower()
        scope["scheme"] = _SCHEMES.get(scheme, scope["scheme"])
        client = self._client(_list(headers, b"x-forwarded-for"))
        if client:
            scope["client"] = (client, 0)
        return client

    def _client(self, hosts: list[bytes]) -> str:
        """Of this list, the last that is no proxy of ours, or else the first.

        "" if what counts is no address.
        """
        host = ""
        for each in reversed(hosts):
            host = _host(each)
            if not host or not (self._has_all or self._has_host(host)):
                break
        return host


def _no_strings(addresses: object) -> TypeError:
    return TypeError(
        'forwarded_allow_ips must be strings, of addresses or networks or "*", or () for nobody, '
        f"not {addresses!r}"
    )


def _network(text: str) -> IPv4Network | IPv6Network:
    network = ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return network if mapped is None else IPv4Network((mapped, network.prefixlen - _MAPPED))


def _list(headers: Headers, name: bytes) -> list[bytes]:
    """Its entries, of several headers of that name too."""
    return b",".join(value for each, value in headers if each == name).split(b",")


def _host(text: bytes) -> str:
    """The address in an entry, "" if it is none."""
    entry = _ENTRY.fullmatch(text.strip().decode("latin-1"))
    if entry is None or int(entry["port"] or 0) > _HIGHEST_PORT:
        return ""
    try:
        if entry["ipv6"]:
            return format_host(IPv6Address(entry["ipv6"]))
        return format_host(ip_address(entry["ipv4"] or entry["bare"]))
    except ValueError:
        return ""
