"""The cost of a verification: of a known token, a new one, and with the SDK.

`make bench-verify`. The embedded core issues the tokens, each of another session. The
unmodified SDK runs in another process on the same CPU core. Its rounds alternate with
the engine's, so that noise affects both. Times are CPU time of the measuring process;
the minimum of all rounds has the least noise.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp

from gateway import config
from gateway.dev.core import CoreSettings, serve_in_thread
from gateway.http.fields import Fields, block
from gateway.http.request_head import HeadLimits, RequestHead, RequestReader
from gateway.identity import Allowed, SessionPolicy, SessionRequest
from gateway.session import keys, tokens
from gateway.session.authenticator import SessionAuthenticator
from gateway.session.credentials import CREDENTIAL_FIELDS
from gateway.session.rules import SessionRules
from gateway.verify import Engine

_ORIGIN = "http://localhost:8000"
_ROUNDS = 15
_SESSIONS = 500
"""Tokens of each kind. Each round verifies all of them."""

_PAYLOADS: dict[str, dict[str, Any]] = {
    "minimal": {},
    "roles and 20 permissions": {
        "st-role": {"v": ["admin", "support"], "t": 1_800_000_000_000},
        "st-perm": {
            "v": [f"orders:{number}" for number in range(20)],
            "t": 1_800_000_000_000,
        },
        "st-ev": {"v": True, "t": 1_800_000_000_000},
    },
}

_CLIENT = (
    (b"Host", b"localhost:8000"),
    (b"User-Agent", b"bench"),
    (b"Accept", b"*/*"),
)
_BROWSER = (
    (b"Host", b"app.example.com"),
    (b"sec-ch-ua", b'"Chromium";v="140", "Not=A?Brand";v="24"'),
    (b"sec-ch-ua-mobile", b"?0"),
    (b"sec-ch-ua-platform", b'"Linux"'),
    (b"User-Agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"),
    (b"Accept", b"application/json"),
    (b"rid", b"anti-csrf"),
    (b"Origin", b"https://app.example.com"),
    (b"Sec-Fetch-Site", b"same-origin"),
    (b"Sec-Fetch-Mode", b"cors"),
    (b"Sec-Fetch-Dest", b"empty"),
    (b"Referer", b"https://app.example.com/orders"),
    (b"Accept-Encoding", b"gzip, deflate, br, zstd"),
    (b"Accept-Language", b"de-DE,de;q=0.9,en;q=0.8"),
)

_GOALS = {"cached": (3.0, 3.0 / 115), "new": (60.0, 60.0 / 115)}
"""Goals for a minimal bearer token, in microseconds, on the machine on which the SDK
takes 115; on another machine, as a share of the SDK's time."""


@dataclass
class Row:
    """One kind of request, and its microseconds in each round."""

    name: str
    us: list[float] = field(default_factory=list)

    def text(self) -> str:
        return (
            f"| {self.name} | {min(self.us):.1f} | {statistics.median(self.us):.1f} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scripts.verify", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    options = parser.parse_args()
    with serve_in_thread(CoreSettings()) as core:
        rows, sizes = asyncio.run(_measure(core.url, options.rounds))
    print(_table(rows, sizes))
    return 0


async def _measure(url: str, rounds: int) -> tuple[dict[str, Row], dict[str, int]]:
    """Return the cost of each kind of request, and the length of its tokens."""
    rows: dict[str, Row] = {}
    sizes: dict[str, int] = {}
    turns: list[Callable[[], Awaitable[None]]] = []
    async with AsyncExitStack() as opened:
        store = keys.KeyStore([url], config.KeysConfig())
        await store.start()
        opened.push_async_callback(store.close)
        await store.refresh()
        for name, payload in _PAYLOADS.items():
            made = await _sessions(url, payload)
            sizes[name] = len(made[0])
            sdk = opened.enter_context(_sdk(url, made))
            for how, requests in (
                ("bearer", [_bearer(token) for token in made]),
                ("cookie, a browser", [_cookie(token) for token in made]),
            ):
                cached = rows[f"cached/{name}/{how}"] = Row(
                    f"seen before, {name}, {how}"
                )
                new = rows[f"new/{name}/{how}"] = Row(f"new, {name}, {how}")
                turns.append(partial(_ours, store, requests, new, cached))
            floor = rows[f"rsa/{name}"] = Row(f"its signature alone, {name}")
            theirs = rows[f"sdk/{name}"] = Row(f"the SDK, {name}")
            turns += [partial(_rsa, store, made, floor), partial(_theirs, sdk, theirs)]
        gc.collect()
        gc.freeze()
        for _ in range(rounds):
            for turn in turns:
                await turn()
    return rows, sizes


async def _sessions(url: str, payload: dict[str, Any]) -> list[str]:
    """Return the access tokens of new sessions, with the claims that the SDK sets."""
    made = []
    async with aiohttp.ClientSession() as http:
        for number in range(_SESSIONS):
            body = {
                "userId": f"7a0b{number:04}-1c1e-4c8a-9a44-0d7c3a5d1f10",
                "userDataInJWT": {"iss": f"{_ORIGIN}/auth", **payload},
                "userDataInDatabase": {},
                "useDynamicSigningKey": True,
                "enableAntiCsrf": False,
            }
            async with http.post(
                f"{url}/public/recipe/session",
                json=body,
                headers={"cdi-version": "5.4"},
            ) as reply:
                made.append((await reply.json())["accessToken"]["token"])
    return made


_READER = RequestReader(
    HeadLimits(target=8192, field=16384, head=65536, fields=100),
    credentials=CREDENTIAL_FIELDS,
)


class _Asking:
    """A request as verification sees it."""

    def __init__(self, head: RequestHead) -> None:
        self.method, self.path = head.method, "/x"
        self.fields, self.credential_lines = head.fields, head.credential_lines
        self.is_secure, self.authority = False, ""


def _asking(fields: Fields) -> SessionRequest:
    return _Asking(_READER.read(b"GET /x HTTP/1.1\r\n%b\r\n" % block(fields)))


def _bearer(token: str) -> SessionRequest:
    credential_lines = (b"Authorization", b"Bearer " + token.encode())
    return _asking((*_CLIENT, credential_lines))


def _cookie(token: str) -> SessionRequest:
    cookies = b"theme=dark; sAccessToken=%b; sFrontToken=x; lang=de" % token.encode()
    return _asking((*_BROWSER, (b"Cookie", cookies)))


# --- the engine -------------------------------------------------------------------


class _NoCore:
    """No request here needs the core."""

    async def check(self, *_: object, **__: object) -> Allowed:
        raise AssertionError


async def _ours(
    store: keys.KeyStore, requests: Sequence[SessionRequest], new: Row, cached: Row
) -> None:
    """Measure an engine with all tokens new to it, then with all remembered."""
    sessions = SessionAuthenticator(
        keys=store,
        core=_NoCore(),
        rules=SessionRules(
            tokens=tokens.TokenRules(issuers=frozenset({f"{_ORIGIN}/auth"}))
        ),
        cache=config.CacheConfig(),
        client=config.CoreConfig(),
    )
    engine = Engine((sessions,), unauthorised=sessions.refusals.unauthorised)
    policy = SessionPolicy()
    for row, reason in ((new, "local"), (cached, "cached")):
        check, verdict = engine.verify, None
        with _timed(row, len(requests)):
            for request in requests:
                verdict = await check(request, policy)
        assert isinstance(verdict, Allowed)
        assert verdict.reason == reason


async def _rsa(store: keys.KeyStore, made: Sequence[str], row: Row) -> None:
    """Measure the steps that every verification needs."""
    parsed = [token for text in made if (token := tokens.parse(text)) is not None]
    key = store.get(parsed[0].header.kid)
    assert key is not None
    with _timed(row, len(parsed)):
        for token in parsed:
            tokens.is_signed(token, key)


@contextmanager
def _timed(row: Row, times: int) -> Iterator[None]:
    begun = time.process_time()
    yield
    row.us.append((time.process_time() - begun) / times * 1e6)


# --- the SDK ------------------------------------------------------------------------


class _Sdk:
    """The unmodified SDK in another process, which waits for its turn."""

    def __init__(self, process: subprocess.Popen[str], made: Sequence[str]) -> None:
        self._process = process
        self.say(json.dumps(made))

    def say(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextmanager
def _sdk(url: str, made: Sequence[str]) -> Iterator[_Sdk]:
    with subprocess.Popen(
        [sys.executable, "-m", "bench.rig.sdk_verify", url, _ORIGIN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SUPERTOKENS_TLDEXTRACT_DISABLE_HTTP": "1"},
    ) as process:
        try:
            yield _Sdk(process, made)
        finally:
            process.terminate()


async def _theirs(sdk: _Sdk, row: Row) -> None:
    row.us.append(float(await asyncio.to_thread(sdk.say, "go")))


# --- the report ---------------------------------------------------------------------


def _table(rows: dict[str, Row], sizes: dict[str, int]) -> str:
    rounds = len(rows["sdk/minimal"].us)
    lines = [
        "# Microseconds of CPU for one verification",
        "",
        f"{rounds} rounds of {_SESSIONS} sessions; Python {platform.python_version()}.",
        "Tokens: " + ", ".join(f"{name} {size} B" for name, size in sizes.items()),
        "",
        "| what | min | median |",
        "|---|---|---|",
        *(row.text() for row in rows.values()),
        "",
    ]
    sdk = min(rows["sdk/minimal"].us)
    for kind, (us, share) in _GOALS.items():
        best = min(rows[f"{kind}/minimal/bearer"].us)
        lines.append(
            f"Goals for a {kind} token: {us:.0f} µs, {_word(best <= us)} ({best:.1f});"
            f" {share:.3f} of the SDK's, {_word(best / sdk <= share)}"
            f" ({best / sdk:.3f})."
        )
    return "\n".join(lines)


def _word(reached: bool) -> str:
    return "reached" if reached else "not reached"


if __name__ == "__main__":
    sys.exit(main())
