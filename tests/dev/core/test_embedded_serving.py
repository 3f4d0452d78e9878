"""Starting and stopping: addresses, API keys, settings, the limit of a body."""

from __future__ import annotations

import asyncio
import io
import logging
import socket

import aiohttp
import pytest
from dev.core.core_client import CoreClient

from gateway.dev.core import (
    NOTICE,
    BadSettings,
    CoreSettings,
    RunningCore,
    UnsafeBind,
    check_bind,
    run,
    serve,
    serve_in_thread,
)

_KEY = "a-key-of-twenty-characters"
_OTHER_KEY = "another-key-of-twenty-or-more"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_addresses_are_allowed(host: str) -> None:
    """`check_bind` accepts each form of a loopback address."""
    check_bind(host, unsafe_bind=False)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.0.2.1", "example.com", "127.1"]
)
async def test_other_addresses_are_refused(host: str) -> None:
    """Every other address needs `unsafe_bind`, in each function that starts a core."""
    with pytest.raises(UnsafeBind, match="loopback only"):
        check_bind(host, unsafe_bind=False)
    with pytest.raises(UnsafeBind):
        async with serve(host=host):
            pass
    with pytest.raises(UnsafeBind):
        await run(host, 0, CoreSettings())
    check_bind(host, unsafe_bind=True)


async def test_unsafe_bind_is_possible(http: aiohttp.ClientSession) -> None:
    """With `unsafe_bind` the core listens on all interfaces."""
    async with serve(host="0.0.0.0", unsafe_bind=True) as running:
        url = f"http://127.0.0.1:{running.port}"
        assert (await CoreClient(http, url).call("GET", "/hello")).status == 200


async def test_ipv6_url_has_brackets(http: aiohttp.ClientSession) -> None:
    """The URL of an IPv6 address works without changes."""
    async with serve(host="::1") as running:
        assert running.url == f"http://[::1]:{running.port}"
        assert (await CoreClient(http, running.url).call("GET", "/hello")).status == 200


async def test_taken_port_is_an_os_error() -> None:
    """A port in use is an OSError that names the port."""
    async with serve() as running:
        with pytest.raises(OSError, match=str(running.port)):
            async with serve(port=running.port):
                pass


async def test_run_logs_a_notice_and_stops_when_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`run` logs the notice and the URL; cancelling it closes the socket."""
    started: asyncio.Future[RunningCore] = asyncio.get_running_loop().create_future()
    with caplog.at_level(logging.WARNING):
        task = asyncio.create_task(
            run("127.0.0.1", 0, CoreSettings(), on_start=started.set_result)
        )
        running = await started
    assert NOTICE in caplog.text
    assert running.url in caplog.text
    async with aiohttp.ClientSession() as http:
        assert (await CoreClient(http, running.url).call("GET", "/hello")).status == 200
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port))


async def test_core_in_a_thread(http: aiohttp.ClientSession) -> None:
    """The core runs in a loop of its own; other threads can set its faults."""
    with serve_in_thread() as running:
        kid = running.do(running.core.rotate_keys())
        core = CoreClient(http, running.url)
        jwks = (await core.call("GET", "/.well-known/jwks.json")).json
        assert jwks["keys"][0]["kid"] == kid
        running.core.faults.hang("/hello")
        hanging = asyncio.create_task(core.call("GET", "/hello"))
        async with asyncio.timeout(5):
            await running.core.faults.until_called("/hello")
        running.core.faults.clear()
        assert (await hanging).status == 200


async def test_error_at_the_start_of_a_thread_is_raised() -> None:
    """The caller gets the error of the thread instead of a hang."""
    async with serve() as running:
        with (
            pytest.raises(OSError, match=str(running.port)),
            serve_in_thread(port=running.port),
        ):
            pass


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"api-key": "wrong"}, 401),
        ({"api-key": ""}, 401),
        ({"api-key": _KEY[:-1]}, 401),
        ({"Authorization": f"Basic {_KEY}"}, 401),
        ({"api-key": _KEY}, 200),
        ({"api-key": f" {_OTHER_KEY} "}, 200),
        ({"Authorization": f"Bearer {_KEY}"}, 200),
    ],
)
async def test_api_key(
    http: aiohttp.ClientSession, headers: dict[str, str], status: int
) -> None:
    """Each configured key is accepted; `/hello` and the key set need none."""
    settings = CoreSettings(api_keys=(_KEY, _OTHER_KEY))
    async with serve(settings) as running:
        core = CoreClient(http, running.url)
        sent = {"cdi-version": "5.4", **headers}
        for path in ("/recipe/roles", "/apiversion"):
            response = await core.call("GET", path, headers=sent)
            assert response.status == status
            if status == 401:
                assert response.text == "Invalid API key\n"
        # Without a valid key a wrong method is 401, too.
        wrong = await core.call("DELETE", "/recipe/roles", headers=sent)
        assert wrong.status == (405 if status == 200 else 401)
        for path in ("/hello", "/.well-known/jwks.json"):
            assert (await core.call("GET", path, headers=headers)).status == 200


def test_all_bad_settings_are_reported_at_once() -> None:
    """One message names every problem and contains no API key."""
    with pytest.raises(BadSettings) as caught:
        CoreSettings(
            api_keys=("short-key",),
            apps=("public", "Bad Name", "good"),
            access_token_validity_s=0,
            access_token_jitter=1.0,
            signing_key_update_interval_s=60,
        )
    text = str(caught.value)
    for part in (
        "access_token_validity_s must be at least 1",
        "signing_key_update_interval_s must be at least 120",
        "access_token_jitter",
        "api_keys",
        "'public'",
        "'Bad Name'",
    ):
        assert part in text
    assert "short-key" not in text
    assert "'good'" not in text


def test_defaults_are_those_of_the_real_core() -> None:
    """Access tokens: 1 h less up to 5 %; sessions: 100 days; signing keys: 168 h."""
    settings = CoreSettings()
    assert settings.access_token_validity_s == 3600
    assert settings.access_token_jitter == 0.05
    assert settings.refresh_token_validity_s == 8_640_000
    assert settings.signing_key_update_interval_s == 604_800


async def test_body_has_a_limit(http: aiohttp.ClientSession) -> None:
    """A body above the limit is 413, and the core answers the next request."""
    async with serve() as running:
        core = CoreClient(http, running.url)
        large = io.BytesIO(b"x" * (1 << 21))
        async with http.put(f"{running.url}/recipe/role", data=large) as response:
            assert response.status == 413
        assert (await core.call("GET", "/hello")).status == 200
