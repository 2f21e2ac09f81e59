"""The page itself: its bytes, and the policy that allows it its own script and style alone."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from importlib import resources

from ._answer import Answer


def page(name: str, token: str | None) -> Answer:
    """The page of a group.

    Args:
      name: the group's, for the title.
      token: with which it may stop the group; None if it may not.
    """
    source = resources.files(__package__).joinpath("page.html").read_text("utf-8")
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "connect-src 'self'; img-src data:;"
    )
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        policy += f" {tag}-src 'sha256-{digest}';"
    source = source.replace("{{TOKEN}}", token or "").replace("{{NAME}}", html.escape(name))
    headers = {
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
    }
    body = source.encode(errors="backslashreplace")
    return Answer(200, body, "text/html; charset=utf-8", headers)
