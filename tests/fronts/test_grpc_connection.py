"""A front's connection with gRPC, without a socket."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from h2.connection import H2Connection

from gateway.fronts.grpc_connection import GrpcConnection

PATH = b"/service/Method"


class Calls:
    """A listener that counts what it is asked, and never answers."""

    path = PATH

    def __init__(self) -> None:
        self.asked = 0

    def admit(self, _: GrpcConnection) -> bool:
        return True

    def forget(self, _: GrpcConnection) -> None:
        """Nothing is remembered."""

    async def answer(self, _message: bytes, _peer: str) -> bytes:
        self.asked += 1
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


class Transport:
    """A transport without a socket."""

    is_closed = False

    def get_extra_info(self, _: str) -> None:
        return None

    def write(self, _: bytes) -> None:
        """Nobody reads it."""

    def close(self) -> None:
        self.is_closed = True


def call(front: H2Connection, stream: int) -> None:
    """Have a front make a call, whole, with an empty message."""
    fields = [
        *((":method", "POST"), (":scheme", "http"), (":path", PATH.decode())),
        *((":authority", "a"), ("content-type", "application/grpc")),
    ]
    front.send_headers(stream, fields)
    front.send_data(stream, bytes(5), end_stream=True)


@pytest.mark.parametrize("is_begun", [False, True], ids=["at once", "later"])
async def test_a_call_that_is_given_up_is_over(is_begun: bool) -> None:
    """Also if the front has ended it before its answer begins: a slow worker reads both
    at once. Else the connection would never be idle, and a drain would wait for it.
    """
    calls, wire = Calls(), Transport()
    connection = GrpcConnection(calls)
    connection.connection_made(cast("Any", wire))
    front = H2Connection()
    front.initiate_connection()
    call(front, 1)
    if is_begun:
        connection.data_received(front.data_to_send())
        await asyncio.sleep(0)
    front.reset_stream(1)
    connection.data_received(front.data_to_send())
    connection.end_when_idle()
    for _ in range(3):
        await asyncio.sleep(0)
    assert calls.asked == is_begun
    assert connection.active == 0
    assert wire.is_closed
