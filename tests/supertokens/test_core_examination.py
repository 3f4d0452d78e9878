"""What the core says about its keys and its clock."""

from __future__ import annotations

import contextlib
import time
from asyncio import IncompleteReadError
from email.utils import formatdate

import pytest
from faults import FaultUpstream, Peer

from gateway.dev.core import CoreSettings, serve
from gateway.supertokens.core_examination import ask_for_keys


def core(status: int = 200, body: bytes = b"{}", fields: bytes = b"") -> FaultUpstream:
    async def behaviour(peer: Peer) -> None:
        with contextlib.suppress(ConnectionError, IncompleteReadError):
            head = (await peer.head()).head
            assert head.startswith(b"GET /app/.well-known/jwks.json ")
            await peer.send(
                b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n%b"
                % (status, fields, len(body), body)
            )

    return FaultUpstream(behaviour)


async def test_a_core_with_keys() -> None:
    """The embedded core has usable keys, and this machine's clock."""
    async with serve(CoreSettings(database=":memory:")) as running:
        (answer,) = await ask_for_keys([running.url], timeout_s=10)
    assert answer.host == running.url
    assert answer.trouble == ""
    assert answer.count >= 1
    assert answer.skew_s is not None
    assert abs(answer.skew_s) < 30


@pytest.mark.parametrize("skew_s", [-7200, 7200])
async def test_a_clock_that_is_wrong(skew_s: int) -> None:
    """It is read whatever the answer is otherwise."""
    date = f"Date: {formatdate(time.time() + skew_s, usegmt=True)}\r\n"
    async with core(404, fields=date.encode()) as peer:
        (answer,) = await ask_for_keys([f"{peer.url}/app"], timeout_s=10)
    assert answer.trouble == "it answered with status 404"
    assert answer.skew_s == pytest.approx(skew_s, abs=30)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"<html>", b""),
        (b'{"keys": []}', b"Date: yesterday\r\n"),
        (b" " * (1024**2 + 1), b"Date: Mon, 99 Foo 2020 99:99:99 GMT\r\n"),
    ],
)
async def test_an_answer_without_keys(body: bytes, fields: bytes) -> None:
    """It has a reason; a Date that can't be read is none."""
    async with core(body=body, fields=fields) as peer:
        (answer,) = await ask_for_keys([f"{peer.url}/app"], timeout_s=10)
    assert answer.trouble
    assert (answer.count, answer.skew_s) == (0, None)


async def test_hosts_are_asked_on_their_own(closed_port: int) -> None:
    """One that is dead hides nothing of another."""
    async with serve(CoreSettings(database=":memory:")) as running:
        dead, alive = await ask_for_keys(
            [f"http://127.0.0.1:{closed_port}", running.url], timeout_s=10
        )
    assert "can't be fetched (ClientConnectorError)" in dead.trouble
    assert alive.count
