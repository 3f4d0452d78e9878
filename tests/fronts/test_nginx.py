"""A real nginx in front of the decision listener, configured as docs/fronts.md says."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from faults import FaultUpstream, black_hole, free_ports, until
from gateway_under_test import ORIGIN, UnderTest, gateway
from wire import WireReply, ask

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
DOC = Path(__file__).parents[2] / "docs" / "fronts.md"
ANN = ("Authorization", "Bearer ann")
FORGED = (
    ("X-User-Id", "eve"),
    ("x_user_id", "eve"),
    ("X-User.Id", "eve"),
    ("X-Auth-Status", "authenticated"),
)

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@asynccontextmanager
async def nginx(tmp_path: Path, decision: int, upstream: int) -> AsyncIterator[int]:
    """Run nginx with the configuration in the document; yield its port."""
    (port,) = free_ports(1)
    found = re.search(r"```nginx\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    text = found[1]
    for old, new in (
        ("server 127.0.0.1:9000;", f"server 127.0.0.1:{decision};"),
        ("server 127.0.0.1:8080;", f"server 127.0.0.1:{upstream};"),
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("upstream orders ", "upstream up "),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{name}_temp_path {tmp_path}/{name}; " for name in names)
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid;"
        f" error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log off; {paths}\n"
        f"proxy_connect_timeout 2s; proxy_read_timeout 20s;\n{text}}}\n",
        encoding="utf-8",
    )
    assert NGINX is not None
    process = await asyncio.create_subprocess_exec(
        NGINX, "-p", str(tmp_path), "-c", str(conf), "-e", f"{tmp_path}/error.log"
    )
    try:
        await until(lambda: (tmp_path / "pid").exists())
        yield port
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def fronted(
    tmp_path: Path, upstream: FaultUpstream
) -> AsyncIterator[tuple[UnderTest, int]]:
    decision = {"listen": "127.0.0.1:0", "endpoints": ["auth-request"]}
    routes = [{"path": "/private", "protected": True}]
    async with (
        gateway(
            upstream.url, more_routes=routes, settings={"decision": decision}
        ) as gw,
        nginx(tmp_path, gw.ports[-1], upstream.port) as port,
    ):
        yield gw, port


async def get(port: int, target: str, *fields: tuple[str, str]) -> WireReply:
    return await ask(port, "GET", target, *fields, host="a.test")


async def test_identity_reaches_the_service(
    tmp_path: Path, upstream: FaultUpstream
) -> None:
    """The gateway's own, and none that a client has sent, in any spelling."""
    async with fronted(tmp_path, upstream) as (_, port):
        assert (await get(port, "/private/x?y=1", ANN, *FORGED)).status == 200
        assert (await get(port, "/public", *FORGED)).status == 200
    private, public = upstream.requests
    assert private.line == b"GET /private/x?y=1 HTTP/1.1"
    assert private.field(b"x-user-id") == b"ann"
    assert private.field(b"x-auth-status") == b"authenticated"
    assert public.field(b"x-user-id") is None
    assert public.field(b"x-auth-status") == b"anonymous"
    for seen in (private, public):
        assert b"eve" not in seen.head


async def test_refusals_arrive_whole(tmp_path: Path, upstream: FaultUpstream) -> None:
    """Status, body and CORS fields; the service hears of none of them."""
    targets = {
        "/private": 401,
        "/private/../../x": 400,
        "/a/..%2fprivate": 400,
        "/a//b": 400,
        "/Private": 404,
    }
    async with fronted(tmp_path, upstream) as (_, port):
        for target, status in targets.items():
            reply = await get(port, target, ("Origin", ORIGIN))
            assert (target, reply.status) == (target, status)
            if status == 401:
                assert reply.json() == {"message": "unauthorised"}
                assert reply.one("Access-Control-Allow-Origin") == ORIGIN
    assert not upstream.connections


async def test_new_tokens_reach_the_client(
    tmp_path: Path, upstream: FaultUpstream
) -> None:
    """Each cookie in a field of its own."""
    async with fronted(tmp_path, upstream) as (gw, port):
        gw.verifier.new_tokens = (
            (b"Set-Cookie", b"sAccessToken=a; Path=/"),
            (b"Set-Cookie", b"sOther=b; Path=/"),
            (b"front-token", b"f"),
        )
        reply = await get(port, "/private", ANN)
    assert reply.all("Set-Cookie") == ["sAccessToken=a; Path=/", "sOther=b; Path=/"]
    assert reply.one("front-token") == "f"


async def test_no_decision_is_no(tmp_path: Path, upstream: FaultUpstream) -> None:
    """A decision listener that is away or hangs lets nothing pass."""
    (closed,) = free_ports(1)
    async with nginx(tmp_path, closed, upstream.port) as port:
        assert (await get(port, "/public", ANN)).status >= 500
    hung = tmp_path / "hung"
    hung.mkdir()
    async with black_hole() as silent, nginx(hung, silent, upstream.port) as port:
        assert (await get(port, "/public", ANN)).status >= 500
    assert not upstream.connections
