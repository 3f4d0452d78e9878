"""Many users at once over shared connections: identities are never mixed up.

`GATEWAY_SOAK_REQUESTS=100000 pytest tests/end_to_end/test_end_to_end_soak.py` for the
long run; 10,000 requests take about 20 s, client and upstream included.
"""

from __future__ import annotations

import asyncio
import os
import random

from faults import FaultUpstream, Peer
from stack import Start
from wire import connect, request

USERS = 50
CONNECTIONS = 20
REQUESTS = int(os.environ.get("GATEWAY_SOAK_REQUESTS", "2000"))

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens:
  connection_uri: "${CORE}"
  recipes: {emailpassword: {}}
  cache: {size: 30}
  core: {timeout: 60}
services:
  echo: {targets: ["${UPSTREAM}"]}
routes:
  - {path: /private, service: echo}
  - {path: /optional, service: echo, protected: optional}
  - {path: /public, service: echo, protected: false}
  - {path: /checked, service: echo, session: {check_database: cached, max_age: 1}}
"""


async def answer_with_user(peer: Peer) -> None:
    """Answer with the request's user and number, and drop the request."""
    while True:
        received = await peer.request()
        peer.upstream.requests.clear()
        user = received.field(b"x-user-id") or b"nobody"
        number = received.field(b"x-number") or b""
        body = user + b" " + number
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        await peer.send(head + body)


async def test_each_request_is_forwarded_with_its_own_user(
    start: Start, upstream: FaultUpstream
) -> None:
    """Each reply names the user of its request, with a cache too small for all."""
    upstream.behaviour = answer_with_user
    # The guard checks every call, which would slow down the long run.
    gateway = await start(ROUTES, guard=False)
    users = [await gateway.sign_up() for _ in range(USERS)]
    assert len({user.id for user in users}) == USERS
    left = iter(range(REQUESTS))
    wrong: list[tuple[str, bytes, bytes]] = []
    served = 0

    async def visit(seed: int) -> None:
        nonlocal served
        choose = random.Random(seed)
        async with connect(gateway.port) as wire:
            for number in left:
                user = choose.choice(users)
                path = choose.choice(("/private", "/optional", "/checked", "/public"))
                credential = choose.choice(
                    (user.bearer, ("Cookie", f"sAccessToken={user.access}"))
                )
                if path == "/optional" and choose.random() < 0.3:
                    credential = ("X-User-Id", user.id)
                name = user.id
                if path == "/public" or credential[0] == "X-User-Id":
                    name = "nobody"
                expected = f"{name} {number}".encode()
                fields = (credential, ("X-Number", str(number)))
                await wire.send(request("GET", path, *fields))
                reply = await wire.reply()
                if reply.status != 200 or reply.body != expected:
                    wrong.append((path, expected, reply.body))
                served += 1

    await asyncio.gather(*(visit(seed) for seed in range(CONNECTIONS)))
    assert wrong == []
    assert served == REQUESTS
