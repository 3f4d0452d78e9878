"""Users with sessions of their own, who do everything that users do.

Each user's requests follow one another, so every reply can be judged: the upstream says
who the caller was. A reply may be missing or say that something isn't available: others
stop the core meanwhile. What may never be is noted in `Outcomes.wrong`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp

from bench.rig.core_stage import PASSWORD, Clients, Reply, Seen
from bench.rig.stage import forged

_UNAVAILABLE = frozenset({502, 503, 504})
_LIST_MAX = 20
"""Wrong replies after this many are counted only."""
_ORIGIN = "http://localhost:8000"
_LONG_BYTES = 4 << 20
"""More than the buffers of the sockets and the gateway hold."""
_BEFORE_S = 300.0
"""An access token is refreshed at least so long before it expires."""
_LOST = (aiohttp.ClientError, TimeoutError, ConnectionError)


@dataclass
class Outcomes:
    """What all users got."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    wrong_count: int = 0

    def note(self, action: str, what: str) -> None:
        self.counts.setdefault(action, Counter())[what] += 1

    def fault(self, action: str, what: str) -> None:
        """Note a reply that may never be."""
        self.note(action, what)
        self.wrong_count += 1
        if len(self.wrong) < _LIST_MAX:
            self.wrong.append(f"{action}: {what}")

    @property
    def requests(self) -> int:
        return sum(each.total() for each in self.counts.values())


def claims(token: str) -> dict[str, object]:
    """Return what an access token says, without verifying it."""
    payload = token.split(".")[1]
    found: dict[str, object] = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return found


def _problem(reply: Reply) -> str:
    """Return the status and the gateway's code for the reason."""
    code = reply.body.partition(b'"code": "')[2].partition(b'"')[0].decode()
    return f"{reply.status} {code}".strip()


class Visitor:
    """One user. `visit` does one thing by chance."""

    def __init__(
        self,
        name: str,
        here: Clients,
        outcomes: Outcomes,
        chance: random.Random,
        expired: list[str],
    ) -> None:
        self.user = ""
        self._email = f"{name}@example.com"
        self._here = here
        self._outcomes = outcomes
        self._chance = chance
        self._expired = expired
        self._access = self._refresh = ""
        self._refresh_at = 0.0
        self._number = 0
        self.wait_s = 0.0
        """How long the upstream takes for an answer now."""
        self._actions: tuple[tuple[Callable[[], Awaitable[None]], int], ...] = (
            (self._get, 40),
            (self._checked, 8),
            (self._public, 10),
            (self._optional, 4),
            (self._post, 10),
            (self._chunked, 6),
            (self._socket, 3),
            (self._abort, 2),
            (self._abort_body, 1),
            (self._forged, 4),
            (self._stale, 3),
            (self._refresh_tokens, 3),
            (self._sign_out, 1),
        )

    async def sign_up(self) -> None:
        """Create the user.

        Raises:
            SystemExit: the core doesn't.
        """
        seen = Seen()
        self._take(await self._here.sign(seen, "signup", self._email, PASSWORD))
        if not self._access:
            raise SystemExit(f"error: no sign-up: {seen.words()}")
        self.user = str(claims(self._access)["sub"])

    async def visit(self) -> None:
        """Do one thing. A user without a session signs in."""
        if not self._access:
            await self._sign_in()
            return
        actions, weights = zip(*self._actions, strict=True)
        if time.time() > self._refresh_at:
            await self._refresh_tokens()
        await self._chance.choices(actions, weights)[0]()

    async def is_served(self) -> bool:
        """Return whether a request with its session gets 200."""
        if not self._access:
            await self._sign_in()
        with contextlib.suppress(*_LOST):
            reply = await self._here.send("GET", "/checked", bearer=self._access)
            return reply.status == 200
        return False

    # --- requests whose answer says who the caller is ---

    async def _get(self) -> None:
        in_cookie = self._chance.random() < 0.4
        headers = {"Cookie": f"sAccessToken={self._access}"} if in_cookie else {}
        # A client's own word for who it is.
        headers["X-User-Id"] = "somebody-else"
        bearer = None if in_cookie else self._access
        await self.ask("protected", "GET", "/private", bearer=bearer, headers=headers)

    async def _checked(self) -> None:
        await self.ask("checked by the core", "GET", "/checked", bearer=self._access)

    async def _public(self) -> None:
        named = {"X-User-Id": self.user}
        await self.ask("public", "GET", "/open", headers=named, user=None)

    async def _optional(self) -> None:
        is_known = self._chance.random() < 0.6
        bearer, user = (self._access, self.user) if is_known else (None, None)
        headers = {"X-User-Id": "somebody-else"}
        await self.ask(
            "optional", "GET", "/optional", bearer=bearer, headers=headers, user=user
        )

    async def _post(self) -> None:
        size = self._chance.choice((0, 10, 2000, 70_000, 300_000))
        await self.ask(
            "body", "POST", "/private", bearer=self._access, size=size, data=b"x" * size
        )

    async def _chunked(self) -> None:
        pieces = [b"y" * self._chance.randint(1, 9000) for _ in range(5)]

        async def sent() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        await self.ask(
            "chunked",
            *("POST", "/private?parts=1"),
            bearer=self._access,
            size=sum(map(len, pieces)),
            data=sent(),
        )

    async def ask(
        self,
        action: str,
        method: str,
        path: str,
        *,
        bearer: str | None = None,
        headers: dict[str, str] | None = None,
        user: str | None = "",
        size: int = 0,
        data: bytes | AsyncIterator[bytes] | None = None,
    ) -> None:
        """Send a request that has to be answered with its own user and number."""
        self._number += 1
        number = f"{self._email} {self._number}"
        if self.wait_s and "?" not in path:
            path += f"?wait={self.wait_s}"
        reply = await self._sent(
            action,
            self._here.send(
                *(method, path),
                bearer=bearer,
                headers={**(headers or {}), "X-Number": number},
                data=data,
            ),
        )
        if reply is not None:
            name = self.user if user == "" else user
            self._judge(action, reply.body, name, number, size)

    async def _sent(self, action: str, sending: Awaitable[Reply]) -> Reply | None:
        """Return a reply of 200; None if there is none, which is noted."""
        try:
            reply = await sending
        except _LOST as error:
            self._outcomes.note(action, type(error).__name__)
            return None
        if token := reply.headers.get("st-access-token"):
            self._access = token  # the first one after a refresh has one use
        if reply.status in _UNAVAILABLE:
            self._outcomes.note(action, _problem(reply))
        elif reply.status != 200:
            self._outcomes.fault(
                action, f"{reply.status} for {self._email}: {reply.body[:200]!r}"
            )
        return reply if reply.status == 200 else None

    def _judge(
        self, action: str, body: bytes | str, user: str | None, number: str, size: int
    ) -> None:
        expected = {
            "user": [] if user is None else [user],
            "number": [number],
            "got": size,
        }
        try:
            said = json.loads(body)
        except ValueError:
            said = body[:200]
        if said == expected:
            self._outcomes.note(action, "200")
        else:
            self._outcomes.fault(action, f"{said} in place of {expected}")

    # --- WebSockets, and clients that go away ---

    async def _socket(self) -> None:
        self._number += 1
        number = f"{self._email} {self._number}"
        try:
            async with self._here.http.ws_connect(
                f"{self._here.url}/socket",
                headers={
                    "Cookie": f"sAccessToken={self._access}",
                    "X-User-Id": "somebody-else",
                    "X-Number": number,
                },
                origin=_ORIGIN,
                timeout=aiohttp.ClientWSTimeout(ws_receive=30, ws_close=10),
            ) as socket:
                self._judge(
                    "WebSocket", await socket.receive_str(), self.user, number, 0
                )
                await socket.send_str(number)
                if (echo := await socket.receive_str()) != number:
                    self._outcomes.fault("WebSocket", f"{echo} in place of {number}")
        except aiohttp.WSServerHandshakeError as error:
            if error.status in _UNAVAILABLE:
                self._outcomes.note("WebSocket", str(error.status))
            else:
                self._outcomes.fault("WebSocket", f"{error.status} for {self._email}")
        except (*_LOST, aiohttp.WSMessageTypeError) as error:
            self._outcomes.note("WebSocket", type(error).__name__)

    async def _abort(self) -> None:
        try:
            await self._here.abandon(
                f"/private?size={_LONG_BYTES}", bearer=self._access
            )
        except _LOST as error:
            self._outcomes.note("aborted reply", type(error).__name__)
        else:
            self._outcomes.note("aborted reply", "aborted")

    async def _abort_body(self) -> None:
        async def sent() -> AsyncIterator[bytes]:
            yield b"z" * 5000
            raise ConnectionAbortedError

        sending = self._here.send("POST", "/private", bearer=self._access, data=sent())
        try:
            await sending
        except _LOST:
            self._outcomes.note("aborted body", "aborted")
        else:
            self._outcomes.note("aborted body", "answered")

    # --- tokens that have to be refused ---

    async def _forged(self) -> None:
        await self.refused("forged token", forged(self._access))

    async def _stale(self) -> None:
        await self.refused("expired token", self._chance.choice(self._expired))

    async def refused(self, action: str, token: str, path: str = "/private") -> None:
        """Send a token that has to be refused."""
        try:
            reply = await self._here.send("GET", path, bearer=token)
        except _LOST as error:
            self._outcomes.note(action, type(error).__name__)
            return
        if reply.status in (401, *_UNAVAILABLE):
            self._outcomes.note(action, _problem(reply))
        else:
            self._outcomes.fault(action, f"{reply.status}: {reply.body[:200]!r}")

    # --- sessions ---

    def _take(self, tokens: dict[str, str]) -> bool:
        """Keep new tokens; return whether there are any."""
        if "access" in tokens and "refresh" in tokens:
            self._access, self._refresh = tokens["access"], tokens["refresh"]
            said = claims(self._access)
            self._refresh_at = float(str(said["exp"])) - _BEFORE_S
            if self.user and said["sub"] != self.user:
                self._outcomes.fault("tokens", f"of another user for {self._email}")
        return "access" in tokens

    async def _sign_in(self) -> None:
        seen = Seen()
        self._take(await self._here.sign(seen, "signin", self._email, PASSWORD))
        self._settled("sign-in", seen)

    async def _refresh_tokens(self) -> None:
        seen = Seen()
        self._take(await self._here.refresh(seen, self._refresh))
        self._settled("refresh", seen)

    def _settled(self, action: str, seen: Seen) -> None:
        (what,) = seen.statuses
        number = what.partition(" ")[0]
        if what == "200" or number in map(str, _UNAVAILABLE) or not number.isdigit():
            self._outcomes.note(action, what)
        else:
            self._outcomes.fault(action, f"{what} for {self._email}")

    async def _sign_out(self) -> None:
        """Sign out; the old token is refused from then on."""
        old, self._access, self._refresh = self._access, "", ""
        reply = await self._sent(
            "sign-out", self._here.send("POST", "/auth/signout", bearer=old)
        )
        if reply is not None:
            self._outcomes.note("sign-out", "200")
            await self.refused("signed-out token", old, "/checked")


async def keep_visiting(
    visitors: list[Visitor], rate: float, chance: random.Random
) -> None:
    """Let all visit until this is cancelled: *rate* visits a second together."""

    async def one(visitor: Visitor, pause_s: float) -> None:
        while True:
            await asyncio.sleep(chance.uniform(0, 2 * pause_s))
            await visitor.visit()

    async with asyncio.TaskGroup() as group:
        for visitor in visitors:
            group.create_task(one(visitor, len(visitors) / rate))
