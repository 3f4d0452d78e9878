"""A real front, a real gateway and real services, as processes and sockets.

    async with fronted("nginx", tmp_path, core_url) as stack:
        reply = await stack.ask("GET", "/private/x", stack.user.bearer)
        ... stack.seen()          # what the service got
        async with stack.hung(): ...
        await stack.kill()

The front runs with the text that `gateway front` prints, and with nothing else than
what keeps it inside the test's folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from any_core import new_email
from faults import FaultUpstream, Peer, Received, free_ports
from open_streams import SWITCH
from processes import Process, children, command
from stack import form
from wire import WireReply, ask

ORIGIN = "http://localhost:8000"
"""The website's domain by default, and so the one origin that is allowed."""

ROUTES = """\
version: 1
gateway:
  listen: "127.0.0.1:${OWN}"
  trusted_proxies: [127.0.0.1/32]
  decision:
    listen: "127.0.0.1:${DECISION}"
    endpoints: [auth-request, forward-auth, ext-authz]
    path: ${PATH_MODE}
supertokens: {connection_uri: "${CORE}", recipes: {emailpassword: {}, userroles: {}}}
services:
  orders: {targets: ["${ORDERS}"]}
  pages: {targets: ["${PAGES}"]}
routes:
  - path: /private
    service: orders
    identity: {headers: {X-Plan: "{claims.plan}"}}
    websocket: {enabled: false}
  - {path: /public, service: pages, protected: false}
  - {path: /admin, service: orders, require: {roles: {any: [admin]}}}
  - {path: /read, service: pages, protected: false, methods: [GET]}
  - {path: /ws, service: orders, websocket: {enabled: true}}
"""
REWRITES = """\
  - {path: /old, service: pages, protected: false, rewrite: {strip_prefix: /old}}
"""


def program(name: str) -> str | None:
    """Return the path of an installed program; None: there is none."""
    own = Path(sys.executable).with_name(name)
    if own.exists():
        return str(own)
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


async def service(peer: Peer) -> None:
    """Answer 200 with CORS fields of its own, or open a WebSocket that says `hi`."""
    while True:
        received = await peer.request()
        if received.field(b"upgrade"):
            await peer.send(SWITCH + b"\x81\x02hi")
            await peer.gone()
            return
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: own=1\r\n"
            b"Access-Control-Allow-Origin: https://services.own\r\n\r\nok"
        )


@dataclass
class Fronted:
    """A front that listens on loopback, before a gateway and two services."""

    front: str
    port: int
    orders: FaultUpstream
    pages: FaultUpstream
    gateway: Process

    async def ask(
        self,
        method: str,
        target: str,
        *fields: tuple[str, str],
        body: bytes | None = None,
    ) -> WireReply:
        """Send one request to the front; return the reply."""
        return await ask(self.port, method, target, *fields, body=body, host="a.test")

    def seen(self) -> list[Received]:
        """Return what the services got since the last call, in order of service."""
        found = [*self.orders.requests, *self.pages.requests]
        self.orders.requests.clear()
        self.pages.requests.clear()
        return found

    async def auth(
        self, path: str, *fields: tuple[str, str], body: object
    ) -> WireReply:
        """Call SuperTokens' API, through the front."""
        kind = ("Content-Type", "application/json")
        sent = json.dumps(body).encode()
        return await self.ask("POST", f"/auth{path}", kind, *fields, body=sent)

    async def sign_up(self, mode: str) -> dict[str, str]:
        """Return the tokens of a new user: `access`, `refresh`, and `id`."""
        reply = await self.auth(
            "/signup", ("st-auth-mode", mode), body=form(new_email("ann"))
        )
        assert reply.status == 200, reply
        return {**tokens(reply), "id": reply.json()["user"]["id"]}

    async def refreshed(self, mode: str) -> dict[str, str]:
        """Return the tokens of a new user after a refresh.

        The first use of that access token makes another one.
        """
        user = await self.sign_up(mode)
        own = (
            ("Cookie", f"sRefreshToken={user['refresh']}")
            if mode == "cookie"
            else ("Authorization", f"Bearer {user['refresh']}")
        )
        reply = await self.auth("/session/refresh", own, body={})
        assert reply.status == 200, reply
        return {**user, **tokens(reply)}

    @asynccontextmanager
    async def hung(self) -> AsyncIterator[None]:
        """Stop all processes of the gateway for the block."""
        pid = self.gateway.child.pid
        pids = [pid, *children(pid)]
        for each in pids:
            os.kill(each, signal.SIGSTOP)
        try:
            yield
        finally:
            for each in pids:
                os.kill(each, signal.SIGCONT)

    async def kill(self) -> None:
        """End the gateway."""
        self.gateway.signal(signal.SIGTERM)
        await self.gateway.ended()


def tokens(reply: WireReply) -> dict[str, str]:
    """Return the tokens in a reply's fields or cookies."""
    found = {
        "access": reply.one("st-access-token") or "",
        "refresh": reply.one("st-refresh-token") or "",
    }
    for cookie in reply.all("Set-Cookie"):
        name, _, value = cookie.partition(";")[0].partition("=")
        if name in ("sAccessToken", "sRefreshToken"):
            found[name[1:-5].lower()] = value
    return found


def _nginx(folder: Path, text: str) -> list[str | Path]:
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{name}_temp_path {folder}/{name}; " for name in names)
    (folder / "front.conf").write_text(text, encoding="utf-8")
    conf = folder / "nginx.conf"
    conf.write_text(
        f"daemon off; master_process off; pid {folder}/pid;"
        f" error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {paths} include {folder}/front.conf; }}\n",
        encoding="utf-8",
    )
    return ["-p", folder, "-c", conf, "-e", folder / "error.log"]


def _caddy(folder: Path, text: str) -> list[str | Path]:
    conf = folder / "Caddyfile"
    options = "{\n  admin off\n  persist_config off\n  auto_https off\n}\n"
    conf.write_text(options + text, encoding="utf-8")
    return ["run", "--config", conf, "--adapter", "caddyfile"]


def _envoy(folder: Path, text: str) -> list[str | Path]:
    conf = folder / "envoy.yaml"
    conf.write_text(text, encoding="utf-8")
    return ["-c", conf, "--concurrency", "1", "-l", "error", "--disable-hot-restart"]


def _haproxy(folder: Path, text: str) -> list[str | Path]:
    conf = folder / "haproxy.cfg"
    conf.write_text(text, encoding="utf-8")
    return ["-db", "-f", conf]


def _traefik(folder: Path, text: str) -> list[str | Path]:
    # The command is in the comment, as a user would take it.
    (between,) = free_ports(1)
    conf = folder / "gateway.yml"
    conf.write_text(text.replace("127.0.0.1:8090", f"127.0.0.1:{between}"), "utf-8")
    flags = re.findall(r"^#   (--\S+?=.*)$", conf.read_text("utf-8"), re.MULTILINE)
    assert len(flags) == 5
    return [flag.replace("THIS FILE", str(conf)) for flag in flags]


STARTS: dict[str, Callable[[Path, str], list[str | Path]]] = {
    "nginx": _nginx,
    "caddy": _caddy,
    "traefik": _traefik,
    "envoy": _envoy,
    "haproxy": _haproxy,
}
"""Front → its arguments, from what `gateway front` has printed."""

MORE_FILES = {"haproxy": ("haproxy-lua", "gateway.lua")}
"""Front → another configuration that it needs, and its file."""
CANT_REWRITE = frozenset({"traefik"})


async def printed(front: str, *options: str | Path, environ: dict[str, str]) -> str:
    """Return what `gateway front` prints."""
    folder = Path(environ["FOLDER"])
    async with command("front", front, *options, cwd=folder, environ=environ) as made:
        assert await made.ended() == 0, made.err
        return made.out.decode()


@asynccontextmanager
async def fronted(
    front: str, folder: Path, core: str, *, path_mode: str = "strict"
) -> AsyncIterator[Fronted]:
    """Run everything for the block."""
    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        orders = await enter(FaultUpstream(service))
        pages = await enter(FaultUpstream(service))
        port, own, decision = free_ports(3)
        environ = {
            "FOLDER": str(folder),
            "OWN": str(own),
            "DECISION": str(decision),
            "PATH_MODE": path_mode,
            "CORE": core,
            "ORDERS": orders.url,
            "PAGES": pages.url,
        }
        config = folder / "routes.yaml"
        rewrites = "" if front in CANT_REWRITE else REWRITES
        config.write_text(ROUTES + rewrites, encoding="utf-8")
        gateway = await enter(
            command("serve", "-c", config, cwd=folder, environ=environ)
        )
        await gateway.until_said(b"routes from ")
        options = ("-c", config, "--listen", f"127.0.0.1:{port}")
        text = await printed(front, *options, environ=environ)
        if front in MORE_FILES:
            name, file = MORE_FILES[front]
            more = await printed(name, *options, environ=environ)
            (folder / file).write_text(more, encoding="utf-8")
        path = program(front)
        assert path is not None
        running = await enter(
            command(
                *STARTS[front](folder, text),
                cwd=folder,
                program=(path,),
                environ={"HOME": str(folder)},
            )
        )
        await until_open(port, running)
        stack = Fronted(
            front=front,
            port=port,
            orders=orders,
            pages=pages,
            gateway=gateway,
        )
        stack.seen()
        yield stack


async def until_open(port: int, running: Process) -> None:
    """Return when the front at *port* forwards requests.

    Traefik listens before it knows its routes.
    """
    async with asyncio.timeout(60):
        while True:
            assert running.child.returncode is None, (running.out, running.err)
            with suppress(OSError, asyncio.IncompleteReadError):
                if (await ask(port, "GET", "/public", host="a.test")).status == 200:
                    return
            await asyncio.sleep(0.05)
