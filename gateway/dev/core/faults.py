"""edge. Faults that a test injects into the embedded core, and a log of its calls.

For tests of a client of the core: outages, delays, malformed replies and JWKS errors.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from gateway.dev.core.jws import JsonObject, base64url

JWKS_PATH: Final = "/.well-known/jwks.json"

_LOGGED_CALLS: Final = 10_000
"""Calls kept in the log; it limits the memory of a core that runs for weeks."""

_RSA_BYTES: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What the core does to a call.

    It waits first. Then it closes the connection (`disconnect`), answers with `body`,
    or, with neither, gives the real answer.
    """

    delay_s: float = 0.0
    hang: bool = False
    """Wait until `Faults.clear`, or until the client disconnects or the core stops."""

    disconnect: bool = False
    status: int = 200
    body: bytes | None = None
    content_type: str = "application/json;charset=UTF-8"


@dataclass(slots=True)
class _Switch:
    pattern: str
    method: str | None
    fault: Fault
    times_left: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """The fault of one call, and the future that ends its wait (None: no wait)."""

    fault: Fault
    woken: asyncio.Future[bool] | None


@dataclass(slots=True)
class Faults:
    """The faults of one core; any thread may set them.

    A pattern is a shell glob. It is matched with the path as sent
    (`/public/recipe/signin`) and with the path without app and tenant
    (`/recipe/signin`). Of several matching faults, the one set last applies.
    """

    _switches: list[_Switch] = field(default_factory=list)
    _waiting: set[asyncio.Future[bool]] = field(default_factory=set)
    _calls: deque[tuple[str, str]] = field(
        default_factory=lambda: deque(maxlen=_LOGGED_CALLS)
    )
    _watchers: list[asyncio.Future[bool]] = field(default_factory=list)
    _watching: threading.Lock = field(default_factory=threading.Lock)

    @property
    def calls(self) -> list[tuple[str, str]]:
        """The latest calls as (method, path as sent), oldest first."""
        return list(self._calls)

    def count(self, pattern: str = "*", *, method: str | None = None) -> int:
        """Return how many logged calls match, by the path as sent."""
        return sum(
            fnmatchcase(path, pattern) and method in (None, called)
            for called, path in self._calls
        )

    async def until_called(self, pattern: str = "*", *, times: int = 1) -> None:
        """Wait until at least *times* logged calls match.

        A call that hangs is waiting by then, so `clear` lets it continue.
        """
        await self._until(lambda: self.count(pattern) >= times)

    async def until_idle(self) -> None:
        """Wait until no call waits in a fault."""
        await self._until(lambda: not self._waiting)

    def forget_calls(self) -> None:
        """Empty the log."""
        self._calls.clear()

    def set(
        self,
        pattern: str,
        fault: Fault,
        *,
        method: str | None = None,
        times: int | None = None,
    ) -> None:
        """Apply a fault to matching calls: all of them, or only the next `times`."""
        self._switches.append(_Switch(pattern, method, fault, times))

    def delay(self, seconds: float, pattern: str = "*") -> None:
        """Delay the answers to matching calls."""
        self.set(pattern, Fault(delay_s=seconds))

    def hang(self, pattern: str = "*") -> None:
        """Read matching calls and don't answer."""
        self.set(pattern, Fault(hang=True))

    def disconnect(self, pattern: str = "*") -> None:
        """Close the connection of matching calls without an answer."""
        self.set(pattern, Fault(disconnect=True))

    def error(
        self, status: int, pattern: str = "*", *, text: str = "Internal Error"
    ) -> None:
        """Answer matching calls with an HTTP error in the core's plain-text form."""
        self.set(
            pattern,
            Fault(
                status=status,
                body=f"{text}\n".encode(),
                content_type="text/html;charset=UTF-8",
            ),
        )

    def garbage(
        self, pattern: str = "*", *, body: bytes = b'{"status": "OK", "trunc'
    ) -> None:
        """Answer matching calls with 200 and *body*, by default truncated JSON."""
        self.set(pattern, Fault(body=body))

    def jwks_empty(self) -> None:
        """Publish a JWKS without keys."""
        self.set(JWKS_PATH, _jwks([]))

    def jwks_garbage(self) -> None:
        """Publish an HTML page instead of the JWKS."""
        self.set(
            JWKS_PATH,
            Fault(body=b"<html>not keys</html>", content_type="text/html"),
        )

    def jwks_huge(self, keys: int = 20_000) -> None:
        """Publish a JWKS of many well-formed keys that sign nothing (default 7 MB)."""
        self.set(JWKS_PATH, _jwks([_useless_key(number) for number in range(keys)]))

    def clear(self, pattern: str | None = None) -> None:
        """Remove the faults set for a pattern, or all; every waiting call continues."""
        self._switches = [
            switch
            for switch in self._switches
            if pattern is not None and switch.pattern != pattern
        ]
        self._wake(go_on=True)

    def release(self) -> None:
        """End waiting calls without an answer, because the core stops."""
        self._wake(go_on=False)

    def meet(self, method: str, path: str, api_path: str) -> Met | None:
        """Log a call and return its fault, or None. It uses up one of its `times`.

        The wait is registered before the call is logged, so `clear` reaches every
        call in the log.
        """
        fault = self._take(method, path, api_path)
        met = None
        if fault is not None:
            woken: asyncio.Future[bool] | None = None
            if fault.hang or fault.delay_s > 0:
                woken = asyncio.get_running_loop().create_future()
                self._waiting.add(woken)
            met = Met(fault=fault, woken=woken)
        self._calls.append((method, path))
        self._notify()
        return met

    async def wait(self, met: Met) -> bool:
        """Wait as the fault requires; return False if the core stops meanwhile."""
        if met.woken is None:
            return True
        try:
            timeout_s = None if met.fault.hang else met.fault.delay_s
            done, _ = await asyncio.wait({met.woken}, timeout=timeout_s)
            return met.woken.result() if done else True
        finally:
            self._waiting.discard(met.woken)
            self._notify()

    def _take(self, method: str, path: str, api_path: str) -> Fault | None:
        for switch in reversed(self._switches):
            if switch.method in (None, method) and (
                fnmatchcase(path, switch.pattern)
                or fnmatchcase(api_path, switch.pattern)
            ):
                if switch.times_left is not None:
                    switch.times_left -= 1
                    if switch.times_left == 0:
                        self._switches.remove(switch)
                return switch.fault
        return None

    async def _until(self, condition: Callable[[], bool]) -> None:
        while True:
            watcher: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            # Registered before the check: a change between check and wait isn't lost.
            with self._watching:
                self._watchers.append(watcher)
            if condition():
                return
            await watcher

    def _notify(self) -> None:
        with self._watching:
            watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            _finish_soon(watcher, True)

    def _wake(self, *, go_on: bool) -> None:
        for woken in tuple(self._waiting):
            _finish_soon(woken, go_on)


def _finish_soon(future: asyncio.Future[bool], result: bool) -> None:
    """Set a future's result in its own event loop, unless that loop is closed."""
    loop = future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(_finish, future, result)


def _finish(woken: asyncio.Future[bool], go_on: bool) -> None:
    if not woken.done():
        woken.set_result(go_on)


def _jwks(keys: list[JsonObject]) -> Fault:
    return Fault(body=json.dumps({"keys": keys}).encode())


def _useless_key(number: int) -> JsonObject:
    # Odd and 2048 bits long, so that clients accept it as an RSA modulus.
    modulus = (1 << (8 * _RSA_BYTES - 1)) + 2 * number + 1
    return {
        "kty": "RSA",
        "kid": f"d-{number}",
        "n": base64url(modulus.to_bytes(_RSA_BYTES, "big")),
        "e": "AQAB",
        "alg": "RS256",
        "use": "sig",
    }
