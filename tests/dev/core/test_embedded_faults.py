"""The switches: delays, hangs, errors, garbage, cut connections, and the call log."""

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
    """Return a new core."""
    async with serve() as served:
        yield served


@pytest.fixture
def core(running: RunningCore, http: aiohttp.ClientSession) -> CoreClient:
    """Return its client."""
    return CoreClient(http, running.url)


async def test_error_has_the_cores_own_form(
    core: CoreClient, running: RunningCore
) -> None:
    """An error is a plain sentence, and only for what the pattern names."""
    running.core.faults.error(503, "/recipe/roles", text="busy")
    for path in ("/recipe/roles", "/public/recipe/roles"):
        answer = await core.call("GET", path)
        assert (answer.status, answer.text) == (503, "busy\n")
        assert answer.headers["content-type"] == "text/html; charset=UTF-8"
    assert (await core.call("GET", "/hello")).status == 200
    running.core.faults.clear("/recipe/roles")
    assert (await core.call("GET", "/recipe/roles")).status == 200


async def test_patterns_methods_and_times(
    core: CoreClient, running: RunningCore
) -> None:
    """Globs over the path; one method; only the next calls; the latest one wins."""
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
    """200 with bytes that are no JSON."""
    running.core.faults.garbage("/recipe/roles")
    answer = await core.call("GET", "/recipe/roles")
    assert answer.status == 200
    with pytest.raises(ValueError, match="Unterminated"):
        _ = answer.json


async def test_key_set_faults(core: CoreClient, running: RunningCore) -> None:
    """Empty, a page, or very many keys; then the true ones again."""
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
    """The connection is cut, the core goes on."""
    running.core.faults.disconnect("/recipe/roles")
    with pytest.raises(aiohttp.ClientConnectionError):
        await core.call("GET", "/recipe/roles")
    assert (await core.call("GET", "/hello")).status == 200


async def test_delay(core: CoreClient, running: RunningCore) -> None:
    """The true answer, later; other calls aren't held up."""
    running.core.faults.delay(0.05, "/recipe/roles")
    began = time.monotonic()
    slow = asyncio.create_task(core.call("GET", "/recipe/roles"))
    assert (await core.call("GET", "/hello")).status == 200
    assert not slow.done()
    assert (await slow).status == 200
    assert time.monotonic() - began >= 0.05


async def test_hang_ends_when_it_is_cleared(
    core: CoreClient, running: RunningCore
) -> None:
    """A call that hangs gets its true answer when the switch goes off."""
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
    """An impatient client takes its call along: nothing waits on."""
    running.core.faults.hang()
    hanging = asyncio.create_task(core.call("GET", "/recipe/roles"))
    await running.core.faults.until_called("/recipe/roles")
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    async with asyncio.timeout(5):
        await running.core.faults.until_idle()


async def test_hanging_calls_do_not_hold_up_the_stop(
    http: aiohttp.ClientSession,
) -> None:
    """Stopping cuts them off at once."""
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
    """Every call is there with the path as sent, faulty and unknown ones, too."""
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


async def test_core_can_stop_and_come_back(http: aiohttp.ClientSession) -> None:
    """A core outlives its server: an outage, then the same data at the same port."""
    with closing(Core(CoreSettings())) as core:
        async with serve(core) as running:
            port = running.port
            user_id = await CoreClient(http, running.url).sign_up()
        with pytest.raises(aiohttp.ClientConnectorError):
            await CoreClient(http, running.url).call("GET", "/hello")
        async with serve(core, port=port) as running:
            got = await CoreClient(http, running.url).get("/user/id", userId=user_id)
            assert got["status"] == "OK"
        core.close()  # twice is fine


async def test_failure_inside_is_500(
    core: CoreClient, running: RunningCore, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody foresaw is logged with its cause and told as a plain 500."""
    running.core._apps["public"].store.run("DROP TABLE roles")
    answer = await core.call("GET", "/recipe/roles")
    assert (answer.status, answer.text) == (500, "Internal Error\n")
    assert "no such table: roles" in caplog.text
