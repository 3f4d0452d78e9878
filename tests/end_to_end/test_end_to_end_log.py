"""The access log of a running gateway: its fields, and that it has no secrets."""

from __future__ import annotations

import base64
import json
import signal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from faults import FaultUpstream
from processes import command, serving
from stack import replies
from wire import WireReply, ask, connect

from gateway.dev.core import CoreSettings, Fault, serve_in_thread

API_KEY = "core-api-key-n0t-for-the-log"
PASSWORD = "Passw0rd-n0t-for-the-log"
EMAIL = "n0t-for-the-log@example.com"
QUERY = "query-n0t-for-the-log"
COOKIE = "cookie-n0t-for-the-log"
FIELD = "field-n0t-for-the-log"
BODY = b"body-n0t-for-the-log"
MARK = "n0t-for-the-log"
CHUNKED = "POST /public HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens:
  connection_uri: "${CORE}"
  api_key: "${API_KEY}"
  core: {timeout: 60}  # a busy machine is no outage
  recipes: {emailpassword: {}, userroles: {}}
services:
  echo: {targets: ["${UPSTREAM}"]}
  closed: {targets: ["${CLOSED}"]}
routes:
  - {path: /public, service: echo, protected: false}
  - {path: /private, name: private, service: echo}
  - {path: /checked, service: echo, session: {check_database: always}}
  - {path: /closed, service: closed, protected: false}
"""

FIELDS = {
    "time",
    "request_id",
    "client",
    "method",
    "path",
    "status",
    "route",
    "decision",
    "reason",
    "user_id",
    "upstream",
    "duration_ms",
    "verify_ms",
    "connect_ms",
    "upstream_ms",
    "bytes_in",
    "bytes_out",
    "stage",
    "side",
    "note",
    *("level", "event", "host", "scheme", "protocol", "tenant_id", "target"),
    *("upstream_status", "attempts", "pid", "worker", "generation", "trace_id"),
}


class Client:
    """A client whose requests, good and bad, carry secrets everywhere."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.secrets = {API_KEY, PASSWORD, MARK}
        self.user_id = ""
        self.access = ""
        self.refresh = ""

    async def ask(
        self,
        method: str,
        path: str,
        *fields: tuple[str, str],
        body: bytes | None = None,
    ) -> WireReply:
        """Send a request with secrets in its query, its cookie and another field."""
        return await ask(
            self.port,
            method,
            f"{path}?q={QUERY}&token={self.access[-20:]}",
            ("Cookie", f"own={COOKIE}"),
            ("X-Own", FIELD),
            ("Content-Type", "application/json"),
            *fields,
            body=body,
        )

    async def enter(self, how: str, password: str = PASSWORD) -> WireReply:
        form = [{"id": "email", "value": EMAIL}, {"id": "password", "value": password}]
        reply = await self.ask(
            "POST", f"/auth/{how}", body=json.dumps({"formFields": form}).encode()
        )
        if reply.json().get("user"):
            self.user_id = reply.json()["user"]["id"]
        self.take(reply)
        return reply

    def take(self, reply: WireReply) -> None:
        self.access = reply.one("st-access-token") or self.access
        self.refresh = reply.one("st-refresh-token") or self.refresh
        for token in (self.access, self.refresh, reply.one("front-token")):
            if token:
                self.secrets |= {token, token[-24:], quote(token, safe="")}

    @property
    def bearer(self) -> tuple[str, str]:
        return ("Authorization", f"Bearer {self.access}")

    async def send_good_requests(self) -> None:
        """Sign up, in and out; refresh; use two routes; reuse a refresh token."""
        assert (await self.enter("signup")).status == 200
        assert (await self.enter("signin")).status == 200
        assert (await self.ask("GET", "/private/a", self.bearer)).status == 200
        used = ("Authorization", f"Bearer {self.refresh}")
        self.take(reply := await self.ask("POST", "/auth/session/refresh", used))
        assert reply.status == 200
        self.take(reply := await self.ask("GET", "/checked", self.bearer))
        assert reply.status == 200
        theft = await self.ask("POST", "/auth/session/refresh", used)
        assert theft.status == 401
        assert (await self.enter("signin")).status == 200
        assert (await self.ask("POST", "/auth/signout", self.bearer)).status == 200

    async def send_bad_requests(self) -> None:
        """Send wrong credentials, unserved requests and malformed heads and chunks."""
        await self.enter("signin", password=f"wrong-{MARK}")
        forged = ("Authorization", f"Bearer {self.access[:-6]}AAAAAA")
        basic = base64.b64encode(MARK.encode()).decode()
        self.secrets.add(basic)
        for path, *fields in (
            ("/private", forged),
            ("/private", ("Authorization", f"Basic {basic}")),
            ("/private", ("Cookie", f"sAccessToken={self.access}x")),
            ("/public", ("X-Forwarded-For", MARK)),
            ("/closed", self.bearer),
            ("/none", self.bearer),
            ("/public/%00", self.bearer),
        ):
            await self.ask("POST", path, *fields, body=BODY)
        for raw in (
            f"GET /{MARK} HTTP/9.9\r\nHost: x\r\n\r\n",
            f"GET /public?{QUERY} HTTP/1.1\r\nHost: {MARK}@x\r\n\r\n",
            f"{MARK}\r\n\r\n",
            f"GET /public?{QUERY} HTTP/1.1\r\nHost: x\r\nX {MARK}: y\r\n\r\n",
            f"GET /public?{'x' * 9000}{MARK} HTTP/1.1\r\nHost: x\r\n\r\n",
            CHUNKED + f"{MARK}\r\n",
        ):
            async with connect(self.port) as wire:
                await wire.send(raw.encode())
                assert (await wire.reply()).status >= 400


@pytest.mark.parametrize("form", ["json", "text"])
async def test_no_secret_is_logged(
    upstream: FaultUpstream, closed_port: int, tmp_path: Path, form: str
) -> None:
    """No token, cookie, password, key, body or query is logged, also after errors."""
    upstream.behaviour = replies(
        b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nX-Own: upstream-%b\r\n"
        b"Set-Cookie: sAccessToken=%b\r\n\r\n%b"
        % (MARK.encode(), MARK.encode(), MARK.encode())
    )
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES, encoding="utf-8")
    with serve_in_thread(CoreSettings(api_keys=(API_KEY,))) as core:
        environ = {
            "CORE": core.url,
            "API_KEY": API_KEY,
            "UPSTREAM": upstream.url,
            "CLOSED": f"http://127.0.0.1:{closed_port}",
        }
        arguments = ("serve", "-c", path, "--log-format", form)
        async with command(*arguments, cwd=tmp_path, environ=environ) as gateway:
            client = Client(await serving(gateway))
            await client.send_good_requests()
            await client.send_bad_requests()
            core.core.faults.set("/recipe/*", Fault(status=500, body=MARK.encode()))
            assert (await client.enter("signin")).status == 503
            core.core.faults.clear()
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended() == 0
    output = (gateway.out + gateway.err).decode()
    assert len(gateway.out.splitlines()) > 20
    assert client.user_id in output
    assert client.access
    leaks = [secret for secret in client.secrets if secret in output]
    assert leaks == []


async def test_each_request_is_one_line_of_json(
    upstream: FaultUpstream, closed_port: int, tmp_path: Path
) -> None:
    """Each line has all fields: request, verdict, user, upstream, sizes, failure."""
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES, encoding="utf-8")
    with serve_in_thread() as core:
        environ = {
            "CORE": core.url,
            "API_KEY": "",
            "UPSTREAM": upstream.url,
            "CLOSED": f"http://127.0.0.1:{closed_port}",
        }
        arguments = ("serve", "-c", path, "--log-format", "json")
        async with command(*arguments, cwd=tmp_path, environ=environ) as gateway:
            client = Client(await serving(gateway))
            await client.enter("signup")
            ids = {}
            for name, target, fields in (
                ("private", "/private/x", (client.bearer,)),
                ("refused", "/private/x", ()),
                ("public", "/public", (client.bearer,)),
                ("user", "/user", (client.bearer,)),
                ("none", "/none", ()),
                ("closed", "/closed", ()),
            ):
                method = "PUT" if name == "public" else "GET"
                reply = await client.ask(method, target, *fields, body=b"12345")
                ids[name] = reply.one("X-Request-Id")
                ids[f"{name} size"] = str(len(reply.head) + len(reply.body))
            gateway.signal(signal.SIGTERM)
            await gateway.ended()
    lines = [json.loads(line) for line in gateway.out.splitlines()]
    assert len(lines) == 7
    assert all(set(line) == FIELDS for line in lines)
    by_id = {line["request_id"]: line for line in lines}

    def logged(name: str, *fields: str) -> dict[str, Any]:
        line = by_id[ids[name]]
        assert line["bytes_out"] == int(ids[f"{name} size"] or 0)
        assert 0 < line["duration_ms"] < 60_000
        assert line["client"] == "127.0.0.1"
        return {field: line[field] for field in fields}

    assert logged("private", "method", "path", "status", "route", "decision") == {
        "method": "GET",
        "path": "/private/x",
        "status": 200,
        "route": "private",
        "decision": "allowed",
    }
    assert logged("private", "user_id", "upstream", "bytes_in", "side") == {
        "user_id": client.user_id,
        "upstream": "echo",
        "bytes_in": 5,
        "side": None,
    }
    assert logged("refused", "status", "decision", "reason", "user_id", "upstream") == {
        "status": 401,
        "decision": "denied",
        "reason": "unauthorised",
        "user_id": None,
        "upstream": None,
    }
    assert logged("public", "method", "status", "decision", "reason", "user_id") == {
        "method": "PUT",
        "status": 200,
        "decision": "anonymous",
        "reason": "public",
        "user_id": None,
    }
    assert logged("user", "status", "route", "user_id") == {
        "status": 200,
        "route": "/user",
        "user_id": client.user_id,
    }
    assert logged("none", "status", "route") == {"status": 404, "route": None}
    assert logged("closed", "status", "side", "stage", "reason") == {
        "status": 502,
        "side": "upstream",
        "stage": "send",
        "reason": "upstream_unreachable",
    }
