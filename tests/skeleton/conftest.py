"""Fixtures that the tests of the skeleton share."""

import ssl

import pytest
import trustme


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("localhost")


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    """A client's, that trusts the certificate."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
