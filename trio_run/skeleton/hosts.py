"""Hosts: which pages in a browser may ask us.

Decides by the two headers that a browser sends, and no page can change. Host is where the browser
believes to be. A page of another site can have its own name lead to our address, and the browser
then takes us for that site, and gives the page what we answer: so the name has to be one of ours.
Origin is the page that asks, where it is not plain reading: so that has to be one of ours, too.

Ours are ``localhost`` and its addresses, the address that was connected to, and the names that are
configured. A program that is no browser can send what it likes; it is not what this keeps out.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable


class Hosts:
    """By what names we may be asked for.

    Args:
      names: those that are ours, beside localhost and our addresses.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = {"localhost", *(name.lower() for name in names)}

    def is_ours(self, host: bytes | None, address: str) -> bool:
        """Is a Host header ours, on a connection to that address of ours?"""
        return host is not None and self._is_ours(f"//{host.decode('latin-1')}", address)

    def is_our_page(self, origin: bytes | None, address: str) -> bool:
        """Is an Origin header ours, or none, on a connection to that address of ours?"""
        return origin is None or self._is_ours(origin.decode("latin-1"), address)

    def _is_ours(self, url: str, address: str) -> bool:
        try:
            name = urlsplit(url).hostname or ""
        except ValueError:
            return False
        ip = _ip(name)
        return name in self._names or (ip is not None and (ip.is_loopback or ip == _ip(address)))


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """As an address, if it is one."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip  # how IPv6's interfaces show a client of IPv4
