"""Rows U1 to U10, U14 to U18, C30, C31 and I3 of the fault table, for this leg."""

import asyncio
import socket
import threading
import time

import pytest
from faults import (
    BAD_REPLIES,
    CHUNKED_HEAD,
    CUT_BODIES,
    CUT_REPLIES,
    FAULTS,
    OK,
    Behaviour,
    FaultUpstream,
    Peer,
    answer,
    answer_and_close,
    answer_and_hang,
    black_hole,
    drip,
    until,
)

from gateway.config import TimeoutsConfig
from gateway.errors import (
    BadReply,
    ConnectFailed,
    ConnectTimeout,
    UpstreamClosed,
    UpstreamTimeout,
)
from gateway.upstream import Reply, UpstreamPool, Upstreams, UpstreamTarget

GET = b"GET /a HTTP/1.1\r\nHost: up\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: up\r\nContent-Length: 2\r\n\r\n"


async def get(
    pool: UpstreamPool,
    timeouts: TimeoutsConfig,
    *,
    method: str = "GET",
    replay: bool = True,
) -> Reply:
    head = GET.replace(b"GET", method.encode())
    return await pool.exchange(head, method=method, timeouts=timeouts, replay=replay)


async def whole(reply: Reply) -> bytes:
    body = b""
    while piece := await reply.read():
        body += piece
    return body


def pool_of(upstreams: Upstreams, upstream: FaultUpstream) -> UpstreamPool:
    return upstreams.pool(UpstreamTarget.parse(upstream.url))


async def assert_not_reused(
    pool: UpstreamPool, upstream: FaultUpstream, timeouts: TimeoutsConfig
) -> None:
    """The next exchange gets a connection of its own, and its own reply."""
    before = upstream.connections
    upstream.behaviour = answer(OK)
    reply = await get(pool, timeouts)
    assert await whole(reply) == b"ok"
    assert upstream.connections == before + 1


# --- no connection ------------------------------------------------------------


async def test_u1_refused_is_502_at_once(
    upstreams: Upstreams, timeouts: TimeoutsConfig, closed_port: int
) -> None:
    """A closed port fails without the connect timeout, and nothing was sent."""
    pool = upstreams.pool(UpstreamTarget.parse(f"http://127.0.0.1:{closed_port}"))
    with pytest.raises(ConnectFailed) as caught:
        await get(pool, timeouts)
    assert not isinstance(caught.value, ConnectTimeout)
    assert (caught.value.status, caught.value.unsent) == (502, True)
    assert pool.open == 0


async def test_u2_black_hole_is_504_after_the_connect_timeout(
    upstreams: Upstreams,
) -> None:
    """An address that doesn't answer a SYN costs `connect`, no more."""
    async with black_hole() as port:
        pool = upstreams.pool(UpstreamTarget.parse(f"http://127.0.0.1:{port}"))
        with pytest.raises(ConnectTimeout) as caught:
            await get(pool, TimeoutsConfig(connect=0.1))
    assert (caught.value.status, caught.value.unsent) == (504, True)
    assert pool.open == 0


# --- no reply -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["hang before head", "hang in head"])
async def test_u3_hang_before_the_head_is_504(
    upstreams: Upstreams, timeouts: TimeoutsConfig, name: str
) -> None:
    """Without a whole head in `response` seconds: 504, and the connection is closed."""
    async with FaultUpstream(FAULTS[name]) as upstream:
        pool = pool_of(upstreams, upstream)
        with pytest.raises(UpstreamTimeout):
            await get(pool, TimeoutsConfig(response=0.05))
        await upstream.lost.wait()
        assert len(upstream.requests) == 1
        await assert_not_reused(pool, upstream, timeouts)


async def test_u4_hang_in_the_body_is_no_clean_end(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """What came is delivered; then the read fails after `idle` seconds."""
    async with FaultUpstream(FAULTS["hang in body"]) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await get(pool, TimeoutsConfig(idle=0.05))
        assert await reply.read() == b"hi"
        with pytest.raises(UpstreamTimeout):
            await reply.read()
        await upstream.lost.wait()
        assert not reply.complete
        await assert_not_reused(pool, upstream, timeouts)


async def test_total_bounds_a_reply_that_never_stops_dripping(
    upstreams: Upstreams,
) -> None:
    """`idle` never strikes a drip; `total` does."""
    body = drip(OK.replace(b": 2", b": 9999") + b"x" * 1000, gap_s=0.01, size=60)
    async with FaultUpstream(body) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await get(pool, TimeoutsConfig(idle=0.2, total=0.1))
        with pytest.raises(UpstreamTimeout, match="total time"):
            await whole(reply)


@pytest.mark.parametrize("name", ["close before reply", "reset before reply"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_u5_closed_before_the_reply_on_a_fresh_connection(
    upstreams: Upstreams, timeouts: TimeoutsConfig, name: str, method: str
) -> None:
    """502, and sent once whatever the method: this is no keep-alive race."""
    async with FaultUpstream(FAULTS[name]) as upstream:
        pool = pool_of(upstreams, upstream)
        with pytest.raises(UpstreamClosed) as caught:
            await get(pool, timeouts, method=method)
        assert (caught.value.status, caught.value.reused) == (502, False)
        assert len(upstream.requests) == 1
        await assert_not_reused(pool, upstream, timeouts)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_u6_reset_of_a_used_connection_is_replayed_once(
    upstreams: Upstreams, timeouts: TimeoutsConfig, method: str
) -> None:
    """Nothing of the reply had come, so the request goes to a fresh connection."""
    async with FaultUpstream(FAULTS["reset second request"]) as upstream:
        pool = pool_of(upstreams, upstream)
        await whole(await get(pool, timeouts))
        reply = await get(pool, timeouts, method=method)
        assert reply.status == 200
        reply.close()
        assert [request.connection for request in upstream.requests] == [1, 1, 2]
        assert pool.replayed == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "FOO"])
async def test_u6_other_methods_are_never_sent_twice(
    upstreams: Upstreams, timeouts: TimeoutsConfig, method: str
) -> None:
    """The service may have acted on the first one: 502."""
    async with FaultUpstream(FAULTS["reset second request"]) as upstream:
        pool = pool_of(upstreams, upstream)
        await whole(await get(pool, timeouts))
        with pytest.raises(UpstreamClosed) as caught:
            await get(pool, timeouts, method=method)
        assert caught.value.reused
        assert len(upstream.requests) == 2
        assert pool.replayed == 0


async def test_u6_a_get_with_a_body_or_without_leave_is_not_replayed(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """A body can't be had twice, and a route may say `retry: {attempts: 0}`."""
    async with FaultUpstream(FAULTS["reset second request"]) as upstream:
        pool = pool_of(upstreams, upstream)
        await whole(await get(pool, timeouts))
        with pytest.raises(UpstreamClosed):
            await get(pool, timeouts, replay=False)
        await whole(await get(pool, timeouts))
        head = GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n")
        with pytest.raises(UpstreamClosed):
            await pool.exchange(
                head, method="GET", timeouts=timeouts, body=b"hi", content_length=2
            )
        assert len(upstream.requests) == 4


async def test_u6_part_of_a_reply_forbids_the_replay(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """One byte of the reply is proof that the request was acted on."""

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(b"H")

    async with FaultUpstream(behaviour) as upstream:
        pool = pool_of(upstreams, upstream)
        await whole(await get(pool, timeouts))
        with pytest.raises(UpstreamClosed):
            await get(pool, timeouts)
        assert len(upstream.requests) == 2


async def test_u7_u17_closing_after_each_reply_costs_no_get(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """An upstream that drops each connection it promised to keep: no error, no leak."""
    async with FaultUpstream(FAULTS["close after reply"]) as upstream:
        pool = pool_of(upstreams, upstream)

        async def client() -> None:
            for _ in range(25):
                assert await whole(await get(pool, timeouts)) == b"ok"

        await asyncio.gather(*(client() for _ in range(8)))
        assert len(upstream.requests) == 200
        assert pool.open <= 8


async def test_u17_a_post_isnt_sent_on_a_connection_whose_end_has_arrived(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """Even when the loop hasn't read the FIN yet: the socket is asked first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(OK)

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        pool = upstreams.pool(UpstreamTarget.parse(f"http://127.0.0.1:{port}"))
        await whole(await get(pool, timeouts))
        time.sleep(0.05)  # noqa: ASYNC251 - the FIN arrives, and the loop can't see it
        assert pool.idle == 1
        reply = await pool.exchange(
            POST, method="POST", timeouts=timeouts, body=b"hi", content_length=2
        )
        assert await whole(reply) == b"ok"
        assert pool.dialled == 2
        thread.join()


# --- replies that can't be passed on ------------------------------------------


@pytest.mark.parametrize("name", BAD_REPLIES)
async def test_u8_i3_bad_replies_are_502(
    upstreams: Upstreams, timeouts: TimeoutsConfig, name: str
) -> None:
    """Refused, closed, never used again; the log's text has none of its bytes."""
    async with FaultUpstream(FAULTS[name]) as upstream:
        pool = pool_of(upstreams, upstream)
        with pytest.raises(BadReply) as caught:
            await whole(await get(pool, timeouts))
        assert caught.value.status == 502
        assert caught.value.detail.startswith(upstream.url + ": ")
        assert "hi" not in caught.value.detail.split()
        await upstream.lost.wait()
        assert len(upstream.requests) == 1
        await assert_not_reused(pool, upstream, timeouts)


@pytest.mark.parametrize("name", CUT_REPLIES)
async def test_u8_cut_heads_are_502(
    upstreams: Upstreams, timeouts: TimeoutsConfig, name: str
) -> None:
    """The connection ended before the head did."""
    async with FaultUpstream(FAULTS[name]) as upstream:
        pool = pool_of(upstreams, upstream)
        with pytest.raises(UpstreamClosed) as caught:
            await get(pool, timeouts)
        assert caught.value.status == 502
        await assert_not_reused(pool, upstream, timeouts)


@pytest.mark.parametrize("name", [*CUT_BODIES, "reset in body"])
async def test_u9_cut_bodies_never_end_cleanly(
    upstreams: Upstreams, timeouts: TimeoutsConfig, name: str
) -> None:
    """The head was good, so the client has it; the body's end is an error."""
    async with FaultUpstream(FAULTS[name]) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await get(pool, timeouts)
        assert reply.status == 200
        with pytest.raises(UpstreamClosed):
            await whole(reply)
        assert not reply.complete
        await assert_not_reused(pool, upstream, timeouts)


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(FAULTS["surplus reply"], id="in the same segment"),
        pytest.param(FAULTS["surplus later"], id="while idle"),
        pytest.param(answer_and_hang(OK + b"x"), id="one byte"),
        pytest.param(
            answer_and_hang(CHUNKED_HEAD + b"2\r\nok\r\n0\r\n\r\n" + OK), id="chunked"
        ),
        pytest.param(
            answer_and_hang(CHUNKED_HEAD + b"2\r\nok\r\n0\r\n\r\n\0"), id="chunked, NUL"
        ),
    ],
)
async def test_c30_nobody_gets_a_reply_that_was_not_asked_for(
    upstreams: Upstreams, timeouts: TimeoutsConfig, behaviour: Behaviour
) -> None:
    """The first reply counts; the connection goes, and the surplus with it."""
    async with FaultUpstream(behaviour) as upstream:
        pool = pool_of(upstreams, upstream)
        assert await whole(await get(pool, timeouts)) == b"ok"
        await asyncio.sleep(0.05)
        assert pool.open == 0
        await assert_not_reused(pool, upstream, timeouts)


@pytest.mark.parametrize(
    ("method", "reply", "length"),
    [
        pytest.param("HEAD", OK[:-2], 2, id="HEAD"),
        pytest.param("HEAD", CHUNKED_HEAD, None, id="HEAD chunked"),
        pytest.param("GET", b"HTTP/1.1 204 No Content\r\n\r\n", None, id="204"),
        pytest.param(
            "GET",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            9,
            id="304",
        ),
    ],
)
async def test_c31_replies_without_a_body_whatever_they_say(
    upstreams: Upstreams,
    timeouts: TimeoutsConfig,
    method: str,
    reply: bytes,
    length: int | None,
) -> None:
    """Complete with the head, and the connection is used again."""
    async with FaultUpstream(answer(reply)) as upstream:
        pool = pool_of(upstreams, upstream)
        for _ in range(2):
            got = await get(pool, timeouts, method=method)
            assert (got.complete, got.read_now()) == (True, b"")
            assert got.head.content_length == length
        assert upstream.connections == 1


@pytest.mark.parametrize(
    ("method", "reply"),
    [
        pytest.param("HEAD", OK, id="HEAD"),
        pytest.param("HEAD", CHUNKED_HEAD + b"2", id="HEAD chunked, one byte"),
        pytest.param("GET", b"HTTP/1.1 204 No Content\r\n\r\nhi", id="204"),
        pytest.param("GET", b"HTTP/1.1 304 Not Modified\r\n\r\nhi", id="304"),
    ],
)
async def test_c31_a_body_where_none_may_be_is_dropped(
    upstreams: Upstreams, timeouts: TimeoutsConfig, method: str, reply: bytes
) -> None:
    """Its bytes reach nobody: not this reader, and not the next."""
    async with FaultUpstream(answer_and_hang(reply)) as upstream:
        pool = pool_of(upstreams, upstream)
        got = await get(pool, timeouts, method=method)
        assert (got.complete, await whole(got)) == (True, b"")
        await upstream.lost.wait()
        await assert_not_reused(pool, upstream, timeouts)


@pytest.mark.parametrize(
    "interim",
    [
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", id="103"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="100"),
        pytest.param(b"HTTP/1.1 102 Processing\r\n\r\n" * 16, id="102 x16"),
        pytest.param(
            b"HTTP/1.1 103 Early\r\nContent-Length: 7\r\n\r\n", id="103 with a length"
        ),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
async def test_u18_interim_replies_are_swallowed(
    upstreams: Upstreams, timeouts: TimeoutsConfig, interim: bytes, size: int
) -> None:
    """The final reply comes through, without their fields."""
    async with FaultUpstream(drip(interim + OK, gap_s=0, size=size)) as upstream:
        reply = await get(pool_of(upstreams, upstream), timeouts)
        assert (reply.status, await whole(reply)) == (200, b"ok")
        assert reply.fields == ((b"Content-Length", b"2"),)


async def test_u18_an_interim_reply_alone_is_504(upstreams: Upstreams) -> None:
    """A 100 without a final reply doesn't hold the exchange open."""
    lone = answer_and_hang(b"HTTP/1.1 100 Continue\r\n\r\n")
    async with FaultUpstream(lone) as upstream:
        with pytest.raises(UpstreamTimeout):
            await get(pool_of(upstreams, upstream), TimeoutsConfig(response=0.05))


# --- replies that are fine ----------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nok", id="until close"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nok", id="HTTP/1.0"),
        pytest.param(
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", id="1.0 length"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            id="Connection: close",
        ),
    ],
)
async def test_replies_that_end_the_connection(
    upstreams: Upstreams, timeouts: TimeoutsConfig, reply: bytes
) -> None:
    """Whole and clean, but the connection isn't kept; clients are told HTTP/1.1."""
    async with FaultUpstream(answer_and_close(reply)) as upstream:
        pool = pool_of(upstreams, upstream)
        got = await get(pool, timeouts)
        assert got.head.start == b"HTTP/1.1 200 OK\r\n"
        assert await whole(got) == b"ok"
        assert got.complete
        await assert_not_reused(pool, upstream, timeouts)


async def test_bytes_go_and_come_unchanged(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """Case, order, repeats, high bytes and odd targets, in both directions."""
    head = (
        b"GET /public/%2e%2e/a%zz?x=%7E& HTTP/1.1\r\nhOsT: up\r\n"
        b"X-A: adm\xffin\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n"
    )
    reply = (
        b"HTTP/1.1 218 Fine \xe9 indeed\r\nset-COOKIE: a=1\r\nX-A: \xe9\t\xff\r\n"
        b"Set-Cookie: b=2\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n"
    )
    async with FaultUpstream(answer(reply)) as upstream:
        pool = pool_of(upstreams, upstream)
        got = await pool.exchange(head, method="GET", timeouts=timeouts)
        assert upstream.requests[0].head == head
        assert (got.status, got.head.reason) == (218, b"Fine \xe9 indeed")
        assert got.head.start == b"HTTP/1.1 218 Fine \xe9 indeed\r\n"
        assert got.fields == (
            (b"set-COOKIE", b"a=1"),
            (b"X-A", b"\xe9\t\xff"),
            (b"Set-Cookie", b"b=2"),
            (b"X-Empty", b""),
            (b"Content-Length", b"0"),
        )


async def test_a_small_reply_is_complete_with_its_head(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """So the proxy writes head and body at once, and the connection is free already."""
    async with FaultUpstream(answer(OK)) as upstream:
        pool = pool_of(upstreams, upstream)
        for _ in range(3):
            reply = await get(pool, timeouts)
            assert (reply.complete, pool.idle, pool.in_use) == (True, 1, 0)
            assert reply.read_now() == b"ok"
            assert (reply.read_now(), await reply.read()) == (b"", b"")
            reply.close()
        assert upstream.connections == 1


async def test_u13_each_piece_is_handed_on_as_it_comes(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """A stream's chunk is readable before the next one is sent."""
    go_on = asyncio.Event()

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED_HEAD + b"6\r\ndata:1\r\n")
        await go_on.wait()
        await peer.send(b"6\r\ndata:2\r\n0\r\nTrailer: x\r\n\r\n")
        await peer.gone()

    async with FaultUpstream(behaviour) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await get(pool, timeouts)
        assert await reply.read() == b"data:1"
        go_on.set()
        assert await reply.read() == b"data:2"
        assert await reply.read() == b""
        assert reply.fields == ((b"Transfer-Encoding", b"chunked"),)
        assert pool.idle == 1


# --- the reader goes away -----------------------------------------------------


@pytest.mark.parametrize("name", ["hang before head", "hang in body"])
async def test_p1_cancelling_closes_the_connection_at_once(
    upstreams: Upstreams, timeouts: TimeoutsConfig, name: str
) -> None:
    """A client that is gone frees its upstream connection at once."""
    async with FaultUpstream(FAULTS[name]) as upstream:
        pool = pool_of(upstreams, upstream)

        async def client() -> None:
            await whole(await get(pool, timeouts))

        task = asyncio.create_task(client())
        await upstream.got_request.wait()
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await upstream.lost.wait()
        await assert_not_reused(pool, upstream, timeouts)


async def test_p2_closing_an_unfinished_reply_closes_its_connection(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """And a later read says so: it never looks like the body's end."""
    async with FaultUpstream(FAULTS["hang in body"]) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await get(pool, timeouts)
        reply.close()
        reply.close()
        with pytest.raises(UpstreamClosed):
            await reply.read()
        await upstream.lost.wait()
        await assert_not_reused(pool, upstream, timeouts)


async def test_cancelled_in_the_moment_the_reply_arrives(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """The connection may be someone else's by then, and stays untouched."""
    async with FaultUpstream(answer(OK)) as upstream:
        pool = pool_of(upstreams, upstream)
        await whole(await get(pool, timeouts))
        task = asyncio.create_task(get(pool, timeouts))
        await until(lambda: pool.in_use)
        await until(lambda: not pool.in_use)
        task.cancel()  # its reply is there, the task hasn't run yet or has just ended
        await asyncio.wait([task])
        assert pool.idle == 1
        assert await whole(await get(pool, timeouts)) == b"ok"
        assert upstream.connections == 1
