"""edge. The handler of the demo page's button that gives the user the role `admin`.

It calls the core, as the SuperTokens dashboard would. Only a demo may give a role to
any user who asks for it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from gateway.dev.demo.replies import NO_GATEWAY, answer, refusal

ROLE = "admin"
PERMISSIONS = ("orders:read-all",)

_NOTE = "A refresh brings it into this session; others get it when they are created."
_CDI_VERSION = "5.4"
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The core's address, and its API key, if it requires one."""

    uri: str
    api_key: str | None = None


class Admin:
    """Gives the role `admin` to the user in the gateway's `X-User-Id`."""

    def __init__(self, core: Core | None) -> None:
        self._core = core
        self._client: aiohttp.ClientSession | None = None

    async def connected(self, _: web.Application) -> AsyncIterator[None]:
        """Keep a client to the core while the service runs."""
        if self._core is None:
            yield
            return
        headers = {"cdi-version": _CDI_VERSION}
        if self._core.api_key:
            headers["api-key"] = self._core.api_key
        async with aiohttp.ClientSession(
            self._core.uri.rstrip("/") + "/",
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            raise_for_status=True,
        ) as client:
            self._client = client
            yield
            self._client = None

    async def give(self, request: web.Request) -> web.Response:
        """Give the role to the user of *request*, and return it as the reply.

        Source: SuperTokens core, `PUT /recipe/role` and `PUT /recipe/user/role`.
        """
        if self._client is None:
            return refusal(404, "this demo has no core, so it can't give roles")
        user_id = request.headers.get("X-User-Id")
        if not user_id:
            return refusal(400, NO_GATEWAY)
        role = {"role": ROLE, "permissions": list(PERMISSIONS)}
        try:
            await self._put(self._client, "recipe/role", role)
            outcome = await self._put(
                self._client,
                "public/recipe/user/role",
                {"userId": user_id, "role": ROLE},
            )
            if handle := request.headers.get("X-Session-Handle"):
                await self._refresh_claims(self._client, handle)
        except (aiohttp.ClientError, TimeoutError):
            return refusal(503, "the core can't be reached, or refused the request")
        return answer(
            role
            | {
                "had_it_already": outcome.get("didUserAlreadyHaveRole") is True,
                "note": _NOTE,
            }
        )

    async def _refresh_claims(self, client: aiohttp.ClientSession, handle: str) -> None:
        """Put the role into a session's claims: its next access token has them.

        SuperTokens' `fetch_and_set_claim` does the same. A session keeps the claims of
        its sign-in otherwise, also when it is refreshed.

        Source: SuperTokens core, `PUT /recipe/jwt/data`; SDK, `UserRoleClaim`.
        """
        async with client.get(
            "recipe/session", params={"sessionHandle": handle}
        ) as reply:
            payload = (await reply.json(content_type=None)).get("userDataInJWT", {})
        now_ms = time.time_ns() // 1_000_000
        for claim, values in (("st-role", (ROLE,)), ("st-perm", PERMISSIONS)):
            had = payload.get(claim, {}).get("v", ())
            payload[claim] = {"v": [*dict.fromkeys((*had, *values))], "t": now_ms}
        body = {"sessionHandle": handle, "userDataInJWT": payload}
        await self._put(client, "recipe/jwt/data", body)

    @staticmethod
    async def _put(
        client: aiohttp.ClientSession, path: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        async with client.put(path, json=body) as reply:
            data: dict[str, Any] = await reply.json(content_type=None)
            return data
