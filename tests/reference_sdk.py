"""The reference of the differential test: the unmodified SDK and its FastAPI binding.

    async with reference({"connection_uri": url, …}) as sdk:
        responses = await sdk.ask(calls)

It runs in a process of its own, because `gateway.supertokens` replaces names in the
SDK's modules. That process fails if it has imported anything of the gateway. A call is
`(method, path, fields)`; the paths are `/required`, `/optional` and `/checked`
(required, `check_database`).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from sdk_responses import SdkResponse
from supertokens_python import InputAppInfo, SupertokensConfig, init
from supertokens_python.framework.fastapi import get_middleware
from supertokens_python.recipe import emailpassword, session, userroles
from supertokens_python.recipe.session.framework.fastapi import verify_session

Call = tuple[str, str, tuple[tuple[bytes, bytes], ...]]


class Reference:
    """The running process; it takes calls in batches."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, calls: Sequence[Call]) -> list[SdkResponse]:
        """Make *calls* one after the other; return the SDK's responses."""
        batch = [
            (
                method,
                path,
                [(n.decode("latin-1"), v.decode("latin-1")) for n, v in sent],
            )
            for method, path, sent in calls
        ]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(batch).encode() + b"\n")
        await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        assert line, "the reference ended; see its traceback"
        return [
            SdkResponse(
                status=status,
                fields=tuple(
                    (name.encode("latin-1"), value.encode("latin-1"))
                    for name, value in fields
                ),
                body=body.encode("latin-1"),
            )
            for status, fields, body in json.loads(line)
        ]


@asynccontextmanager
async def reference(settings: dict[str, str]) -> AsyncIterator[Reference]:
    """Run the unmodified SDK, set up with *settings*, for the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        json.dumps(settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "SUPERTOKENS_TLDEXTRACT_DISABLE_HTTP": "1"},
        limit=2**26,
    )
    assert process.stdin is not None
    try:
        yield Reference(process)
    finally:
        process.stdin.close()
        code = await process.wait()
    assert code == 0, "the reference failed, or had imported the gateway"


# --- the process ------------------------------------------------------------------


def main() -> None:
    ask = binding(json.loads(sys.argv[1]))
    # One loop for all batches, as in a server.
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            responses = [runner.run(ask(*call)) for call in json.loads(line)]
            print(json.dumps(responses), flush=True)
    assert not [name for name in sys.modules if name.partition(".")[0] == "gateway"]


def binding(settings: dict[str, Any]) -> Any:
    """Start the SDK; return a function that calls an app built as its docs describe."""
    init(
        app_info=InputAppInfo(
            app_name=settings["app_name"],
            api_domain=settings["api_domain"],
            website_domain=settings["website_domain"],
        ),
        supertokens_config=SupertokensConfig(settings["connection_uri"]),
        framework="fastapi",
        mode="asgi",
        recipe_list=[
            session.init(anti_csrf=settings["anti_csrf"]),
            emailpassword.init(),
            userroles.init(),
        ],
        telemetry=False,
    )
    app = FastAPI()
    app.add_middleware(get_middleware())  # type: ignore[no-untyped-call] # the SDK's

    def route(path: str, *, required: bool, check_database: bool = False) -> None:
        @app.api_route(path, methods=["GET", "POST"])
        async def handler(request: Request) -> Response:
            # A new dependency for each request: one dependency shares its user context,
            # with the first request in it, among all its requests.
            verified = await verify_session(
                session_required=required, check_database=check_database
            )(request)
            return Response(_user(verified))

    route("/required", required=True)
    route("/optional", required=False)
    route("/checked", required=True, check_database=True)

    async def ask(method: str, path: str, fields: list[tuple[str, str]]) -> Any:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in fields
            ],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 8000),
        }
        try:
            await app(scope, receive, send)
        except Exception as exc:  # noqa: BLE001 - an error of the SDK is a 500
            return 500, [], type(exc).__name__
        ignored = {b"content-length"}
        if sent[0]["status"] == 200:
            ignored.add(b"access-control-expose-headers")  # `downstream.cors` sets it
        head = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in sent[0]["headers"]
            if name not in ignored
        ]
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], head, body.decode("latin-1")

    return ask


def _user(session: Any) -> bytes:
    """Return a session's identity as JSON; `null` if there is no session."""
    if session is None:
        return b"null"
    return json.dumps(
        [
            session.get_user_id(),
            session.get_recipe_user_id().get_as_string(),
            session.get_handle(),
            session.get_tenant_id(),
            session.get_access_token_payload(),
        ]
    ).encode()


if __name__ == "__main__":
    main()
