"""Fault injection: delays, hangs, errors, garbage, cut connections; the call log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import closing

import aiohttp
import pytest
from dev.core.core_client import CoreClient

from gateway.dev.core import Core, CoreSettings, Fault, RunningCore, serve
from gateway.dev.core.serving import _SHUTDOWN_S

_VERIFY = "/recipe/session/verify"
_JWKS = "/.well-known/jwks.json"


@pytest.fixture
async def running() -> AsyncIterator[RunningCore]:
    """Return a new core that is being served."""
    async with serve() as served:
        yield served


@pytest.fixture
def core(running: RunningCore, http: aiohttp.ClientSession) -> CoreClient:
    """Return a client of the new core."""
    return CoreClient(http, running.url)


async def test_error_has_the_form_of_the_core(
    core: CoreClient, running: RunningCore
) -> None:
    """An injected error is plain text, and only for paths that match the pattern."""
    running.core.faults.error(503, "/recipe/roles", text="busy")
    for path in ("/recipe/roles", "/public/recipe/roles"):
        response = await core.call("GET", path)
        assert (response.status, response.text) == (503, "busy\n")
        assert response.headers["content-type"] == "text/html;charset=UTF-8"
    assert (await core.call("GET", "/hello")).status == 200
    running.core.faults.clear("/recipe/roles")
    assert (await core.call("GET", "/recipe/roles")).status == 200


async def test_patterns_methods_and_times(
    core: CoreClient, running: RunningCore
) -> None:
    """A fault has a path pattern, a method and a count; the latest match applies."""
    faults = running.core.faults
    broken = Fault(status=500, body=b"x")
    faults.set("/public/*", broken, times=2)
    faults.set("*", Fault(status=418, body=b"x"), method="DELETE")
    statuses = [
        (await core.call(method, path)).status
        for method, path in (
            ("GET", "/public/recipe/roles"),
            ("GET", "/recipe/roles"),
            ("GET", "/public/recipe/roles"),
            ("GET", "/public/recipe/roles"),
            ("DELETE", "/nowhere"),
        )
    ]
    assert statuses == [500, 200, 500, 200, 418]


async def test_garbage(core: CoreClient, running: RunningCore) -> None:
    """`garbage` answers 200 with a body that isn't JSON."""
    running.core.faults.garbage("/recipe/roles")
    response = await core.call("GET", "/recipe/roles")
    assert response.status == 200
    with pytest.raises(ValueError, match="Unterminated"):
        _ = response.json


async def test_key_set_faults(core: CoreClient, running: RunningCore) -> None:
    """The key set can be empty, HTML or huge; `clear` restores the real keys."""
    faults = running.core.faults
    faults.jwks_empty()
    assert (await core.call("GET", _JWKS)).json == {"keys": []}
    faults.jwks_garbage()
    assert (await core.call("GET", _JWKS)).text.startswith("<html>")
    faults.jwks_huge()
    keys = (await core.call("GET", _JWKS)).json["keys"]
    assert len({key["kid"] for key in keys}) == 20_000
    assert len({key["n"] for key in keys}) == 20_000
    faults.clear()
    assert len((await core.call("GET", _JWKS)).json["keys"]) == 2


async def test_disconnect(core: CoreClient, running: RunningCore) -> None:
    """The connection is cut and the core answers the next request."""
    running.core.faults.disconnect("/recipe/roles")
    with pytest.raises(aiohttp.ClientConnectionError):
        await core.call("GET", "/recipe/roles")
    assert (await core.call("GET", "/hello")).status == 200


async def test_delay(core: CoreClient, running: RunningCore) -> None:
    """A delayed call gets its real response later; other calls aren't delayed."""
    faults = running.core.faults
    faults.delay(0.05, "/recipe/roles")
    began = time.monotonic()
    assert (await core.call("GET", "/recipe/roles")).status == 200
    assert time.monotonic() - began >= 0.05
    faults.forget_calls()
    faults.delay(3600, "/recipe/roles")
    delayed = asyncio.create_task(core.call("GET", "/recipe/roles"))
    await faults.until_called("/recipe/roles")
    assert (await core.call("GET", "/hello")).status == 200
    assert not delayed.done()
    delayed.cancel()


async def test_hang_ends_when_it_is_cleared(
    core: CoreClient, running: RunningCore
) -> None:
    """A hanging call gets its real response once the fault is cleared."""
    running.core.faults.hang("/recipe/roles")
    hanging = asyncio.create_task(core.call("GET", "/recipe/roles"))
    await running.core.faults.until_called("/recipe/roles")
    assert (await core.call("GET", "/hello")).status == 200
    assert not hanging.done()
    running.core.faults.clear()
    assert (await hanging).status == 200


async def test_hang_ends_when_the_client_leaves(
    core: CoreClient, running: RunningCore
) -> None:
    """When the client disconnects, its hanging call ends."""
    running.core.faults.hang()
    hanging = asyncio.create_task(core.call("GET", "/recipe/roles"))
    await running.core.faults.until_called("/recipe/roles")
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    async with asyncio.timeout(5):
        await running.core.faults.until_idle()


async def test_hanging_calls_do_not_delay_the_stop(
    http: aiohttp.ClientSession,
) -> None:
    """The stop cancels hanging calls instead of waiting for them."""
    async with serve() as running:
        running.core.faults.hang()
        core = CoreClient(http, running.url)
        hanging = [asyncio.create_task(core.call("GET", "/hello")) for _ in range(5)]
        await running.core.faults.until_called("/hello", times=5)
        began = time.monotonic()
    assert time.monotonic() - began < _SHUTDOWN_S
    results = await asyncio.gather(*hanging, return_exceptions=True)
    assert all(isinstance(result, aiohttp.ClientError) for result in results)


async def test_call_log(core: CoreClient, running: RunningCore) -> None:
    """The log has each call with its path as sent, failed and unknown ones too."""
    faults = running.core.faults
    faults.error(500, "/recipe/roles")
    for method, path in (
        ("GET", "/public/recipe/roles"),
        ("GET", "/hello"),
        ("POST", "/nowhere"),
    ):
        await core.call(method, path)
    assert faults.calls == [
        ("GET", "/public/recipe/roles"),
        ("GET", "/hello"),
        ("POST", "/nowhere"),
    ]
    assert faults.count() == 3
    assert faults.count("/public/*") == 1
    assert faults.count(method="POST") == 1
    faults.forget_calls()
    assert faults.calls == []


async def test_core_can_be_served_again(http: aiohttp.ClientSession) -> None:
    """After an outage a core is served at the same port with the same data."""
    with closing(Core(CoreSettings())) as core:
        async with serve(core) as running:
            port = running.port
            user_id = await CoreClient(http, running.url).sign_up()
        with pytest.raises(aiohttp.ClientConnectorError):
            await CoreClient(http, running.url).call("GET", "/hello")
        async with serve(core, port=port) as running:
            response = await CoreClient(http, running.url).get(
                "/user/id", userId=user_id
            )
            assert response["status"] == "OK"
        core.close()  # `closing` closes it again, which must do nothing


async def test_unexpected_exception_is_500(
    core: CoreClient, running: RunningCore, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception is logged with its cause; the client gets a plain 500."""
    running.core._apps["public"].store.run("DROP TABLE roles")
    response = await core.call("GET", "/recipe/roles")
    assert (response.status, response.text) == (500, "Internal Error\n")
    assert "no such table: roles" in caplog.text
