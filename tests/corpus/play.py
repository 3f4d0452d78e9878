"""Plays a case against the rig in one of several ways, and judges what came of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from corpus.cases import Case
from corpus.readers import readings
from corpus.rig import Rig, Seen, Watched, until

DEADLINE_S = 20.0
"""For one play: a hang is a failure, and a busy machine isn't."""

GOOD = b"GET /public/good HTTP/1.1\r\nHost: gw\r\n\r\n"

_HOP = {b"connection", b"te", b"trailer", b"upgrade", b"keep-alive", b"http2-settings"}
_SESSION_COOKIES = (b"saccesstoken", b"srefreshtoken", b"santicsrf", b"sfronttoken")
_OURS = {b"x-user-id", b"x-auth-status", b"x-request-id", b"x-forwarded-proto"}


@dataclass
class Reply:
    """One reply that the client got."""

    status: int
    head: bytes
    body: bytes = b""


@dataclass
class Outcome:
    """All that the client got back on one connection."""

    replies: list[Reply] = field(default_factory=list)
    interim: list[int] = field(default_factory=list)
    closed: bool = False
    raw: bytes = b""


class Talk:
    """A client connection that reads replies with a parser of its own."""

    def __init__(self, rig: Rig, watched: Watched) -> None:
        self.rig = rig
        self.watched = watched
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self.sent = 0
        self.outcome = Outcome()

    async def send(self, data: bytes, *, arrive: bool = False) -> None:
        """Send *data*; with *arrive*, return when the gateway has read it."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            return
        self.sent += len(data)
        if arrive:
            await self.watched.until(self.sent)

    async def reply(self, method: bytes) -> bool:
        """Read one reply; False if the connection ends in place of it."""
        out = self.outcome
        while True:
            head = await self._until(b"\r\n\r\n")
            if head is None:
                out.closed = True
                return False
            start = head.split(b"\r\n", 1)[0]
            assert start.startswith(self.rig.versions), start
            status = int(start[9:12])
            if status >= 200 or status == 101:
                break
            out.interim.append(status)
        fields = [
            (name.lower(), value)
            for name, _, value in (
                line.partition(b": ") for line in head[:-4].split(b"\r\n")[1:]
            )
        ]
        found = Reply(status, head)
        out.replies.append(found)
        lengths = [value for name, value in fields if name == b"content-length"]
        assert len(lengths) <= 1, head
        if method == b"HEAD" or status in (101, 204, 304):
            return True
        if (b"transfer-encoding", b"chunked") in fields:
            assert not lengths, head
            while True:
                line = await self._until(b"\r\n")
                if line is None:
                    out.closed = True
                    return True
                size = int(line, 16)
                found.body += await self._exactly(size)
                assert await self._exactly(2) == b"\r\n"
                if not size:
                    return True
        if lengths:
            found.body = await self._exactly(int(lengths[0]))
        else:
            found.body = await self._rest()
            out.closed = True
        return True

    async def _until(self, end: bytes) -> bytes | None:
        try:
            data = await self.reader.readuntil(end)
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            rest = getattr(exc, "partial", b"")
            self.outcome.raw += rest
            assert not rest, f"the connection ended in a reply's head: {rest!r}"
            return None
        self.outcome.raw += data
        return data

    async def _exactly(self, size: int) -> bytes:
        try:
            data = await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            data = getattr(exc, "partial", b"")
            self.outcome.closed = True
        self.outcome.raw += data
        return data

    async def _rest(self) -> bytes:
        try:
            data = await self.reader.read()
        except ConnectionError:
            data = b""
        self.outcome.raw += data
        return data


async def _open(rig: Rig, peer: str = "127.0.0.1") -> Talk:
    address = peer.removeprefix("::ffff:")
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        rig.port if peer == address else rig.port_of_both,
        limit=2**20,
        local_addr=(address, 0),
    )
    port = writer.get_extra_info("sockname")[1]
    await until(lambda: port in rig.listener.watched)
    talk = Talk(rig, rig.listener.watched[port])
    talk.reader, talk.writer = reader, writer
    return talk


async def exchange(rig: Rig, data: bytes) -> None:
    """Send *data*, whatever it is, and return when the gateway is done with it."""
    rig.upstream.forget()
    async with asyncio.timeout(DEADLINE_S):
        talk = await _open(rig)
        try:
            before = len(rig.records)
            await talk.send(data, arrive=True)
            if len(rig.records) == before:
                await talk.reply(b"GET")
        finally:
            talk.writer.transport.abort()
            await talk.watched.until_gone()


async def play(
    rig: Rig, case: Case, *, cuts: Sequence[int] = (), pipelined: bool = False
) -> Outcome:
    """Send *case*, cut at *cuts*, and judge it.

    *pipelined*: between a good request and the canary, all in one piece. When the
    case ends its connection, a canary on another one shows that the gateway still
    forwards.

    Raises:
        AssertionError: something happened that the case doesn't allow.
    """
    rig.upstream.forget()
    rig.upstream.reply = case.reply
    rig.upstream.reply_closes = case.reply_closes
    rig.complaints.texts.clear()
    rig.records.clear()
    name = b"/public/canary-%d" % next(rig.serial)
    canary = b"GET %b HTTP/1.1\r\nHost: gw\r\n\r\n" % name
    forwarded = False
    async with asyncio.timeout(DEADLINE_S):
        talk = await _open(rig, case.peer)
        try:
            tunnel = any(101 in allowed for allowed in case.replies)
            whole = (not case.ends) and not tunnel
            if pipelined:
                await talk.send(GOOD + case.sent + (canary if whole else b""))
            else:
                await _send_cut(talk, case.sent, cuts)
            if pipelined:
                await _judge_good(talk)
            for allowed, method in zip(case.replies, case.methods, strict=True):
                assert await talk.reply(method), f"no reply, expected {sorted(allowed)}"
            if not pipelined and whole and not talk.outcome.closed:
                await talk.send(canary)
            if case.ends:
                talk.writer.close()
                await talk.watched.until_gone()
            elif whole and not talk.outcome.closed:
                forwarded = await _judge_canary(talk, case, name)
        finally:
            talk.writer.transport.abort()
            await talk.watched.until_gone()
    _judge(rig, case, talk.outcome, name)
    if not forwarded:
        await _forwards(rig)
    return talk.outcome


async def _forwards(rig: Rig) -> None:
    """A good request on a connection of its own arrives, and nothing with it."""
    name = b"/public/canary-%d" % next(rig.serial)
    seen = len(rig.upstream.requests)
    async with asyncio.timeout(DEADLINE_S):
        talk = await _open(rig)
        try:
            await talk.send(b"GET %b HTTP/1.1\r\nHost: gw\r\n\r\n" % name)
            assert await talk.reply(b"GET"), "no reply to a good request"
        finally:
            talk.writer.transport.abort()
            await talk.watched.until_gone()
    (reply,) = talk.outcome.replies
    assert (reply.status, reply.body) == (200, name), reply
    assert [one.target for one in rig.upstream.requests[seen:]] == [name]


async def _send_cut(talk: Talk, data: bytes, cuts: Sequence[int]) -> None:
    """Send *data* in pieces; each is read by the gateway before the next is sent."""
    start = 0
    for end in (*cuts, len(data)):
        if talk.watched.gone:
            return
        await talk.send(data[start:end], arrive=end < len(data))
        start = end


async def _judge_good(talk: Talk) -> None:
    """The good request in front was served, whatever came behind it."""
    assert await talk.reply(b"GET")
    first = talk.outcome.replies.pop()
    assert (first.status, first.body) == (200, b"/public/good"), first
    assert talk.rig.upstream.requests.pop(0).target == b"/public/good"


async def _judge_canary(talk: Talk, case: Case, name: bytes) -> bool:
    """The next reply is the canary's own, or there is none; return which."""
    out = talk.outcome
    judged = len(out.replies)
    if await talk.reply(b"GET"):
        reply = out.replies.pop()
        assert len(out.replies) == judged
        assert (reply.status, reply.body) == (200, name), (
            f"another reply came before the canary's: {reply}"
        )
        assert case.closes is not True, "the connection had to end"
        assert talk.rig.upstream.requests[-1].target == name
        return True
    assert case.closes is not False, "the connection had to stay"
    return False


def _judge(rig: Rig, case: Case, out: Outcome, canary: bytes) -> None:
    statuses = [reply.status for reply in out.replies]
    assert len(statuses) == len(case.replies), (statuses, case.replies)
    for status, allowed in zip(statuses, case.replies, strict=True):
        assert status in allowed, f"got {statuses}: {out.raw!r}"
    may_continue = ([], [100]) if case.continued == "maybe" else ([],)
    assert out.interim in may_continue, out.interim
    requests = [r for r in rig.upstream.requests if r.target != canary]
    targets = [r.target for r in requests]
    assert len(requests) in case.upstream, f"the upstream got {targets}"
    begun = rig.upstream.begun
    if not case.begun:
        assert not begun, f"the upstream got a part of a request: {begun}"
    bytes_seen = b"".join([r.raw for r in requests])
    for text in case.seen:
        assert text in bytes_seen, (text, bytes_seen)
    for text in case.unseen:
        everything = (bytes_seen + b"".join(begun)).lower()
        assert text.lower() not in everything, (text, everything)
    if case.target is not None:
        assert targets[-1] == case.target
    if case.content is not None:
        assert requests[-1].body == case.content
    for text in case.answer:
        assert text in out.raw, (text, out.raw)
    for text in case.unanswered:
        assert text.lower() not in out.raw.lower(), (text, out.raw)
    for request in requests:
        _judge_forwarded(request, case)
    _judge_own_answers(rig, case, out)
    if case.client is not None and case.replies:
        others = ("/public/good", canary.decode())
        clients = [one.client for one in rig.records if one.path not in others]
        assert clients == [case.client], clients
    assert not rig.complaints.texts, rig.complaints.texts


def _judge_forwarded(request: Seen, case: Case) -> None:
    """Rules for whatever goes to an upstream, in every case."""
    names = [name.lower() for name, _ in request.fields]
    assert names.count(b"host") == 1, names
    for name in _OURS - {b"x-user-id"}:
        assert names.count(name) == 1, (name, names)
    assert names.count(b"x-user-id") <= 1, names
    status = dict(request.fields)[b"X-Auth-Status"]
    assert (b"x-user-id" in names) == (status == b"authenticated"), (status, names)
    if b"upgrade" in names:
        assert dict(request.fields)[b"Upgrade"] == b"websocket"
    else:
        assert not _HOP.intersection(names), names
    assert (b"content-length" in names) + (b"transfer-encoding" in names) <= 1
    for name, value in request.fields:
        if name.lower() == b"cookie" and b"/credentials" not in request.target:
            assert not any(c in value.lower() for c in _SESSION_COOKIES), value
    read = readings(request.raw)
    if case.readers == "some":
        read = {name: each for name, each in read.items() if not isinstance(each, str)}
    first = next(iter(read.values()))
    assert isinstance(first, tuple), read
    assert len(first) == 1, read
    assert all(other == first for other in read.values()), read


def _judge_own_answers(rig: Rig, case: Case, out: Outcome) -> None:
    """Rules for what the gateway answers itself (I1): nothing of us, nothing echoed."""
    for reply in out.replies:
        if reply.status >= 400 and b"X-From: upstream" not in reply.head:
            text = (reply.head + reply.body).lower()
            for leak in (b"python", b"aiohttp", b"traceback", b"127.0.0.1", b"server:"):
                assert leak not in text, (leak, text)
            assert b"evil" not in text, text
            shown = re.findall(rb"\r\nX-Request-Id: (\S+)\r\n", reply.head)
            assert shown, reply.head
            if b"application/problem+json" in reply.head:
                assert [json.loads(reply.body)["request_id"].encode()] == shown
