"""A real Envoy that asks over gRPC. `make test-fronts` installs it."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from faults import FaultUpstream, black_hole, free_ports
from gateway_under_test import ORIGIN, UnderTest, gateway
from wire import WireReply, ask

ENVOY = shutil.which("envoy", path=str(Path(sys.executable).parent))
ANN = ("Authorization", "Bearer ann")
FORGED = (
    ("X-User-Id", "eve"),
    ("x_user_id", "eve"),
    ("X-User.Id", "eve"),
    ("X-Auth-Status", "authenticated"),
    ("x_auth_status", "authenticated"),
)
DOC = Path(__file__).parents[2] / "docs" / "fronts.md"

pytestmark = pytest.mark.skipif(ENVOY is None, reason="Envoy is not installed")


def configuration(port: int, decision: int, upstream: int, *, raw: bool) -> str:
    """Return the configuration in the document, with other addresses."""
    found = re.search(r"```text\n(static_.*?)```", DOC.read_text("utf-8"), re.DOTALL)
    assert found is not None
    text = found[1]
    for old, new in (
        (
            "address: 0.0.0.0, port_value: 80}",
            f"address: 127.0.0.1, port_value: {port}}}",
        ),
        ("port_value: 8080", f"port_value: {upstream}"),
        ("port_value: 9001", f"port_value: {decision}"),
        ("encode_raw_headers: true", f"encode_raw_headers: {str(raw).lower()}"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@asynccontextmanager
async def envoy(
    tmp_path: Path, decision: int, upstream: int, *, raw: bool = True
) -> AsyncIterator[int]:
    """Run Envoy; yield its port."""
    (port,) = free_ports(1)
    file = tmp_path / "envoy.yaml"
    file.write_text(configuration(port, decision, upstream, raw=raw), "utf-8")
    assert ENVOY is not None
    process = await asyncio.create_subprocess_exec(
        *(ENVOY, "-c", str(file), "--concurrency", "1", "--disable-hot-restart"),
        *("-l", "warning", "--log-path", str(tmp_path / "envoy.log")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:

        async def is_open() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        async with asyncio.timeout(60):
            while not await is_open():
                assert process.returncode is None, (tmp_path / "envoy.log").read_text()
                await asyncio.sleep(0.05)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def fronted(
    tmp_path: Path, upstream: FaultUpstream, *, raw: bool = True, **keys: Any
) -> AsyncIterator[tuple[UnderTest, int]]:
    decision = {"grpc": "127.0.0.1:0", **keys}
    routes = [{"path": "/private", "protected": True}]
    async with (
        gateway(
            upstream.url, more_routes=routes, settings={"decision": decision}
        ) as gw,
        envoy(tmp_path, gw.ports[-1], upstream.port, raw=raw) as port,
    ):
        yield gw, port


async def get(
    port: int, target: str, *fields: tuple[str, str], method: str = "GET"
) -> WireReply:
    return await ask(port, method, target, *fields, host="a.test")


@pytest.mark.parametrize("raw", [False, True])
async def test_envoy_passes_the_identity_on(
    tmp_path: Path, upstream: FaultUpstream, raw: bool
) -> None:
    """The gateway's own, and none that a client has sent, in any spelling."""
    async with fronted(tmp_path, upstream, raw=raw) as (gw, port):
        gw.verifier.new_tokens = (
            (b"Set-Cookie", b"sAccessToken=a"),
            (b"Set-Cookie", b"sOther=b"),
            (b"front-token", b"f"),
        )
        reply = await get(port, "/private/x?y=1", ANN, *FORGED, ("Origin", ORIGIN))
        assert reply.status == 200
        gw.verifier.new_tokens = ()
        assert (await get(port, "/public", *FORGED)).status == 200
    assert reply.all("Set-Cookie") == ["sAccessToken=a", "sOther=b"]
    assert reply.one("front-token") == "f"
    assert reply.one("Access-Control-Allow-Origin") == ORIGIN
    private, public = upstream.requests
    assert private.line == b"GET /private/x?y=1 HTTP/1.1"
    assert private.field(b"x-user-id") == b"ann"
    assert private.field(b"x-auth-status") == b"authenticated"
    assert private.field(b"x-gateway-service") == b"up"
    assert public.field(b"x-user-id") is None
    assert public.field(b"x-auth-status") == b"anonymous"
    for seen in (private, public):
        assert b"eve" not in seen.head
        assert b"x_auth_status" not in seen.head


async def test_envoy_answers_with_refusals(
    tmp_path: Path, upstream: FaultUpstream
) -> None:
    """Status, body and CORS fields; a preflight is answered; the service sees none."""
    wanted = ("Access-Control-Request-Method", "GET")
    targets = {"/private": 401, "/a/..%2fprivate": 400, "/a//b": 400, "/Private": 404}
    async with fronted(tmp_path, upstream) as (_, port):
        for target, status in targets.items():
            reply = await get(port, target, ("Origin", ORIGIN), *FORGED)
            assert (target, reply.status) == (target, status)
            assert reply.one("Access-Control-Allow-Origin") == ORIGIN
            if status == 401:
                assert reply.json() == {"message": "unauthorised"}
        origin = ("Origin", ORIGIN)
        reply = await get(port, "/private", origin, wanted, method="OPTIONS")
        assert reply.status == 204
        assert reply.one("Access-Control-Allow-Origin") == ORIGIN
        assert "GET" in str(reply.one("Access-Control-Allow-Methods"))
    assert not upstream.connections


async def test_envoy_forwards_the_canonical_path(
    tmp_path: Path, upstream: FaultUpstream
) -> None:
    """As it was judged, with `path: canonical`."""
    async with fronted(tmp_path, upstream, path="canonical") as (_, port):
        assert (await get(port, "/private/../b?c=%2e")).status == 200
        assert (await get(port, "/b/%2e%2e/private")).status == 401
    (seen,) = upstream.requests
    assert seen.line == b"GET /b?c=%2e HTTP/1.1"


async def test_without_a_decision_envoy_forwards_nothing(
    tmp_path: Path, upstream: FaultUpstream
) -> None:
    """The gateway stops while Envoy is connected: 503, on a public route, too."""
    async with fronted(tmp_path, upstream) as (gw, port):
        assert (await get(port, "/public")).status == 200
        seen = len(upstream.requests)
        await gw.stop()
        for target in ("/public", "/private"):
            assert (await get(port, target, ANN)).status == 503
    assert len(upstream.requests) == seen


async def test_envoy_takes_silence_for_a_no(
    tmp_path: Path, upstream: FaultUpstream
) -> None:
    """A decision that nobody connects to, and one that accepts and never answers."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    async with black_hole() as hole, envoy(first, hole, upstream.port) as port:
        assert (await get(port, "/public", ANN)).status == 503
    asked = asyncio.Event()

    async def accept(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked.set()
        while await reader.read(65536):
            pass
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        silent = server.sockets[0].getsockname()[1]
        async with envoy(second, silent, upstream.port) as port:
            assert (await get(port, "/public", ANN)).status == 503
            assert asked.is_set()
    assert not upstream.connections
