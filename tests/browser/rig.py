"""What the scenarios need: a core, services, `gateway serve`, a website, and Caddy.

The website also has `/control/…`, through which a scenario does what a browser can't:
read a mail, give a role, or make a session's access token an expired one. Tokens expire
by that, never by waiting.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from processes import Process, command, serving

from gateway.dev.core import CoreSettings, serve
from gateway.dev.core.jws import parse, sign
from gateway.dev.demo.admin import Core as DemoCore
from gateway.dev.demo.orders import orders
from gateway.dev.demo.page import page as demo_page
from gateway.dev.demo.whoami import whoami
from gateway.dev.listening import listening
from gateway.dev.ports import LOOPBACK

PAGES = ("webjs", "website", "plain", "react")
SITE, API = "app.example.com", "api.example.com"
"""The two names behind Caddy."""

_TOKEN_VERSION = "5"

ROUTES = """\
version: 1
gateway: {{listen: "127.0.0.1:0", trusted_proxies: [127.0.0.1]}}
supertokens:
  connection_uri: {core}
  api_domain: {api}
  website_domain: {site}
  token_transfer_method: {mode}
  {anti_csrf}
  recipes:
    emailpassword: {{}}
    emailverification: {{mode: OPTIONAL}}
    passwordless: {{contact_method: EMAIL, flow_type: USER_INPUT_CODE_AND_MAGIC_LINK}}
    userroles: {{}}
cors: {{allow_origins: ["{site}"]}}
services:
  orders: {{targets: ["http://127.0.0.1:{orders}"], paths: exact}}
  whoami: {{targets: ["http://127.0.0.1:{whoami}"], paths: exact}}
  page: {{targets: ["http://127.0.0.1:{page}"], paths: exact}}
routes:
  - {{path: /orders, service: orders, session: {{check_database: on_write}}}}
  - path: /open
    service: whoami
    protected: false
    rewrite: {{strip_prefix: /open}}
  - path: /whoami
    service: whoami
    websocket: {{enabled: true}}
    rewrite: {{strip_prefix: /whoami}}
  - path: /admin
    service: whoami
    require: {{roles: {{all: [admin]}}}}
  - path: /verified
    service: whoami
    require: {{email_verified: true}}
  # The demo page, on the gateway's own origin.
  - {{match: {{path: {{exact: /}}}}, service: page, protected: false}}
  - {{path: /page, service: page, protected: false}}
  - {{match: {{path: {{exact: /demo/admin-role}}, methods: [POST]}}, service: page}}
  - path: /whoami/admin
    service: whoami
    require: {{roles: {{all: [admin]}}}}
    rewrite: {{strip_prefix: /whoami}}
"""


@dataclass(frozen=True)
class Setting:
    """One way to run the gateway and the frontends."""

    mode: str
    """`cookie` or `header`."""
    anti_csrf: str | None = None
    https: bool = False
    """Whether Caddy is in front, with a name for the website and one for the API."""

    def __str__(self) -> str:
        scheme = "https" if self.https else "http"
        return f"{scheme}, {self.mode}, anti_csrf {self.anti_csrf or 'unset'}"


@dataclass(frozen=True)
class Rig:
    """What a run of the scenarios needs to know."""

    site: str
    api: str
    control: str
    gateway: Process


class Control:
    """The website's files, and what scenarios do beside the browser."""

    def __init__(self, pages: Path, mode: str, outbox: Path) -> None:
        self.pages, self.mode, self.outbox = pages, mode, outbox
        self.core: Any = None
        self.site = self.api = ""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/config.js", self._config)
        app.router.add_get("/dist/{name}.js", self._script)
        app.router.add_post("/control/expire", self._expire)
        app.router.add_post("/control/role", self._role)
        app.router.add_post("/control/mail", self._mail)
        app.router.add_get("/{page}{rest:.*}", self._page)
        return app

    async def _config(self, _: web.Request) -> web.Response:
        config = {"site": self.site, "api": self.api, "mode": self.mode}
        return web.Response(
            text=f"window.CONFIG = {json.dumps(config)};",
            content_type="text/javascript",
        )

    async def _script(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(self.pages / f"{request.match_info['name']}.js")

    async def _page(self, request: web.Request) -> web.Response:
        page = request.match_info["page"]
        script = page if page in PAGES else "react"
        return web.Response(
            text="<!doctype html><meta charset=utf-8><title>Browser tests</title>"
            '<link rel=icon href="data:,"><div id=root></div>'
            f"<script src=/config.js></script><script src=/dist/{script}.js></script>",
            content_type="text/html",
        )

    async def _expire(self, request: web.Request) -> web.Response:
        """Return the token in the body as it would be an hour after its end."""
        parsed = parse(await request.text())
        key = self.core.core._apps["public"].keys.find(parsed.header["kid"])
        hour_ago = int(time.time()) - 3600
        payload = {**parsed.payload, "iat": hour_ago - 3600, "exp": hour_ago}
        return web.Response(
            text=sign(payload, key=key.private, kid=key.kid, version=_TOKEN_VERSION)
        )

    async def _role(self, request: web.Request) -> web.Response:
        body = await request.json()
        async with aiohttp.ClientSession(
            self.core.url, headers={"cdi-version": "5.4"}, raise_for_status=True
        ) as client:
            role = {"role": body["role"], "permissions": []}
            await client.put("/recipe/role", json=role)
            await client.put("/public/recipe/user/role", json=body)
        return web.Response()

    async def _mail(self, request: web.Request) -> web.Response:
        """Return the lines of the last mail of a kind to an address."""
        body = await request.json()
        for path in sorted(self.outbox.glob(f"*-{body['kind']}.txt"), reverse=True):
            head, _, text = path.read_text().partition("\n\n")
            if f"To: {body['to']}" in head.splitlines():
                return web.json_response(text.split())
        raise web.HTTPNotFound(text=f"no {body['kind']} mail to {body['to']}")


@asynccontextmanager
async def rig(setting: Setting, pages: Path, folder: Path) -> AsyncIterator[Rig]:
    """Yield a running gateway with everything around it."""
    control = Control(pages, setting.mode, folder / "outbox")
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        control.core = await enter(serve(CoreSettings()))
        website = await enter(listening("website", control.app(), 0))
        front = _free_port() if setting.https else 0
        if setting.https:
            control.site, api_domain = f"https://{SITE}:{front}", f"https://{API}"
        else:
            control.site, api_domain = f"http://localhost:{website}", "http://localhost"
        anti_csrf = setting.anti_csrf
        (folder / "routes.yaml").write_text(
            ROUTES.format(
                core=control.core.url,
                api=api_domain,
                site=control.site,
                mode=setting.mode,
                anti_csrf=f"anti_csrf: {anti_csrf}" if anti_csrf else "",
                orders=await enter(listening("orders", orders(), 0)),
                whoami=await enter(listening("whoami", whoami(), 0)),
                page=await enter(
                    listening("page", demo_page(DemoCore(uri=control.core.url)), 0)
                ),
            )
        )
        gateway = await enter(
            command(
                *("serve", "-c", folder / "routes.yaml"),
                *("--outbox", control.outbox, "--log-format", "json"),
                cwd=folder,
            )
        )
        port = await serving(gateway)
        if setting.https:
            await enter(_caddy(folder, front, website, port))
            control.api = f"https://{API}:{front}"
        else:
            control.api = f"http://localhost:{port}"
        yield Rig(
            site=control.site,
            api=control.api,
            control=f"http://{LOOPBACK}:{website}/control",
            gateway=gateway,
        )


def _free_port() -> int:
    """Return a port that is free now, for a program that can't choose one itself."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def _caddy(
    folder: Path, front: int, website: int, gateway: int
) -> AsyncIterator[None]:
    """Run Caddy with its own certificates while the block runs."""
    file = folder / "Caddyfile"
    file.write_text(
        "{\n  admin off\n  local_certs\n  skip_install_trust\n"
        "  auto_https disable_redirects\n"
        f"  storage file_system {folder / 'caddy'}\n}}\n"
        + "".join(
            f"https://{name}:{front} {{\n  bind {LOOPBACK}\n"
            f"  reverse_proxy {LOOPBACK}:{port}\n}}\n"
            for name, port in ((SITE, website), (API, gateway))
        )
    )
    program = (Path(sys.executable).with_name("caddy"),)
    async with command(
        *("run", "--config", file, "--adapter", "caddyfile"),
        cwd=folder,
        program=program,
    ) as caddy:
        await caddy.until_said(rb"serving initial configuration")
        yield
