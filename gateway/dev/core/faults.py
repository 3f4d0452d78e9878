"""edge. Switches that make the embedded core misbehave, and a log of its calls.

For tests of whatever talks to a core: outages, hangs, garbage, key trouble.
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
"""Calls kept in the log, so that a core that runs for weeks doesn't grow."""

_RSA_BYTES: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The misbehaviour instead of, or before, the true answer.

    In this order: wait, cut the connection, or answer with `body`. With neither
    `disconnect` nor `body` the true answer follows the wait.
    """

    delay_s: float = 0.0
    hang: bool = False
    """Wait until the switch is cleared, the client leaves or the core stops."""

    disconnect: bool = False
    status: int = 200
    body: bytes | None = None
    content_type: str = "application/json; charset=UTF-8"


@dataclass(slots=True)
class _Switch:
    pattern: str
    method: str | None
    fault: Fault
    times_left: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """The fault of one call, and the future that ends its wait."""

    fault: Fault
    woken: asyncio.Future[bool] | None


@dataclass(slots=True)
class Faults:
    """The switches of one core; any thread may set them.

    A pattern is a shell glob over the path, as sent (`/public/recipe/signin`) or
    without app and tenant (`/recipe/signin`). The switch set last wins.
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
        """Wait until that many logged calls match; a hanging call waits by then."""
        await self._until(lambda: self.count(pattern) >= times)

    async def until_idle(self) -> None:
        """Wait until no call waits in a fault: released, or closed by its client."""
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
        """Answer matching calls late."""
        self.set(pattern, Fault(delay_s=seconds))

    def hang(self, pattern: str = "*") -> None:
        """Read matching calls and don't answer."""
        self.set(pattern, Fault(hang=True))

    def disconnect(self, pattern: str = "*") -> None:
        """Cut the connection of matching calls without an answer."""
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
                content_type="text/html; charset=UTF-8",
            ),
        )

    def garbage(
        self, pattern: str = "*", *, body: bytes = b'{"status": "OK", "trunc'
    ) -> None:
        """Answer matching calls with 200 and bytes that aren't valid JSON."""
        self.set(pattern, Fault(body=body))

    def jwks_empty(self) -> None:
        """Publish a key set without keys."""
        self.set(JWKS_PATH, _jwks([]))

    def jwks_garbage(self) -> None:
        """Publish an HTML page instead of a key set."""
        self.set(
            JWKS_PATH,
            Fault(body=b"<html>not keys</html>", content_type="text/html"),
        )

    def jwks_huge(self, keys: int = 20_000) -> None:
        """Publish a key set of many well-formed, useless keys (7 MB by default)."""
        self.set(JWKS_PATH, _jwks([_useless_key(number) for number in range(keys)]))

    def clear(self, pattern: str | None = None) -> None:
        """Turn off the switches set for a pattern, or all; waiting calls continue."""
        self._switches = [
            switch
            for switch in self._switches
            if pattern is not None and switch.pattern != pattern
        ]
        self._wake(go_on=True)

    def release(self) -> None:
        """End waiting calls without an answer, as the core stops."""
        self._wake(go_on=False)

    def meet(self, method: str, path: str, api_path: str) -> Met | None:
        """Log a call and return the fault for it, counted against its `times`.

        In one step, so that who has seen the call in the log can let it go.
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
        """Wait as the fault requires; return whether the call continues."""
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

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while True:
            watcher: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            # Made before the check, so that no change between check and wait is lost.
            with self._watching:
                self._watchers.append(watcher)
            if is_so():
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
    """Finish a future in its own loop; one whose loop has ended needs nothing."""
    loop = future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(_finish, future, result)


def _finish(woken: asyncio.Future[bool], go_on: bool) -> None:
    if not woken.done():
        woken.set_result(go_on)


def _jwks(keys: list[JsonObject]) -> Fault:
    return Fault(body=json.dumps({"keys": keys}).encode())


def _useless_key(number: int) -> JsonObject:
    # Odd and of full length, so that a reader takes it for an RSA modulus.
    modulus = (1 << (8 * _RSA_BYTES - 1)) + 2 * number + 1
    return {
        "kty": "RSA",
        "kid": f"d-{number}",
        "n": base64url(modulus.to_bytes(_RSA_BYTES, "big")),
        "e": "AQAB",
        "alg": "RS256",
        "use": "sig",
    }
