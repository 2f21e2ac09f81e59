"""The handshake of a WebSocket: what the client asks for, and how it is accepted.

Whether it is accepted is for the app to decide: see _websocket. The protocol is that of the library
websockets.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.extensions.permessage_deflate import enable_server_permessage_deflate
from websockets.headers import parse_subprotocol
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from ._refusal import Refusal, date_line
from ._response import is_header

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from ._parser import Parser

_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_VERSION = b"13"
_UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
_OURS = (b"sec-websocket-accept", b"sec-websocket-extensions", b"sec-websocket-protocol")
_EXTENSIONS = enable_server_permessage_deflate(None)
_logger = logging.getLogger("trio_run.websocket")  # what the library would log
_logger.addHandler(logging.NullHandler())
_logger.propagate = False


class Handshake:
    """What the client asks for.

    Args:
      request: it, whose head has been read.
      max_size: bytes of a message.

    Raises:
      Refusal: if it is no handshake.
    """

    def __init__(self, request: Parser, max_size: int) -> None:
        # Chunks are no body either: whether those that say so have arrived yet is a matter of
        # chance.
        if not request.is_whole or any(name == b"transfer-encoding" for name, _ in request.headers):
            raise Refusal(400, "a WebSocket handshake has no body")
        own = [each for each in request.headers if each[0].startswith(b"sec-websocket-")]
        keys = [value for name, value in own if name == b"sec-websocket-key"]
        if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
            raise Refusal(400, "Sec-WebSocket-Key must be 16 bytes in base64")
        versions = [value for name, value in own if name == b"sec-websocket-version"]
        if versions != [_VERSION]:
            hints = [(b"Sec-WebSocket-Version", _VERSION), (b"Upgrade", b"websocket")]
            raise Refusal(426 if versions else 400, "the WebSocket version must be 13", hints)
        headers = Headers([*_UPGRADE, *((name.decode(), _text(value)) for name, value in own)])
        # In no other state will it read frames.
        self.protocol = ServerProtocol(
            state=State.OPEN, extensions=_EXTENSIONS, max_size=max_size, logger=_logger
        )
        try:
            self.subprotocols = [
                str(each)
                for value in headers.get_all("sec-websocket-protocol")
                for each in parse_subprotocol(value)
            ]
            self._accept, self._extensions, _ = self.protocol.process_request(Request("/", headers))
        except InvalidHandshake:
            raise Refusal(400, "this is no WebSocket handshake") from None

    def accept(self, message: MutableMapping[str, Any]) -> bytes:
        """The answer to it, by the app's websocket.accept.

        Raises:
          AttributeError, TypeError, ValueError: if there can be no such answer.
        """
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and subprotocol not in self.subprotocols:
            raise ValueError(f"the client does not speak the subprotocol {subprotocol!r}")
        lines = [
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n",
            b"sec-websocket-accept: %b\r\n" % self._accept.encode(),
            date_line(),
        ]
        if self._extensions:
            lines.append(b"sec-websocket-extensions: %b\r\n" % self._extensions.encode())
        if subprotocol is not None:
            lines.append(b"sec-websocket-protocol: %b\r\n" % subprotocol.encode())
        for name, value in message.get("headers", ()):
            if not is_header(name, value) or name.lower() in _OURS:
                raise ValueError(f"{name!r}: {value!r} is no header for an app to send")
            lines.append(b"%b: %b\r\n" % (name, value))
        return b"".join([*lines, b"\r\n"])


def _text(value: bytes) -> str:
    try:
        return value.decode("ascii")
    except UnicodeDecodeError:
        raise Refusal(400, "a WebSocket handshake is in ASCII") from None
