"""Faults of upstreams: rows U1 to U9, U13, U17, U18, C30, C31, I3, P1 and P2."""

import asyncio
import select
import socket
import threading

import pytest
from compiled import timeouts_of
from fake_time import MovableClock
from faults import (
    BAD_REPLIES,
    CHUNKED_HEAD,
    CUT_BODIES,
    CUT_REPLIES,
    DEADLINE_S,
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

from gateway.errors import (
    BadReply,
    ConnectFailed,
    ConnectTimeout,
    UpstreamClosed,
    UpstreamTimeout,
)
from gateway.timeouts import Timeouts
from gateway.upstream import Reply, UpstreamPool, Upstreams, UpstreamTarget

GET = b"GET /a HTTP/1.1\r\nHost: up\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: up\r\nContent-Length: 2\r\n\r\n"


async def get(
    pool: UpstreamPool,
    timeouts: Timeouts,
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
    pool: UpstreamPool, upstream: FaultUpstream, timeouts: Timeouts
) -> None:
    """Assert that the next exchange gets a new connection, and its own reply."""
    before = upstream.connections
    upstream.behaviour = answer(OK)
    reply = await get(pool, timeouts)
    assert await whole(reply) == b"ok"
    assert upstream.connections == before + 1


# --- no connection ------------------------------------------------------------


async def test_u1_refused_is_502_at_once(
    upstreams: Upstreams, timeouts: Timeouts, closed_port: int
) -> None:
    """A closed port is 502, not the connect timeout's 504; nothing was sent."""
    pool = upstreams.pool(UpstreamTarget.parse(f"http://127.0.0.1:{closed_port}"))
    with pytest.raises(ConnectFailed) as caught:
        await get(pool, timeouts)
    assert not isinstance(caught.value, ConnectTimeout)
    assert (caught.value.status, caught.value.unsent) == (502, True)
    assert pool.open == 0


async def test_u2_black_hole_is_504_after_the_connect_timeout(
    upstreams: Upstreams,
) -> None:
    """An address that doesn't answer a SYN is 504 after `connect`; nothing was sent."""
    async with black_hole() as port:
        pool = upstreams.pool(UpstreamTarget.parse(f"http://127.0.0.1:{port}"))
        with pytest.raises(ConnectTimeout) as caught:
            await get(pool, timeouts_of(connect=0.1))
    assert (caught.value.status, caught.value.unsent) == (504, True)
    assert pool.open == 0


# --- no reply -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["hang before head", "hang in head"])
async def test_u3_hang_before_the_head_is_504(
    upstreams: Upstreams, timeouts: Timeouts, name: str
) -> None:
    """Without a complete head in `response` seconds, the connection is closed: 504."""
    async with FaultUpstream(FAULTS[name]) as upstream:
        pool = pool_of(upstreams, upstream)
        with pytest.raises(UpstreamTimeout):
            await get(pool, timeouts_of(response=0.05))
        await upstream.lost.wait()
        assert len(upstream.requests) == 1
        await assert_not_reused(pool, upstream, timeouts)


async def test_u4_hang_in_the_body_is_no_clean_end(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """The part of a body that came is delivered; then the read fails after `idle`."""
    async with FaultUpstream(FAULTS["hang in body"]) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await get(pool, timeouts_of(idle=0.05))
        assert await reply.read() == b"hi"
        with pytest.raises(UpstreamTimeout):
            await reply.read()
        await upstream.lost.wait()
        assert not reply.complete
        await assert_not_reused(pool, upstream, timeouts)


async def test_total_bounds_a_reply_that_never_stops_dripping(
    clock: MovableClock, upstreams: Upstreams
) -> None:
    """A reply that drips never exceeds `idle`, but `total` ends it."""
    body = drip(OK.replace(b": 2", b": 9999") + b"x" * 1000, gap_s=0.01, size=60)
    async with FaultUpstream(body) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await get(pool, timeouts_of(idle=60, total=30))
        clock.advance(30)
        with pytest.raises(UpstreamTimeout, match="total time"):
            await whole(reply)


@pytest.mark.parametrize("name", ["close before reply", "reset before reply"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_u5_closed_before_the_reply_on_a_fresh_connection(
    upstreams: Upstreams, timeouts: Timeouts, name: str, method: str
) -> None:
    """A fresh connection that is closed before the reply is 502, for every method.

    The request isn't sent again, because this is no keep-alive race.
    """
    async with FaultUpstream(FAULTS[name]) as upstream:
        pool = pool_of(upstreams, upstream)
        with pytest.raises(UpstreamClosed) as caught:
            await get(pool, timeouts, method=method)
        assert (caught.value.status, caught.value.reused) == (502, False)
        assert len(upstream.requests) == 1
        await assert_not_reused(pool, upstream, timeouts)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_u6_reset_of_a_used_connection_is_replayed_once(
    upstreams: Upstreams, timeouts: Timeouts, method: str
) -> None:
    """A safe request whose used connection is reset is sent on a fresh one, once."""
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
    upstreams: Upstreams, timeouts: Timeouts, method: str
) -> None:
    """An unsafe request isn't sent again: the service may have acted on it."""
    async with FaultUpstream(FAULTS["reset second request"]) as upstream:
        pool = pool_of(upstreams, upstream)
        await whole(await get(pool, timeouts))
        with pytest.raises(UpstreamClosed) as caught:
            await get(pool, timeouts, method=method)
        assert caught.value.reused
        assert len(upstream.requests) == 2
        assert pool.replayed == 0


async def test_u6_a_get_with_a_body_or_with_replay_off_is_not_replayed(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A body can't be read twice, and a route's `retry: {attempts: 0}` turns it off."""
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
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """After one byte of the reply, the request isn't sent again."""

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
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """An upstream that closes each connection after its reply causes no error.

    The pool keeps at most one connection for each client.
    """
    async with FaultUpstream(FAULTS["close after reply"]) as upstream:
        pool = pool_of(upstreams, upstream)

        async def client() -> None:
            for _ in range(25):
                assert await whole(await get(pool, timeouts)) == b"ok"

        await asyncio.gather(*(client() for _ in range(8)))
        assert len(upstream.requests) == 200
        assert pool.open <= 8


async def test_u17_a_post_isnt_sent_on_a_connection_whose_end_has_arrived(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """The pool checks the socket for a FIN that the loop hasn't read yet."""
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
        # The FIN arrives while the loop is blocked, and so can't see it.
        (connection,) = pool._idle
        assert connection._transport is not None
        sock = connection._transport.get_extra_info("socket")
        assert select.select([sock.fileno()], [], [], DEADLINE_S)[0]
        assert pool.idle == 1
        reply = await pool.exchange(
            POST, method="POST", timeouts=timeouts, body=b"hi", content_length=2
        )
        assert await whole(reply) == b"ok"
        assert pool.dialled == 2
        thread.join()


# --- replies that can't be forwarded ------------------------------------------


@pytest.mark.parametrize("name", BAD_REPLIES)
async def test_u8_i3_bad_replies_are_502(
    upstreams: Upstreams, timeouts: Timeouts, name: str
) -> None:
    """A bad reply is 502, and its connection is closed.

    The error's detail names the upstream and has nothing of the body.
    """
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
    upstreams: Upstreams, timeouts: Timeouts, name: str
) -> None:
    """A connection that ends within the reply's head is 502."""
    async with FaultUpstream(FAULTS[name]) as upstream:
        pool = pool_of(upstreams, upstream)
        with pytest.raises(UpstreamClosed) as caught:
            await get(pool, timeouts)
        assert caught.value.status == 502
        await assert_not_reused(pool, upstream, timeouts)


@pytest.mark.parametrize("name", [*CUT_BODIES, "reset in body"])
async def test_u9_cut_bodies_never_end_cleanly(
    upstreams: Upstreams, timeouts: Timeouts, name: str
) -> None:
    """A cut body's head is returned, and reading the body raises an error."""
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
async def test_c30_surplus_bytes_are_no_reply(
    upstreams: Upstreams, timeouts: Timeouts, behaviour: Behaviour
) -> None:
    """The first reply is returned; surplus bytes after it close the connection."""
    async with FaultUpstream(behaviour) as upstream:
        pool = pool_of(upstreams, upstream)
        assert await whole(await get(pool, timeouts)) == b"ok"
        await until(lambda: pool.open == 0)
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
async def test_c31_replies_that_never_have_a_body(
    upstreams: Upstreams,
    timeouts: Timeouts,
    method: str,
    reply: bytes,
    length: int | None,
) -> None:
    """A reply to HEAD, a 204 and a 304 end with their head, whatever it announces.

    The connection is used again.
    """
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
    upstreams: Upstreams, timeouts: Timeouts, method: str, reply: bytes
) -> None:
    """A body where none may be is read neither by this exchange nor by the next."""
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
async def test_u18_interim_replies_are_dropped(
    upstreams: Upstreams, timeouts: Timeouts, interim: bytes, size: int
) -> None:
    """The final reply is returned, without the fields of interim replies."""
    async with FaultUpstream(drip(interim + OK, gap_s=0, size=size)) as upstream:
        reply = await get(pool_of(upstreams, upstream), timeouts)
        assert (reply.status, await whole(reply)) == (200, b"ok")
        assert reply.fields == ((b"Content-Length", b"2"),)


async def test_u18_an_interim_reply_alone_is_504(upstreams: Upstreams) -> None:
    """A 100 without a final reply raises `UpstreamTimeout` after `response`."""
    lone = answer_and_hang(b"HTTP/1.1 100 Continue\r\n\r\n")
    async with FaultUpstream(lone) as upstream:
        with pytest.raises(UpstreamTimeout):
            await get(pool_of(upstreams, upstream), timeouts_of(response=0.05))


# --- valid replies ------------------------------------------------------------


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
    upstreams: Upstreams, timeouts: Timeouts, reply: bytes
) -> None:
    """The reply is complete, its start line is HTTP/1.1, the connection isn't kept."""
    async with FaultUpstream(answer_and_close(reply)) as upstream:
        pool = pool_of(upstreams, upstream)
        got = await get(pool, timeouts)
        assert got.head.start == b"HTTP/1.1 200 OK\r\n"
        assert await whole(got) == b"ok"
        assert got.complete
        await assert_not_reused(pool, upstream, timeouts)


async def test_heads_are_forwarded_unchanged(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """Case, order, repeated fields, high bytes and odd paths arrive as they were."""
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
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A reply in one segment is complete at once, and its connection already idle."""
    async with FaultUpstream(answer(OK)) as upstream:
        pool = pool_of(upstreams, upstream)
        for _ in range(3):
            reply = await get(pool, timeouts)
            assert (reply.complete, pool.idle, pool.in_use) == (True, 1, 0)
            assert reply.read_now() == b"ok"
            assert (reply.read_now(), await reply.read()) == (b"", b"")
            reply.close()
        assert upstream.connections == 1


async def test_u13_each_piece_is_readable_as_it_comes(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A stream's chunk is readable before the next is sent; its trailer is dropped."""
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


# --- the reader is gone -------------------------------------------------------


@pytest.mark.parametrize("name", ["hang before head", "hang in body"])
async def test_p1_cancelling_closes_the_connection_at_once(
    upstreams: Upstreams, timeouts: Timeouts, name: str
) -> None:
    """Cancelling an exchange closes its upstream connection."""
    async with FaultUpstream(FAULTS[name]) as upstream:
        pool = pool_of(upstreams, upstream)

        replied = asyncio.Event()

        async def client() -> None:
            reply = await get(pool, timeouts)
            replied.set()
            await whole(reply)

        task = asyncio.create_task(client())
        await upstream.got_request.wait()
        if name == "hang in body":
            await replied.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await upstream.lost.wait()
        await assert_not_reused(pool, upstream, timeouts)


async def test_p2_closing_an_unfinished_reply_closes_its_connection(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """Closing an unfinished reply closes its connection; a later read is an error."""
    async with FaultUpstream(FAULTS["hang in body"]) as upstream:
        pool = pool_of(upstreams, upstream)
        reply = await get(pool, timeouts)
        reply.close()
        reply.close()
        with pytest.raises(UpstreamClosed):
            await reply.read()
        await upstream.lost.wait()
        await assert_not_reused(pool, upstream, timeouts)


async def test_cancelling_when_the_reply_has_arrived_keeps_the_connection(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A connection that is idle again isn't closed by a late cancellation."""
    async with FaultUpstream(answer(OK)) as upstream:
        pool = pool_of(upstreams, upstream)
        await whole(await get(pool, timeouts))
        task = asyncio.create_task(get(pool, timeouts))
        await until(lambda: pool.in_use)
        await until(lambda: not pool.in_use)
        task.cancel()  # the reply has come; the task hasn't run yet, or has just ended
        await asyncio.wait([task])
        assert pool.idle == 1
        assert await whole(await get(pool, timeouts)) == b"ok"
        assert upstream.connections == 1
