"""Mutated requests and replies against the gateway (`make fuzz`).

Each request begins as a case of the corpus, or as a reply that a service could give. A
few of its bytes are changed, moved, doubled or cut, and it is sent over a real socket
in random pieces, before a good request on the same connection. After each exchange:

- the gateway has logged no error and no warning, and answered no 500;
- a request that was refused reached no service;
- what reached the service holds no identity that the session doesn't have;
- a good request on a new connection is answered.

At the end, memory hasn't grown by more than `--memory` MiB. A failure prints the seed
and the bytes; `--seed` repeats a run.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import resource
import sys
import time
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from corpus import cases as corpus  # found only now
from corpus.rig import SESSION, Rig, running, until

GOOD = b"GET /public/good HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n"
REPLIES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
]
PIECES = [
    *(b"\r\n", b"\n", b"\r", b"\0", b"\t", b" ", b":", b";", b",", b"%", b"\xff"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: x\r\n"),
    *(b"X-User-Id: evil\r\n", b"Connection: X-User-Id\r\n", b"Upgrade: websocket\r\n"),
    *(b"HTTP/1.1", b"0\r\n\r\n", b"5\r\nhello\r\n", b"/../", b"%2e", b"/admin", b"?"),
]
QUIET_S = 0.25
"""An exchange is over this long after its last byte. A mutation may have removed bytes
for which the gateway would wait until its own limits."""
ANSWERED_S = 10.0
"""How long a good request may take, on a busy machine."""


class Found(Exception):
    """The gateway broke a rule. The text names the rule."""


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Return *data* with one to six changes."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(out) + 1)
        end = min(len(out), at + chance.choice((1, 1, 2, 8, 40)))
        match chance.randrange(5):
            case 0:
                out[at:end] = chance.randbytes(end - at)
            case 1:
                del out[at:end]
            case 2:
                out[at:at] = chance.choice(PIECES)
            case 3:
                out[at:at] = out[at:end]
            case _:
                out[at:end] = chance.choice(PIECES)
    return bytes(out)


async def sent(
    rig: Rig, chance: random.Random, data: bytes, quiet_s: float = QUIET_S
) -> bytes:
    """Send *data* in pieces; return what is received until *quiet_s* of silence."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    received = b""
    try:
        at = 0
        while at < len(data):
            end = at + chance.choice((1, 7, 64, 4096))
            writer.write(data[at:end])
            at = end
            if chance.random() < 0.2:
                await asyncio.sleep(0)
        while True:
            async with asyncio.timeout(quiet_s):
                piece = await reader.read(65536)
            if not piece:
                break
            received += piece
    except (OSError, RuntimeError):
        pass  # the connection was cut (uvloop's word), or nothing came for a while
    finally:
        writer.transport.abort()
    for connection in tuple(rig.listener.watched.values()):
        await connection.until_gone()
    # Each request that it had begun has its record when its task is over.
    await until(lambda: not any(c._task for c in rig.listener.watched.values()))  # noqa: SLF001
    return received


def judge(rig: Rig, data: bytes, received: bytes) -> None:
    """Raise Found if a rule was broken."""
    if rig.complaints.texts:
        raise Found(f"the log says: {rig.complaints.texts[0]}")
    if b"HTTP/1.1 500 " in received:
        raise Found(f"a 500: {received!r}")
    refused = sum(
        record.status >= 400 and record.upstream is None for record in rig.records
    )
    seen = len(rig.upstream.requests)
    # A safe request is sent once more when a reply breaks off.
    passed = (len(rig.records) - refused) * (1 if rig.upstream.reply is None else 2)
    if seen > passed:
        raise Found(f"{seen} requests reached the service, {passed} were passed on")
    for request in rig.upstream.requests:
        users = [v for n, v in request.fields if n.lower() == b"x-user-id"]
        if len(users) > 1 or (users and SESSION not in data.lower()):
            raise Found(f"an identity that nobody has: {request.head!r}")
        # The rig trusts the session's field, mutated or not.
        if b"evil" in b"".join(users) and not _evil_session(data):
            raise Found(f"an identity of the client's: {request.head!r}")


_evil_session = re.compile(re.escape(SESSION) + rb":[^\r\n]*evil", re.IGNORECASE).search


async def fuzz(seconds: float, seed: int, memory_mib: float, what: str) -> int:
    """Run for the given time and return 0, or print a failure and return 1."""
    chance = random.Random(seed)  # noqa: S311 # repeatable, no secret
    cases = [case for case in corpus.load() if len(case.sent) < 4000]
    count, began, start_kib, used_kib = 0, time.monotonic(), 0, 0
    async with running(trusted=("127.0.0.2",)) as rig:
        while (left := seconds - (time.monotonic() - began)) > 0:
            rig.upstream.forget()
            rig.records.clear()
            rig.complaints.texts.clear()
            rig.listener.watched.clear()
            data = mutated(chance, chance.choice(cases).sent)
            if what == "replies":
                data = b"GET /public/x HTTP/1.1\r\nHost: gw\r\n\r\n"
                rig.upstream.reply = mutated(chance, chance.choice(REPLIES))
                rig.upstream.reply_closes = chance.random() < 0.5
            data_sent = data if what == "requests" else rig.upstream.reply
            try:
                judge(rig, data, await sent(rig, chance, data + GOOD))
                rig.upstream.reply = None
                if b"200 OK" not in await sent(rig, chance, GOOD, ANSWERED_S):
                    raise Found("a good request on a new connection isn't answered")
            except Found as found:
                print(f"seed {seed}, {count} before it: {found}\n{data_sent!r}")
                return 1
            count += 1
            used_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if count == 2000:
                start_kib = used_kib
            if count % 2000 == 0:
                print(
                    f"{count} {what}, {used_kib / 1024:.0f} MiB, {left:.0f} s left",
                    file=sys.stderr,
                )
            if start_kib and used_kib - start_kib > memory_mib * 1024:
                print(f"memory grew by {(used_kib - start_kib) / 1024:.0f} MiB")
                return 1
    grown = (used_kib - start_kib) / 1024 if start_kib else 0.0
    print(f"{count} {what} in {seconds:.0f} s, seed {seed}: no rule was broken;")
    print(f"memory grew by {grown:.1f} MiB after the first 2000")
    return 0


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", choices=("requests", "replies"))
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().getrandbits(32)
    )
    parser.add_argument("--memory", type=float, default=24.0, help="MiB it may grow")
    options = parser.parse_args()
    return uvloop.run(fuzz(options.seconds, options.seed, options.memory, options.what))


if __name__ == "__main__":
    sys.exit(main())
