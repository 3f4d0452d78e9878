"""edge. Ending sessions at the core, for the hub, which never starts the SDK.

Source: CDI 5.4, `/recipe/session/user` and `/recipe/session/remove`, as the SDK calls
them (`session_functions.get_all_session_handles_for_user`, `revoke_multiple_sessions`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final

import aiohttp
from yarl import URL

from gateway.seams import supertokens as seams
from gateway.supertokens import core_answers
from gateway.supertokens.core_check import authorities

_MAX_BYTES: Final = 4 * 1024**2
"""Of an answer: 100,000 handles of 40 bytes."""
_PUBLIC: Final = "public"


class CoreCallFailed(Exception):
    """The core hasn't done what it was asked. The text is the reason, no secret."""


class CoreSessions:
    """Asks the core about sessions, and has it end them."""

    def __init__(
        self, hosts: Sequence[str], api_key: str | None, *, timeout_s: float
    ) -> None:
        """*hosts* are the core's addresses: scheme, authority and base path.

        *timeout_s* is for one call to one host.
        """
        self._hosts = tuple(map(URL, hosts))
        self._fields = {"rid": "session"}
        if api_key is not None:
            self._fields["api-key"] = api_key
        self._timeout_s = timeout_s

    async def handles_of(self, user_id: str, tenant_id: str | None) -> list[str]:
        """Return the handles of a user's sessions, those of linked accounts included.

        None: in all tenants.

        Raises:
            CoreCallFailed: the core hasn't said.
        """
        body = await self._call(
            "GET",
            f"/{tenant_id or _PUBLIC}/recipe/session/user",
            params={
                "userId": user_id,
                "fetchSessionsForAllLinkedAccounts": "true",
                "fetchAcrossAllTenants": "true" if tenant_id is None else "false",
            },
        )
        match body:
            case {"sessionHandles": list() as handles}:
                return [handle for handle in handles if isinstance(handle, str)]
            case _:
                raise CoreCallFailed("the core's reply isn't one of a core")

    async def remove(self, handles: Sequence[str]) -> int:
        """Have the core end sessions; return how many there were.

        Raises:
            CoreCallFailed: the core hasn't said that it did.
        """
        body = await self._call(
            "POST", "/recipe/session/remove", json={"sessionHandles": list(handles)}
        )
        match body:
            case {"sessionHandlesRevoked": list() as revoked}:
                return len(revoked)
            case _:
                raise CoreCallFailed("the core's reply isn't one of a core")

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        """Return the answer of the first host that answers: they share a database."""
        failed = CoreCallFailed("a network_interceptor changes calls to the core")
        context = await authorities(self._hosts)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context or True),
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as http:
            for host in self._hosts:
                try:
                    async with asyncio.timeout(self._timeout_s):
                        version = await self._version(http, host)
                        return await self._ask(
                            http, method, host, path, version, **options
                        )
                except (TimeoutError, aiohttp.ClientError, OSError):
                    failed = CoreCallFailed("the core can't be reached")
        raise failed

    async def _version(self, http: aiohttp.ClientSession, host: URL) -> str:
        """Return the newest version of the protocol that the core and the SDK speak."""
        known = seams.cdi_versions()
        body = await self._ask(http, "GET", host, "/apiversion", known[-1])
        versions = body.get("versions")
        common = {*known} & {*versions} if isinstance(versions, list) else set()
        if not common:
            raise CoreCallFailed("the core speaks no version of the SDK's protocol")
        return max(common, key=lambda version: [*map(int, version.split("."))])

    async def _ask(
        self,
        http: aiohttp.ClientSession,
        method: str,
        host: URL,
        path: str,
        version: str,
        **options: Any,
    ) -> Any:
        """Return what the core at *host* answers, a JSON object.

        Raises:
            CoreCallFailed: it refuses.
        """
        async with http.request(
            method,
            host.with_path(host.path.rstrip("/") + path),
            headers={**self._fields, "cdi-version": version},
            allow_redirects=False,
            **options,
        ) as reply:
            return _judged(reply.status, await _text(reply))


async def _text(reply: aiohttp.ClientResponse) -> str:
    parts = bytearray()
    async for part in reply.content.iter_chunked(65536):
        parts += part
        if len(parts) > _MAX_BYTES:
            raise CoreCallFailed("the core's reply is too long")
    return parts.decode("utf-8", "replace")


def _judged(status: int, text: str) -> Any:
    refusal = core_answers.refusal(status, text)
    if refusal is not None:
        raise CoreCallFailed(f"the core {refusal.text}")
    if status != 200:
        missing = core_answers.missing_tenant(text)
        if missing is not None:
            raise CoreCallFailed("the core has no such tenant")
        raise CoreCallFailed(f"the core answered {status}")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    match body:
        case {"status": "OK"} | {"versions": list()}:
            return body
        case {"status": "TENANT_NOT_FOUND_ERROR"}:
            raise CoreCallFailed("the core has no such tenant")
        case _:
            raise CoreCallFailed("the core's reply isn't one of a core")
