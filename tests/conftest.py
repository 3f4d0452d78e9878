"""The real stack: an embedded core, an upstream that remembers, and the gateway.

    async def test_x(upstream, start):
        gateway = await start(ROUTES)        # a routes.yaml, ${UPSTREAM} and ${CORE}
        user = await gateway.sign_up()
        reply = await user.get("/orders")
        ... upstream.requests ...

Everything talks over loopback sockets, and the SDK is the real one. While a gateway
runs, a blocking call in it fails the test (`no_blocking`).
"""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path

import faults
import hypothesis
import pytest
import sdk_reset
from any_core import URI, GivenCore
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from faults import FaultUpstream, answer
from stack import Gateway, Start, no_blocking, running

from gateway.dev.core import ThreadedCore, serve_in_thread

# Hypothesis bounds an example to 200 ms, and gives up when examples are made slowly. On
# a busy machine both happen to sound code.
hypothesis.settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def shared_core() -> Iterator[ThreadedCore]:
    """Return the core that all end-to-end tests share; each makes its own users."""
    with serve_in_thread() as running_core:
        yield running_core


@pytest.fixture
def st_core(request: pytest.FixtureRequest) -> Iterator[ThreadedCore | GivenCore]:
    """Return the shared core; what a test turns off is on again afterwards.

    For a test marked `any_core` it is the core that is named from outside, if one is.
    """
    if URI is not None and request.node.get_closest_marker("any_core"):
        yield GivenCore(URI)
        return
    shared_core: ThreadedCore = request.getfixturevalue("shared_core")
    yield shared_core
    shared_core.core.faults.clear()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Return a port that refuses connections as long as the test runs."""
    with faults.closed_port() as port:
        yield port


@pytest.fixture
async def upstream() -> AsyncIterator[FaultUpstream]:
    """Return an upstream that answers 200 `ok` until told otherwise."""
    async with FaultUpstream(answer()) as running_upstream:
        yield running_upstream


@pytest.fixture
async def start(
    st_core: ThreadedCore | GivenCore, upstream: FaultUpstream, tmp_path: Path
) -> AsyncIterator[Start]:
    """Return what runs a gateway from the text of a routes.yaml, one in a test.

    In the text, `${CORE}` is the core and `${UPSTREAM}` the upstream; further
    variables come as keywords. Without *guard*, blocking calls aren't looked for.
    """
    sdk_reset.reset()
    async with AsyncExitStack() as opened:

        async def run(text: str, *, guard: bool = True, **variables: str) -> Gateway:
            path = tmp_path / "routes.yaml"
            path.write_text(text, encoding="utf-8")
            environ = {"CORE": st_core.url, "UPSTREAM": upstream.url, **variables}
            gateway = await opened.enter_async_context(running(path, environ, st_core))
            if guard:
                opened.enter_context(no_blocking())
            return gateway

        yield run
    sdk_reset.reset()


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """Return the context of a server whose certificate nobody has signed but itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
