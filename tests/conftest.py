"""What holds for all tests."""

import signal
import ssl

import pytest
import trustme

# Who is started in the background by a shell inherits an ignored SIGINT, and hands it on to the
# programs under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, and a client's that trusts it."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    # Debian's Python takes an end without a close_notify for a clean one, if it is not forbidden
    # to.
    client.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return server, client
