"""X-Forwarded-For and X-Forwarded-Proto: who is believed, and what."""

import ipaddress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_run import HTTPListener
from trio_run._listeners._http._forwarded import Proxies

from ..http_serving import Client, answer, only_http, request, serving_app
from ..serving import HOST, lines_of

PROXY = ("10.0.0.1", 4711)


def believed(proxies: Any, *headers: tuple[str, str], scheme: str = "http") -> tuple[Any, Any]:
    """The client and the scheme, if the proxy sends this."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"client": PROXY, "scheme": scheme, "headers": raw}
    Proxies(proxies).believe(scope)
    return scope["client"], scope["scheme"]


@pytest.mark.parametrize(
    ("sent", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        (" 192.0.2.7 ", "192.0.2.7"),
        ("1.2.3.4, 192.0.2.7", "192.0.2.7"),  # what stands before may have been made up
        ("192.0.2.7, 10.0.0.9, 10.1.2.3", "192.0.2.7"),  # through proxies of ours
        ("10.0.0.9, 10.0.0.8", "10.0.0.9"),
        ("2001:DB8::7", "2001:db8::7"),
        ("[2001:db8::7]:80", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("192.0.2.7:80", "192.0.2.7"),
        ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7"),  # as a socket for both writes it
        ("192.0.2.7, ::ffff:10.0.0.9", "192.0.2.7"),
        ("192.0.2.7, unknown", None),
        ("192.0.2.7, _hidden", None),
        ("unknown, 192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:abc", None),
        ("192.0.2.7:", None),
        ("192.0.2.7:65536", None),
        ("192.0.2.7 80", None),
        ("192.0.2.007", None),
        ("[192.0.2.7]", None),
        ("[::1", None),
        ("[::1]80", None),
        ("[::1]:x", None),
        ("[]:80", None),
        ("::1]", None),
        ("fe80::1%eth0", None),
        ("[fe80::1%eth0]:80", None),
        ("192.0.2.7,", None),
        ("", None),
        ("\xff\x00", None),
        ("\xb2.0.0.1", None),  # Python takes it for a digit
    ],
)
def test_the_client_is_the_last_that_is_no_proxy(sent: str, client: str | None) -> None:
    expected = PROXY if client is None else (client, 0)
    assert believed("10.0.0.0/8", ("x-forwarded-for", sent))[0] == expected


@given(
    st.text("0123456789abcf:.[]%, x\xb2", max_size=40), st.sampled_from(["*", "10.0.0.0/8", "::/0"])
)
@example("1.2.3.4:80:80", "*")
def test_whatever_is_sent_the_client_is_an_address(sent: str, proxies: str) -> None:
    host, _ = believed(proxies, ("x-forwarded-for", sent))[0]
    assert "%" not in host
    ipaddress.ip_address(host)


def test_several_headers_are_one_list() -> None:
    headers = [("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "192.0.2.7")]
    assert believed("10.0.0.1", *headers)[0] == ("192.0.2.7", 0)
    assert believed("*", *headers)[0] == ("1.2.3.4", 0)


@pytest.mark.parametrize(
    ("sent", "scheme"),
    [
        (["https"], "https"),
        ([" http "], "http"),
        (["wss"], "https"),  # of a request that becomes a WebSocket it is wss again
        (["HTTPS"], "https"),
        (["https, https"], "https"),
        (["http,https"], "https"),  # the last is what the proxy itself has written
        (["https, http"], "http"),
        (["http", "https"], "https"),
        (["ftp"], "http"),
        (["https, ftp"], "http"),
        (["https,"], "http"),
        ([], "http"),
    ],
)
def test_the_scheme(sent: list[str], scheme: str) -> None:
    headers = [("x-forwarded-proto", each) for each in sent]
    assert believed("*", *headers) == (PROXY, scheme)


@pytest.mark.parametrize(
    ("proxies", "peer", "has"),
    [
        ((), "10.0.0.1", False),
        ("", "10.0.0.1", False),
        ("*", "10.0.0.1", True),
        (["127.0.0.1", "*"], "10.0.0.1", True),
        ("127.0.0.1, 10.0.0.0/8", "10.0.0.1", True),
        (["10.0.0.1"], "10.0.0.2", False),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("10.0.0.0/8", "::ffff:11.0.0.1", False),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1", True),
        ("::ffff:10.0.0.0/104", "10.0.0.1", True),
        ("::ffff:10.0.0.0/104", "11.0.0.1", False),
        ("fe80::/10", "fe80::1%eth0", True),  # as a socket writes one of the link
        ("10.0.0.0/8", "2001:db8::1", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("*", None, True),
        ("127.0.0.1", None, False),
    ],
)
def test_who_is_one(proxies: Any, peer: str | None, has: bool) -> None:
    assert Proxies(proxies).has(peer and (peer, 4711)) is has


def test_what_is_no_address_or_network_is_refused() -> None:
    for wrong in ("localhost", ["10.0.0.1/8"], ["127.0.0.1", ""]):
        with pytest.raises(ValueError, match="forwarded_allow_ips takes"):
            HTTPListener(only_http, 0, forwarded_allow_ips=wrong)
    network = ipaddress.ip_network("0.0.0.0/0")  # it has more addresses than there is memory
    for no_strings in (None, 5, [5], b"10.0.0.1", network, [network]):
        with pytest.raises(TypeError, match="must be strings, of addresses") as raised:
            HTTPListener(only_http, 0, forwarded_allow_ips=no_strings)  # type: ignore[arg-type]
        assert str(raised.value).endswith(repr(no_strings))


@pytest.mark.parametrize("proxies", ["", "10.0.0.1", "127.0.0.0/8"])
async def test_an_app_sees_whom_its_proxy_names(
    proxies: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And nobody else is believed. Of the next request on the connection it may say another."""
    seen = []

    @only_http
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        seen.append((scope["client"], scope["scheme"]))
        if scope["type"] == "http":
            await answer(send)

    async with serving_app(app, forwarded_allow_ips=proxies) as server:
        async with await server.connect() as stream:
            own = stream.socket.getsockname()
            client = Client(stream)
            headers = ("X-Forwarded-For: 1.2.3.4, 192.0.2.7", "X-Forwarded-Proto: https")
            await client.ask(request("GET /1 HTTP/1.1", *headers))
            await client.ask(request("GET /2 HTTP/1.1", "X-Forwarded-For: 192.0.2.8"))
            await client.ask(request("GET /3 HTTP/1.1"))
            upgrade = ("Upgrade: websocket", "Connection: upgrade", "Sec-WebSocket-Version: 13")
            key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
            await client.send(request("GET /4 HTTP/1.1", *upgrade, key, *headers))
            assert (await client.read()).status == 500  # it returns without an answer
    who = [lines_of(caplog, f"/{number} HTTP")[0].getMessage().split()[0] for number in (1, 2, 3)]
    at = f"{HOST}:{own[1]}"
    if proxies.startswith("127"):
        assert seen == [
            (("192.0.2.7", 0), "https"),
            (("192.0.2.8", 0), "http"),
            (own, "http"),
            (("192.0.2.7", 0), "wss"),
        ]
        assert who == ["192.0.2.7", "192.0.2.8", at]
    else:
        assert seen == [(own, "http")] * 3 + [(own, "ws")]
        assert who == [at] * 3
