"""gRPC: asked by grpcio's client. No service ever hears of a question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from faults import FaultUpstream, until
from gateway_under_test import ORIGIN, UnderTest, gateway
from grpc_client import Ask, asking, fields, question
from wire import DEADLINE_S

from gateway.identity import SessionPolicy, SessionRequest, Verdict

ROUTES: Any = [
    {"path": "/private", "protected": True},
    {"path": "/app", "protected": False, "rewrite": {"strip_prefix": "/app"}},
    {"path": "/ws", "protected": True, "websocket": {"enabled": True}},
    {"path": "/limited", "methods": ["GET"], "protected": False},
    {
        "path": "/team",
        "protected": True,
        "identity": {"headers": {"X-Team": "{claims.team}"}},
    },
]
ANN = ("Authorization", "Bearer ann")


@asynccontextmanager
async def asked(
    upstream: FaultUpstream, **keys: Any
) -> AsyncIterator[tuple[UnderTest, Ask]]:
    """Run a gateway with a decision listener, and connect to it."""
    decision = {"grpc": "127.0.0.1:0", **keys}
    async with (
        gateway(
            upstream.url, more_routes=ROUTES, settings={"decision": decision}
        ) as gw,
        asking(gw.ports[-1]) as ask,
    ):
        yield gw, ask
    assert not upstream.connections


@pytest.mark.parametrize("raw", [False, True])
async def test_an_allowed_request(upstream: FaultUpstream, raw: bool) -> None:
    """Envoy gets the identity for the service, and the new tokens for the client."""
    async with asked(upstream) as (gw, ask):
        gw.verifier.new_tokens = (
            (b"Set-Cookie", b"sAccessToken=a"),
            (b"Set-Cookie", b"sOther=b"),
            (b"front-token", b"f"),
        )
        asked_for = question("/private/x?y=1", ANN, ("Origin", ORIGIN), raw=raw)
        answer = await ask(asked_for)
        record = await gw.record()
    assert answer.status.code == 0
    assert not answer.HasField("denied_response")
    upstream_fields = fields(answer.ok_response.headers)
    assert upstream_fields == {
        "x-user-id": ["ann"],
        "x-recipe-user-id": ["r"],
        "x-session-handle": ["session-ann"],
        "x-tenant-id": ["public"],
        "x-auth-status": ["authenticated"],
        "x-gateway-service": ["up"],
        "x-gateway-target": ["/private/x?y=1"],
    }
    for option in answer.ok_response.headers:
        assert (option.append.value, option.append_action) == (False, 2)
        assert not option.header.raw  # of which Envoy makes empty fields
    to_client = fields(answer.ok_response.response_headers_to_add)
    assert to_client["set-cookie"] == ["sAccessToken=a", "sOther=b"]
    assert to_client["front-token"] == ["f"]
    assert to_client["cache-control"] == ["no-store"]
    assert to_client["access-control-allow-origin"] == [ORIGIN]
    assert to_client["x-request-id"] == [record.request_id]
    removed = set(answer.ok_response.headers_to_remove)
    assert {"x-team", "x-user-roles", "x-client-subject"} <= removed
    assert removed.isdisjoint(upstream_fields)
    assert (record.client, record.path, record.status) == (
        *("192.0.2.7", "/private/x"),
        200,
    )
    assert record.bytes_in
    assert record.bytes_out


SPELLINGS = ("x_user_id", "x.user.id", "X-User_Id", "x-team", "X_TEAM", "x-user-id")


@pytest.mark.parametrize("raw", [False, True])
async def test_forged_identity_is_removed(upstream: FaultUpstream, raw: bool) -> None:
    """Each spelling that a service may read as an identity name, on any route."""
    forged = [(name, "eve") for name in SPELLINGS]
    async with asked(upstream) as (_, ask):
        public = await ask(question("/app/x", *forged, raw=raw))
        private = await ask(question("/private", ANN, *forged, raw=raw))
    ok = public.ok_response
    assert fields(ok.headers)["x-auth-status"] == ["anonymous"]
    assert "x-user-id" not in fields(ok.headers)
    assert {name.lower() for name in SPELLINGS} <= set(ok.headers_to_remove)
    # One that is set replaces the client's own.
    others = {name.lower() for name in SPELLINGS} - {"x-user-id"}
    assert others <= set(private.ok_response.headers_to_remove)
    assert "x-user-id" not in private.ok_response.headers_to_remove
    assert fields(private.ok_response.headers)["x-user-id"] == ["ann"]


@pytest.mark.parametrize(
    ("target", "method", "status", "code"),
    [
        ("/private", "GET", 401, 16),
        ("/limited", "POST", 405, 7),
        ("/private/../../x", "GET", 400, 7),
        ("/app/../private", "GET", 401, 16),
        ("/app/%2e%2e/limited", "GET", 400, 7),  # allowed, but not as it is written
        ("/app//x", "GET", 400, 7),
        ("/app/%00", "GET", 400, 7),
        ("/Private", "GET", 404, 7),  # may be read as /private
        ("x", "GET", 403, 7),
        ("http://b.test/app/x", "GET", 403, 7),
        ("/app/x y", "GET", 403, 7),
        ("/app/x", "BREW", 403, 7),
    ],
)
async def test_refusals(
    upstream: FaultUpstream, target: str, method: str, status: int, code: int
) -> None:
    """They have the status and the body that a client of the gateway gets."""
    async with asked(upstream) as (_, ask):
        answer = await ask(question(target, ("Origin", ORIGIN), method=method))
    assert answer.status.code == code
    assert not answer.HasField("ok_response")
    denied = answer.denied_response
    assert denied.status.code == status
    found = fields(denied.headers)
    assert found["x-gateway-status"] == [str(status)]
    if status == 401:
        assert denied.body == '{"message":"unauthorised"}'
        assert found["access-control-allow-origin"] == [ORIGIN]


@pytest.mark.parametrize(
    "keys",
    [
        {"client": ""},
        {"client": "/run/envoy.sock"},
        {"scheme": ""},
        {"scheme": "ftp"},
        {"host": "a?x="},
        {"host": ""},
        {"host": "a.test\r\nX: y"},
    ],
)
async def test_what_says_nothing_is_refused(
    upstream: FaultUpstream, keys: dict[str, Any]
) -> None:
    """A public route, too: the question must be about one request of one client."""
    async with asked(upstream) as (_, ask):
        answer = await ask(question("/app/x", **keys))
    assert not answer.HasField("ok_response")
    assert answer.denied_response.status.code in (400, 403)


@pytest.mark.parametrize(
    "field",
    [
        ("x", "a\r\nAuthorization: Bearer ann"),
        ("x", "a\nb"),
        ("x", "a\x00b"),
        ("x: y\r\nauthorization", "Bearer ann"),
        ("", "x"),
        ("x y", "z"),
    ],
)
async def test_no_field_ends_its_line(
    upstream: FaultUpstream, field: tuple[str, str]
) -> None:
    """Its rest would be another field."""
    async with asked(upstream) as (_, ask):
        answer = await ask(question("/private", field))
    assert not answer.HasField("ok_response")


async def test_preflights_are_answered(upstream: FaultUpstream) -> None:
    """By Envoy, with the fields of CORS: the service doesn't see them."""
    wanted = ("Access-Control-Request-Method", "GET")
    async with asked(upstream) as (_, ask):
        for origin, status in ((ORIGIN, 204), ("https://evil.test", 403)):
            answer = await ask(
                question("/private", ("Origin", origin), wanted, method="OPTIONS")
            )
            assert not answer.HasField("ok_response")
            assert answer.status.code != 0
            assert answer.denied_response.status.code == status
            found = fields(answer.denied_response.headers)
            assert ("access-control-allow-origin" in found) == (status == 204)


async def test_canonical_paths(upstream: FaultUpstream) -> None:
    """Envoy is told to forward the path that was judged; with `strict` it isn't."""
    async with asked(upstream, path="canonical") as (_, ask):
        answer = await ask(question("/app/y/%2e%2e/x?a=%2e"))
        assert fields(answer.ok_response.headers)[":path"] == ["/x?a=%2e"]
        refused = await ask(question("/app/../private"))
        assert refused.denied_response.status.code == 401


async def test_withheld_tokens(upstream: FaultUpstream) -> None:
    """Whoever verifies is told so."""
    policies: list[SessionPolicy] = []
    async with asked(upstream, new_tokens="withhold") as (gw, ask):
        verdict = gw.verifier._verdict

        def noted(request: SessionRequest, policy: SessionPolicy) -> Verdict:
            policies.append(policy)
            return verdict(request, policy)

        gw.verifier._verdict = noted  # type: ignore[method-assign] # to see the policy
        assert (await ask(question("/private", ANN))).status.code == 0
    assert policies[0].withholds


async def test_websockets_need_an_allowed_origin(upstream: FaultUpstream) -> None:
    """Envoy removes Connection; the key tells a handshake."""
    key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    version = ("Sec-WebSocket-Version", "13")
    async with asked(upstream) as (_, ask):
        good = await ask(question("/ws", ANN, key, version, ("Origin", ORIGIN)))
        evil = ("Origin", "https://evil.test")
        bad = await ask(question("/ws", ANN, key, version, evil))
    assert good.status.code == 0
    assert bad.denied_response.status.code == 403


async def test_a_failure_is_no_yes(upstream: FaultUpstream) -> None:
    """Whatever is raised, and also where the request would be public."""
    async with asked(upstream) as (gw, ask):
        gw.verifier.error = RuntimeError("verification broke")
        answer = await ask(question("/app/x", ANN))
        gw.log.lines.clear()
        assert answer.denied_response.status.code == 500
        gw.verifier.error = None
        answer = await ask(b"\xff\xff")
        assert answer.denied_response.status.code == 403
    assert not answer.HasField("ok_response")


async def test_a_call_that_is_given_up_gets_no_answer(upstream: FaultUpstream) -> None:
    """Its deadline passes while the session is verified; the connection stays."""
    stuck = asyncio.Event()
    async with asked(upstream) as (gw, ask):

        async def hang(request: SessionRequest, policy: SessionPolicy) -> Verdict:
            stuck.set()
            await asyncio.Event().wait()
            raise AssertionError

        verify, gw.verifier.verify = gw.verifier.verify, hang  # type: ignore[method-assign] # as a core that hangs
        call = ask(question("/private", ANN))
        await stuck.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await gw.record()).reason == "client_gone"
        stuck.clear()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(question("/private", ANN), timeout_s=1.0)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await gw.record()).reason == "client_gone"
        gw.verifier.verify = verify  # type: ignore[method-assign] # as before
        assert (await ask(question("/private", ANN))).status.code == 0


async def test_other_methods_and_messages(upstream: FaultUpstream) -> None:
    """Each fails as gRPC says, and none is answered with a verdict."""
    async with asked(upstream) as (gw, ask):
        target = f"127.0.0.1:{gw.ports[-1]}"
        async with grpc.aio.insecure_channel(target) as channel:
            other: Any = channel.unary_unary(
                "/envoy.service.auth.v2.Authorization/Check"
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await other(b"", timeout=DEADLINE_S)
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        large = question("/app/x", ("x", "y" * 300_000))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(large)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await ask(question("/app/x"))).status.code == 0


async def test_many_calls_at_once(upstream: FaultUpstream) -> None:
    """Over one connection, each with its own answer, in large messages."""
    async with asked(upstream) as (_, ask):
        pad = ("X-Pad", "p" * 3000)
        calls = [
            ask(question("/private", ("Authorization", f"Bearer u{n}"), pad))
            for n in range(300)
        ]
        answers = await asyncio.gather(*calls)
    users = [fields(each.ok_response.headers)["x-user-id"] for each in answers]
    assert users == [[f"u{n}"] for n in range(300)]


async def test_only_trusted_peers_may_ask(upstream: FaultUpstream) -> None:
    """Others are closed without an answer."""
    decision = {"grpc": "127.0.0.1:0", "trusted": ["192.0.2.0/24"]}
    async with gateway(
        upstream.url, settings={"decision": decision}, log_expected=True
    ) as gw:
        async with asking(gw.ports[-1]) as ask:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(question("/"))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert any("gateway.decision.trusted" in line for line in gw.log.lines)
    async with asked(upstream, trusted=["127.0.0.0/8"]) as (_, ask):
        assert (await ask(question("/app/x"))).status.code == 0


async def test_a_drain(upstream: FaultUpstream) -> None:
    """A call in progress is answered; then the connection is closed."""
    begun, go = asyncio.Event(), asyncio.Event()
    async with asked(upstream) as (gw, ask):
        verify = gw.verifier.verify

        async def wait(request: SessionRequest, policy: SessionPolicy) -> Verdict:
            begun.set()
            await go.wait()
            return await verify(request, policy)

        gw.verifier.verify = wait  # type: ignore[method-assign] # as a slow core
        call = ask(question("/private", ANN))
        await begun.wait()
        stopping = asyncio.create_task(gw.stop())
        await until(lambda: gw.proxy.draining)
        go.set()
        answer = await call
        assert fields(answer.ok_response.headers)["x-user-id"] == ["ann"]
        await stopping
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(question("/app/x"))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_drain_ends(upstream: FaultUpstream) -> None:
    """A call that is still undecided then gets no answer."""
    begun = asyncio.Event()
    decision = {"grpc": "127.0.0.1:0"}
    async with gateway(
        upstream.url,
        route={"protected": True},
        settings={"decision": decision},
        drain_timeout=1,
    ) as gw:

        async def hang(request: SessionRequest, policy: SessionPolicy) -> Verdict:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        gw.verifier.verify = hang  # type: ignore[method-assign] # as a core that hangs
        async with asking(gw.ports[-1]) as ask:
            call = ask(question("/x", ANN))
            await begun.wait()
            await gw.stop()
            with pytest.raises(grpc.aio.AioRpcError):
                await call
        assert (await gw.record()).reason == "shutting_down"
    assert not upstream.connections
