"""edge. The embedded core: its apps, and one dispatcher that turns HTTP into calls.

A request takes six steps: 1 log it, 2 apply a fault, 3 find the endpoint, 4 check the
API key and the CDI version, 5 parse the body, 6 answer. The handler reads the input,
and then checks app and tenant when it gets its app.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Final

from aiohttp import web

from gateway.dev.core.api import CDI_VERSION, ENDPOINTS, Call, Endpoint, Scope
from gateway.dev.core.apps import App, make_app
from gateway.dev.core.faults import Faults, Met
from gateway.dev.core.http import (
    Body,
    Place,
    Query,
    Refusal,
    Reply,
    json_reply,
    locate,
    text_reply,
)
from gateway.dev.core.settings import PUBLIC, CoreSettings
from gateway.dev.core.store import Store
from gateway.dev.core.tenants import NoTenant
from gateway.dev.mark import EMBEDDED_CORE

log: Final = logging.getLogger(__name__)

_BODY_METHODS: Final = frozenset({"POST", "PUT"})

_REAL_CORE_ONLY: Final = {
    "/recipe/accountlinking/": "account linking",
    "/recipe/totp/": "TOTP",
    "/recipe/webauthn/": "WebAuthn",
    "/recipe/userid/": "user id mapping",
    "/recipe/multitenancy/config/thirdparty": "providers of tenants",
    "/recipe/oauth/": "OAuth 2",
}
"""Endpoints of a real core that the SDK may call and this core doesn't have."""


class Core:
    """One embedded core. It may outlive its servers.

    Everything but the constructor belongs to one event loop.

    Raises:
        StoreError: a database can't be used.
    """

    def __init__(
        self,
        settings: CoreSettings,
        *,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        """Open the databases.

        `clock` returns seconds since the epoch. `rng` makes every random byte except
        those of RSA keys; the default is the operating system's generator.
        """
        self.settings = settings
        self.faults = Faults()
        self._apps: dict[str, App] = {}
        with ExitStack() as stores:
            for app_id in (PUBLIC, *settings.apps):
                self._apps[app_id] = make_app(
                    stores.enter_context(closing(Store(settings.database_of(app_id)))),
                    settings,
                    now_ms=lambda: int(clock() * 1000),
                    rng=rng or random.SystemRandom(),
                )
            # All databases are open; from now on only `close` closes them.
            self._stores = stores.pop_all()

    def app(self) -> web.Application:
        """Return a new aiohttp application that serves this core.

        When it stops, calls that wait in a fault end without an answer. The core
        stays open.
        """
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        application.on_startup.append(self._start)
        application.on_shutdown.append(self._stop)
        return application

    def close(self) -> None:
        """Release waiting calls and close the databases; a second call does nothing."""
        self.faults.release()
        self._stores.close()

    async def rotate_keys(self, *, app_id: str = PUBLIC, drop_old: bool = False) -> str:
        """Generate a dynamic key that signs from now on; return its kid.

        `drop_old` deletes the earlier dynamic keys, so their tokens are invalid at
        once.

        Raises:
            KeyError: there's no such app.
        """
        return await self._apps[app_id].keys.rotate(drop_old=drop_old)

    async def _start(self, _: web.Application) -> None:
        for app in self._apps.values():
            await app.keys.ensure()

    async def _stop(self, _: web.Application) -> None:
        self.faults.release()

    async def _answer(self, request: web.Request) -> web.Response:
        """Answer one request. A failure is answered with a status and a sentence."""
        place = locate(request.path, ENDPOINTS)
        api_path = request.path if place is None else place.api_path
        met = self.faults.meet(request.method, request.path, api_path)  # 1
        if met is not None:  # 2
            faulty = await self._play(request, met)
            if faulty is not None:
                return faulty
        try:
            reply = await self._call(request, place)
        except Refusal as refusal:
            reply = text_reply(refusal.status, refusal.text)
        except web.HTTPException:
            raise
        except Exception:  # the error boundary
            log.exception("%s %s failed", request.method, request.path)
            reply = text_reply(500, "Internal Error")
        return web.Response(
            status=reply.status,
            body=reply.body,
            headers={
                "Content-Type": reply.content_type,
                "Server": EMBEDDED_CORE,
                **reply.headers,
            },
        )

    async def _play(self, request: web.Request, met: Met) -> web.Response | None:
        """Wait as the fault requires; return its answer, or None for the real one."""
        fault = met.fault
        goes_on = await self.faults.wait(met)
        if fault.disconnect or not goes_on:
            if request.transport is not None:
                request.transport.abort()
            # The connection is closed, so the client doesn't get this response.
            return web.Response(status=503)
        if fault.body is None:
            return None
        return web.Response(
            status=fault.status,
            body=fault.body,
            headers={"Content-Type": fault.content_type},
        )

    async def _call(self, request: web.Request, place: Place | None) -> Reply:
        """Return the endpoint's answer.

        Raises:
            Refusal: the protocol answers this request with a 4xx.
        """
        if place is None:  # 3
            raise Refusal(404, _not_found(request.path))
        candidates = [
            e for e in ENDPOINTS[place.api_path] if e.method == request.method
        ]
        if not candidates:
            # A wrong method is reported only to callers with the key.
            self._check_caller(request, ENDPOINTS[place.api_path][0])
            raise Refusal(405, "Method not supported")
        endpoint = _by_rid(candidates, request.headers.get("rid"))
        self._check_caller(request, endpoint)  # 4
        body = Body({})
        if request.method in _BODY_METHODS and endpoint.needs_key:  # 5
            body = Body.parse(await request.read())
        if (app := self._apps.get(place.app_id)) is not None:
            await app.keys.ensure()
        enter = functools.cache(lambda: self._enter(place, endpoint))
        call = Call(
            enter=enter,
            tenant_id=place.tenant_id,
            body=body,
            query=Query(request.query),
        )
        try:
            answer = await endpoint.handler(call)  # 6
        except NoTenant as exc:
            raise _no_tenant(place.app_id, exc.tenant_id) from exc
        enter()  # for handlers that don't need their app
        return answer if isinstance(answer, Reply) else json_reply(answer)

    def _check_caller(self, request: web.Request, endpoint: Endpoint) -> None:
        if endpoint.needs_key and self.settings.api_keys:
            api_key = request.headers.get("api-key")
            if api_key is None:
                scheme, _, token = request.headers.get("Authorization", "").partition(
                    " "
                )
                api_key = token if scheme.lower() == "bearer" else ""
            if api_key.strip() not in self.settings.api_keys:
                raise Refusal(401, "Invalid API key")
        version = request.headers.get("cdi-version", CDI_VERSION)
        if version != CDI_VERSION:
            raise Refusal(400, f"cdi-version {version} not supported")

    def _enter(self, place: Place, endpoint: Endpoint) -> App:
        """Return the app of a call.

        Raises:
            Refusal: 400, no such app or tenant; 403, the endpoint doesn't take this
                tenant.
        """
        app = self._apps.get(place.app_id)
        if app is None or not (
            endpoint.scope is Scope.OPEN or app.tenants.exists(place.tenant_id)
        ):
            raise _no_tenant(place.app_id, place.tenant_id)
        if endpoint.scope is Scope.APP and place.tenant_id != PUBLIC:
            raise Refusal(403, "Only public tenantId can call this app specific API")
        return app


def _no_tenant(app_id: str, tenant_id: str) -> Refusal:
    """Return the refusal of a call about an app or a tenant that isn't there."""
    return Refusal(
        400,
        "AppId or tenantId not found => Tenant with the following connectionURIDomain,"
        f" appId and tenantId combination not found: (, {app_id}, {tenant_id})",
    )


def _not_found(path: str) -> str:
    """Return the sentence for a path that isn't an endpoint's."""
    for part, feature in _REAL_CORE_ONLY.items():
        if part in path.lower():
            return f"Not found: the embedded core has no {feature}; use a real core"
    return "Not found"


def _by_rid(candidates: list[Endpoint], rid: str | None) -> Endpoint:
    """Return the endpoint for the `rid` header, or else the one without a `rid`."""
    exact = [e for e in candidates if e.rid is not None and e.rid == rid]
    return (exact or [e for e in candidates if e.rid is None])[0]
