"""Fixtures for a whole stack: embedded core, recording upstream, and gateway.

    async def test_x(upstream, start):
        gateway = await start(ROUTES)        # a routes.yaml, ${UPSTREAM} and ${CORE}
        user = await gateway.sign_up()
        reply = await user.get("/orders")
        ... upstream.requests ...

All of them use loopback sockets, and the SDK is the real one. While a gateway runs, a
blocking call in it fails the test (`no_blocking`).
"""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path

import faults
import hypothesis
import pytest
import sdk_reset
from any_core import URI, ExternalCore, skip_if_sdk_met_paid
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fake_time import MovableClock
from faults import FaultUpstream, answer
from stack import Gateway, Start, no_blocking, running

from gateway.dev.core import ThreadedCore, serve_in_thread

# By default Hypothesis fails an example after 200 ms, and fails a test whose examples
# are generated slowly. On a busy machine both happen to correct code.
hypothesis.settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any machine")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests of the embedded core's strictness if there is another core."""
    if URI is not None and item.get_closest_marker("embedded"):
        pytest.skip("holds what only the embedded core refuses")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Skip a test if the SDK says that the core has no licence for a feature."""
    try:
        return (yield)
    except Exception as error:
        if item.get_closest_marker("any_core"):
            skip_if_sdk_met_paid(error)
        raise


@pytest.fixture
async def clock() -> MovableClock:
    """Return the clock of the test's loop, which the test can move forward."""
    return MovableClock()


@pytest.fixture(scope="session")
def shared_core() -> Iterator[ThreadedCore]:
    """Return the core that all end-to-end tests share; each creates its own users."""
    with serve_in_thread() as running_core:
        yield running_core


@pytest.fixture
def st_core(request: pytest.FixtureRequest) -> Iterator[ThreadedCore | ExternalCore]:
    """Return the shared core; faults that a test sets are cleared afterwards.

    A test marked `any_core` gets the external core, if there is one.
    """
    if URI is not None and request.node.get_closest_marker("any_core"):
        yield ExternalCore(URI)
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
    """Return an upstream that answers 200 `ok` unless its `behaviour` is changed."""
    async with FaultUpstream(answer()) as running_upstream:
        yield running_upstream


@pytest.fixture
async def start(
    st_core: ThreadedCore | ExternalCore, upstream: FaultUpstream, tmp_path: Path
) -> AsyncIterator[Start]:
    """Return a function that runs a gateway from the text of a routes.yaml.

    In the text, `${CORE}` is the core and `${UPSTREAM}` the upstream; keyword arguments
    set further variables. With `guard=False` blocking calls don't fail the test. A test
    may run one gateway.
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
    """Return the TLS context of a server with a self-signed certificate."""
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
