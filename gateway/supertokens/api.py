"""edge. The SuperTokens SDK's own API, `/auth/*`, and the answer of `/user`."""

from __future__ import annotations

import asyncio
import json

from gateway.http.fields import Fields
from gateway.identity import SessionIdentity
from gateway.responses import Response
from gateway.running import turns_of
from gateway.supertokens import Sdk

_FIRST = ("/session/refresh", "/signout")
"""Calls that don't wait for a turn. Of all others, one starts in each turn of the loop:
the SDK works for milliseconds before it asks the core, and many sign-ins at once would
make session checks wait for all of them.
"""
UNCONFIRMED = "not all workers have acknowledged the end of the session"
"""The log's note when the answer goes out before."""


class Auth:
    """The SDK's API under its base path."""

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk
        self._base = sdk.config.served_path
        self._below = self._base + "/"

    def owns(self, path: str) -> bool:
        """Return whether the canonical *path* is the base path or below it.

        At a segment border: the SDK's own test is a bare prefix, so that with `/auth`
        it would also look at `/authorize`, which is some service's.
        """
        return path.startswith(self._below) or path == self._base

    @staticmethod
    def is_first(path: str) -> bool:
        """Return whether *path* renews or ends a session: it comes before others."""
        return path.endswith(_FIRST)

    async def handle(
        self,
        *,
        method: str,
        path: str,
        query: bytes,
        fields: Fields,
        body: bytes,
        secure: bool,
        authority: str,
    ) -> Response | None:
        """Return the SDK's answer, or None: nothing of its API has this path.

        Its fields are in order, with separate Set-Cookie fields and no Content-Length.

        *path* is canonical, *query* as received without its `?`, *secure* whether the
        client's side is https. Refusals (401, 403, 400) are answers, too.

        Raises:
            CoreUnavailable: the core had to be asked and couldn't be.
            UnknownTenant: the path names a tenant that isn't there.
            BadRequest: the request holds text that can't be encoded or decoded.
            GatewayError: the SDK failed in another way.
        """
        from gateway.supertokens.binding import SdkRequest

        if not self.is_first(path):
            await turns_of(asyncio.get_running_loop()).next()
        reply = await self._sdk.respond(
            SdkRequest(
                method=method,
                path=path,
                query=query,
                fields=fields,
                body=body,
                secure=secure,
                authority=authority,
            )
        )
        if reply is None:
            return None
        return Response(
            status=reply.status_code,
            fields=reply.fields,
            body=reply.body,
            note=UNCONFIRMED if reply.is_unconfirmed else "",
        )


def user(session: SessionIdentity) -> bytes:
    """Return the JSON that `/user` answers with for *session*."""
    return json.dumps(
        {
            "sessionHandle": session.session_handle,
            "userId": session.user_id,
            "accessTokenPayload": dict(session.claims),
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()
