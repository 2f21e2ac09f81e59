"""Guard: who may ask, and who may stop the group.

A page of another site can have its own name lead to our address: a browser then gives it what we
answer. So the name under which we are asked (Host) has to be one of ours: localhost and its
addresses, the address that was connected to, what the page listens on, the name of this machine,
and the names that the program gives. A stop is a POST from our own page (Origin), with the token
that no other page can read. A program that is no browser can read it, and send what it likes: it is
not what this keeps out.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable


class Guard:
    """Judges requests by their headers.

    Args:
      host: what the page listens on.
      names: further names of ours.
    """

    def __init__(self, host: str | None, names: Iterable[str] = ()) -> None:
        ours = ["localhost", socket.gethostname(), *([host] if host else []), *names]
        self._names = {name.lower() for name in ours}
        self.token = secrets.token_urlsafe(32)

    def is_asked_as_us(self, headers: dict[bytes, bytes], address: str | None) -> bool:
        """Is the Host ours, on a connection to that address? None is of a Unix socket."""
        if address is None:  # no browser gets there by itself
            return True
        try:
            name = urlsplit(f"//{headers.get(b'host', b'').decode('latin-1')}").hostname or ""
        except ValueError:
            return False
        ip = _ip(name)
        return name in self._names or (
            ip is not None and (ip.is_loopback or ip == _ip(address.partition("%")[0]))
        )

    def may_stop(self, headers: dict[bytes, bytes]) -> bool:
        """Does it come from our page?"""
        origin, host = headers.get(b"origin"), headers.get(b"host", b"")
        is_ours = origin is None or origin in (b"http://" + host, b"https://" + host)
        return is_ours and hmac.compare_digest(
            headers.get(b"x-stop-token", b""), self.token.encode()
        )


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """As an address, if it is one."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip  # how IPv6's interfaces show a client of IPv4
