"""Which proxies are believed when they say whose request it is: X-Forwarded-For and
X-Forwarded-Proto.

The meaning is Uvicorn's. Each proxy appends the address that it was asked from to X-Forwarded-For.
So what counts is the last one in it that is none of our own proxies: what stands before that may
have been written by anybody.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._refusal import Headers

_SCHEMES = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}


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
        addresses = list(addresses)
        self._has_all = "*" in addresses
        self._networks: list[IPv4Network | IPv6Network] = []
        for each in addresses:
            if not isinstance(each, str):
                raise TypeError(f"forwarded_allow_ips must be addresses or networks, not {each!r}")
            if each != "*":
                try:
                    self._networks.append(ip_network(each))
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
        schemes = [value.strip() for name, value in headers if name == b"x-forwarded-proto"]
        if len(schemes) == 1:
            scope["scheme"] = _SCHEMES.get(schemes[0], scope["scheme"])
        hosts = b",".join(value for name, value in headers if name == b"x-forwarded-for")
        client = self._client(hosts)
        if client:
            scope["client"] = (client, 0)
        return client

    def _client(self, hosts: bytes) -> str:
        """Of this list, the last that is no proxy of ours, or else the first.

        "" if what counts is no address.
        """
        host = ""
        for each in reversed(hosts.split(b",")):
            host = _host(each)
            if not host or not (self._has_all or self._has_host(host)):
                break
        return host


def _host(text: bytes) -> str:
    """Some write a port behind it."""
    host = text.strip().decode("latin-1")
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        return str(ip_address(host))
    except ValueError:
        return ""
