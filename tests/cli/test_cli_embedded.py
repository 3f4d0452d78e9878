"""The line about recipes that the embedded core doesn't serve."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from gateway.cli.embedded import warn_of_embedded_core
from gateway.config import SuperTokensConfig
from gateway.dev.core import CoreSettings, serve
from gateway.dev.listening import listening


@pytest.fixture
async def embedded() -> AsyncIterator[str]:
    async with serve(CoreSettings(apps=("other",))) as core:
        yield core.url


@pytest.fixture
async def real() -> AsyncIterator[str]:
    """Return the URL of a core that doesn't say that it is the embedded one."""

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="Hello\n")

    app = web.Application()
    app.router.add_get("/hello", hello)
    async with listening("real", app, 0) as port:
        yield f"http://127.0.0.1:{port}"


async def said(uri: str, recipes: Any = None, **more: Any) -> str:
    values = {"connection_uri": uri, **more}
    if recipes is not None:
        values["recipes"] = recipes
    settings = SuperTokensConfig.model_validate(values)
    warnings: list[str] = []
    await asyncio.to_thread(warn_of_embedded_core, settings, warnings.append)
    return "".join(f"{text}\n" for text in warnings)


async def test_the_line_names_the_recipes_and_the_core(embedded: str) -> None:
    """One line on standard error has every recipe that the embedded core lacks."""
    recipes: Any = {"emailpassword": {}, "webauthn": {}, "jwt": {}, "totp": {}}
    for uri in (embedded, f"{embedded}/appid-other", f"{embedded};http://127.0.0.1:9"):
        (line,) = (await said(uri, recipes)).splitlines()
        assert line == (
            "these recipes need a real SuperTokens core, and"
            f" {uri.partition(';')[0]} is the embedded development core: totp, webauthn"
        )


async def test_recipes_that_it_serves_need_no_line(embedded: str) -> None:
    """Nothing is said about recipes that the embedded core serves, nor about a module.

    The recipes of a module aren't known.
    """
    assert await said(embedded, {"emailpassword": {}, "jwt": {}}) == ""
    assert await said(embedded, config_module="package.config") == ""


async def test_another_core_needs_no_line(real: str, closed_port: int) -> None:
    """A real core, one that can't be reached, and one with TLS cause no line."""
    for uri in (real, f"http://127.0.0.1:{closed_port}", "https://127.0.0.1:9"):
        assert await said(uri, {"totp": {}}) == ""


async def test_a_core_that_never_answers_delays_the_start_for_a_second_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wait for an answer has a limit."""
    monkeypatch.setattr("gateway.cli.embedded._TIMEOUT_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert await said(f"http://127.0.0.1:{port}", {"totp": {}}) == ""
