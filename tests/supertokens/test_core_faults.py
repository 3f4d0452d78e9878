"""A core that is down, slow, wrong or has a wrong clock: rows K1 to K9 of the table.

The tests run a whole gateway with the real SDK and an embedded core with faults. In
all of them no session is refused because of a fault of the core (a 401 would log its
user out), nothing is forwarded unchecked, and the gateway recovers without a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import FaultUpstream, Peer, until
from minting import Mint
from stack import Start, User
from wire import WireReply

from gateway.dev.core import (
    Core,
    CoreSettings,
    Fault,
    Faults,
    ThreadedCore,
    serve_in_thread,
)
from gateway.session.keys import KeyStore
from gateway.supertokens import core as sdk_core

ELSEWHERE = {
    "K1": "test_end_to_end_outage.py::test_no_core_at_all",
    "K1, later": "test_end_to_end_outage.py::test_keys_were_never_fetched",
    "K2": "test_keys.py::test_start_does_not_wait_for_a_core_that_is_slow",
    "K3": "test_end_to_end_outage.py::test_core_stops",
    "K4": "test_end_to_end_outage.py::test_core_hangs_and_others_go_on",
    "K5": "test_end_to_end_outage.py::test_core_misbehaves",
    "K5, /auth": "test_api.py::test_outage_is_503",
    "K7": "test_keys.py::test_the_keys_there_are_stay",
}

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens:
  connection_uri: "${CORE}"
  recipes: {emailpassword: {}, userroles: {}}
  core: {timeout: "${TIMEOUT:-5}", max_concurrent: "${PLACES:-64}"}
  keys: {cooldown: "${COOLDOWN:-0.05}", timeout: "${TIMEOUT:-3}"}
services:
  echo: {targets: ["${UPSTREAM}"]}
routes:
  - {path: /public, service: echo, protected: false}
  - {path: /private, service: echo}
  - {path: /checked, service: echo, session: {check_database: always}}
"""

JWKS = "/.well-known/jwks.json"
TRY_REFRESH = {"message": "try refresh token"}


@pytest.mark.parametrize("row", ELSEWHERE)
def test_the_tests_of_other_rows_exist(row: str) -> None:
    """Each row that another file tests names a test that exists."""
    name, _, function = ELSEWHERE[row].partition("::")
    (path,) = Path(__file__).parents[1].rglob(name)
    text = path.read_text(encoding="utf-8")
    assert f"def {function}(" in text


def assert_unavailable(reply: WireReply) -> None:
    """Check for 503 with Retry-After, and for nothing that ends a client's session."""
    assert reply.status == 503, reply.body
    assert int(reply.one("Retry-After") or "0") >= 1
    assert not reply.all("Set-Cookie")
    assert not reply.all("front-token")


async def until_served(
    user: User, path: str = "/private", *, within_s: float = 10
) -> float:
    """Return the seconds until the user is served; each refusal must be a 503."""
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while (reply := await user.get(path)).status != 200:
            assert_unavailable(reply)
            await asyncio.sleep(0.02)  # retry earlier than Retry-After allows
    return time.monotonic() - began


async def test_k2_slow_at_the_start(start: Start, upstream: FaultUpstream) -> None:
    """K2: requests get 503 until the core sends its keys, and are served then."""
    with serve_in_thread() as core:
        core.core.faults.set(JWKS, Fault(hang=True))
        gateway = await start(ROUTES, CORE=core.url, TIMEOUT="2")
        user = await gateway.sign_up()
        assert (await gateway.ask("GET", "/public")).status == 200
        assert_unavailable(await user.get("/private"))
        core.core.faults.clear()
        await until_served(user)
        assert len(upstream.requests) == 2


async def test_k4_a_call_to_the_core_ends_at_its_timeout(
    start: Start, upstream: FaultUpstream
) -> None:
    """K4: 20 calls that hang end at `core.timeout`; other requests are served."""
    gateway = await start(ROUTES, TIMEOUT="2")
    user = await gateway.sign_up()
    gateway.core.core.faults.hang("/recipe/session/verify")
    began = time.monotonic()
    waiting = [asyncio.create_task(user.get("/checked")) for _ in range(20)]
    assert (await user.get("/private")).status == 200
    for reply in await asyncio.gather(*waiting):
        assert_unavailable(reply)
    assert time.monotonic() - began < 20
    assert len(upstream.requests) == 1


class Relay:
    """A TCP relay to a core; a call that it gets while it `hangs` is never answered."""

    def __init__(self, core: ThreadedCore) -> None:
        self._core = core
        self.hangs = False
        self.held = 0
        """Connections with such a call that the gateway hasn't closed."""

    async def serve(self, peer: Peer) -> None:
        reader, writer = await asyncio.open_connection(self._core.host, self._core.port)
        back = asyncio.create_task(self._answers(reader, peer))
        try:
            while data := await peer.reader.read(65536):
                if self.hangs:
                    self.held += 1
                    await peer.gone()
                    self.held -= 1
                    return
                writer.write(data)
        finally:
            back.cancel()
            writer.close()

    async def _answers(self, reader: asyncio.StreamReader, peer: Peer) -> None:
        while data := await reader.read(65536):
            await peer.send(data)


async def test_k4_time_outs_leave_nothing_behind(
    start: Start, upstream: FaultUpstream
) -> None:
    """K4: after many checks that timed out, no place and no connection is held."""
    with serve_in_thread() as core:
        relay = Relay(core)
        async with FaultUpstream(relay.serve) as server:
            gateway = await start(ROUTES, CORE=server.url, TIMEOUT="0.5", PLACES="4")
            users = [await gateway.sign_up() for _ in range(8)]
            relay.hangs = True
            reasons: Counter[str | None] = Counter()
            for _ in range(4):
                replies = await asyncio.gather(
                    *(user.get("/checked") for user in users)
                )
                for reply in replies:
                    assert_unavailable(reply)
                    reasons[(await gateway.record(reply)).reason] += 1
            await until(lambda: relay.held == 0)
            relay.hangs = False
            for user in users:
                await until_served(user, "/checked")
    # On a busy machine, even a connection may take too long.
    assert set(reasons) <= {"core_timeout", "core_busy", "core_unavailable"}


BAD_REPLIES: dict[str, Callable[[Faults], None]] = {
    "429": lambda faults: faults.error(429),
    "401": lambda faults: faults.error(401, text="Invalid API key"),
    "404": lambda faults: faults.error(404, text="Not found"),
    "HTML": lambda faults: faults.garbage(body=b"<html>please log in</html>"),
    "truncated": lambda faults: faults.garbage(),
    "list": lambda faults: faults.garbage(body=b"[]"),
    "other JSON": lambda faults: faults.garbage(body=b'{"ok": true}'),
    "empty": lambda faults: faults.garbage(body=b""),
}


@pytest.mark.parametrize("reply_badly", BAD_REPLIES.values(), ids=BAD_REPLIES)
async def test_k5_bad_replies(
    start: Start,
    upstream: FaultUpstream,
    caplog: pytest.LogCaptureFixture,
    reply_badly: Callable[[Faults], None],
) -> None:
    """K5: a reply that can't come from a core is an outage: 503, no traceback."""
    gateway = await start(ROUTES, TIMEOUT="2")
    user = await gateway.sign_up()
    reply_badly(gateway.core.core.faults)
    assert_unavailable(await user.get("/checked"))
    assert_unavailable(await user.refresh())
    assert (await user.get("/private")).status == 200
    assert not [line for line in caplog.records if line.exc_info]
    assert user.access not in caplog.text
    gateway.core.core.faults.clear()
    assert (await user.get("/checked")).status == 200
    assert (await user.refresh()).status == 200


async def test_k6_rotation_and_the_old_key_is_gone(
    start: Start, upstream: FaultUpstream
) -> None:
    """K6: the new key is fetched once, and all tokens signed with it are accepted.

    Tokens of the withdrawn key are refused, even if cached; a refresh replaces them.
    """
    with serve_in_thread() as core:
        gateway = await start(ROUTES, CORE=core.url)
        old = await gateway.sign_up("old")
        assert (await old.get("/private")).status == 200
        await asyncio.to_thread(core.do, core.core.rotate_keys(drop_old=True))
        new = await gateway.sign_up("new")
        core.core.faults.forget_calls()
        replies = await asyncio.gather(*(new.get("/private") for _ in range(30)))
        assert {reply.status for reply in replies} == {200}
        assert core.core.faults.count(JWKS) == 1
        refused = await old.get("/private")
        assert (refused.status, refused.json()) == (401, TRY_REFRESH)
        assert (await old.refresh()).status == 200
        assert (await old.get("/private")).status == 200


KEY_SETS: dict[str, Callable[[Faults], None]] = {
    "empty": lambda faults: faults.jwks_empty(),
    "garbage": lambda faults: faults.jwks_garbage(),
    "huge": lambda faults: faults.jwks_huge(),
    "error": lambda faults: faults.error(500, JWKS),
}


@pytest.mark.parametrize("publish", KEY_SETS.values(), ids=KEY_SETS)
async def test_k7_useless_key_sets(
    start: Start, upstream: FaultUpstream, publish: Callable[[Faults], None]
) -> None:
    """K7: the last valid keys stay in use; an unknown key id is 503, not 401."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    store = gateway.app.keys
    assert isinstance(store, KeyStore)
    publish(gateway.core.core.faults)
    await store.refresh()
    assert not store.state().is_fresh
    assert (await user.get("/private")).status == 200
    key = gateway.core.core._apps["public"].keys.signer(static=False)
    stranger = Mint(now=time.time(), kid="d-1", key=key.private).token()
    assert_unavailable(
        await gateway.ask("GET", "/private", ("Authorization", f"Bearer {stranger}"))
    )
    gateway.core.core.faults.clear()
    await store.refresh()
    assert store.state().is_fresh
    assert len(upstream.requests) == 1


async def test_k8_restart_while_a_session_is_checked(
    start: Start, upstream: FaultUpstream, tmp_path: Path
) -> None:
    """K8: requests that wait for the stopped core get 503.

    New ones are served once it is back, sooner than the pause for a dead host ends.
    """
    settings = CoreSettings(database=tmp_path / "core.sqlite")
    with contextlib.ExitStack() as first:
        core = first.enter_context(serve_in_thread(settings))
        gateway = await start(ROUTES, CORE=core.url)
        user = await gateway.sign_up()
        assert (await user.get("/checked")).status == 200
        core.core.faults.forget_calls()
        core.core.faults.hang("/recipe/session/verify")
        waiting = asyncio.create_task(user.get("/checked"))
        await core.core.faults.until_called("*/recipe/session/verify")
        await asyncio.to_thread(first.close)
        assert_unavailable(await waiting)
    assert (await user.get("/private")).status == 200
    assert_unavailable(await user.get("/checked"))
    with contextlib.ExitStack() as second:
        await asyncio.to_thread(
            second.enter_context, serve_in_thread(settings, port=core.port)
        )
        assert await until_served(user, "/checked") < sdk_core._DEAD_S - 1
        await asyncio.to_thread(second.close)


@pytest.mark.parametrize(
    ("ahead_s", "status"),
    [(-300, 200), (-3, 200), (3, 200), (300, 401)],
    ids=["5 min behind", "3 s behind", "3 s ahead", "5 min ahead"],
)
async def test_k9_the_cores_clock(
    start: Start, upstream: FaultUpstream, ahead_s: float, status: int
) -> None:
    """K9: the core's clock may be 5 s ahead, and behind by a token's lifetime.

    Further ahead (`tokens.IAT_LEEWAY_S`) its tokens aren't valid yet: requests get 401
    and aren't forwarded. Public routes are served.
    """
    clock_ahead = Core(CoreSettings(), clock=lambda: time.time() + ahead_s)
    with contextlib.closing(clock_ahead), serve_in_thread(clock_ahead) as core:
        gateway = await start(ROUTES, CORE=core.url)
        user = await gateway.sign_up()
        reply = await user.get("/private")
        assert reply.status == status
        if status == 401:
            assert reply.json() == TRY_REFRESH
        assert len(upstream.requests) == (status == 200)
        assert (await user.get("/public")).status == 200
        assert upstream.requests[-1].line == b"GET /public HTTP/1.1"
