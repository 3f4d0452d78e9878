"""The instructions of each part of a protected GET: `make bench-pieces`.

The gateway's objects run in one process, with transports that have no socket. Each part
is called alone under valgrind's callgrind, and valgrind's client requests read the
counter from inside. The cheap inputs of a part (a parsed head, for example) are made
before the count. So the sum of the parts is less than the whole: no part includes
coroutines, the record and calls between parts.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import ctypes
import gc
import json
import mmap
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvloop
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from bench.rig import interpreter
from bench.rig.report import Table
from bench.rig.stage import ROOT, TOOLS
from gateway import config, headers, responses, routes
from gateway.app import id_maker, readers, traces
from gateway.clients import Clients
from gateway.decisions import Forward
from gateway.downstream.cors import Cors
from gateway.downstream.exchange import NO_BODY, Exchange
from gateway.downstream.listener import ClientConnection, Listener
from gateway.headers import ForwardedCache, Networks
from gateway.observe import NoLog, Record
from gateway.pace import PACE
from gateway.proxy import Dependencies, Proxy
from gateway.rate_limits import Limiter, LocalStore
from gateway.resources import Router
from gateway.session import tokens
from gateway.session.authenticator import SessionAuthenticator
from gateway.session.rules import SessionRules
from gateway.upstream import ServiceTargets, Upstreams, UpstreamTarget
from gateway.upstream.connection import UpstreamConnection
from gateway.verify import Engine

_ISSUER = "http://localhost:8000/auth"
_REPLY = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Thu, 26 Nov 2026 15:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 2\r\nConnection: keep-alive\r\n"
    b"\r\n{}"
)
_CALLS = 300
"""Calls of a part in each count, after as many that aren't counted."""
_INSIDE = "BENCH_PIECES_OUT"
"""The environment variable that tells the process under valgrind callgrind's file."""


# --- the counter --------------------------------------------------------------------


class Counter:
    """Counts instructions in a process under callgrind.

    Source: valgrind.h and callgrind.h, client requests on amd64.
    """

    # mov rax,rdi; xor edx,edx; valgrind's preamble of four rotations; xchg rbx,rbx; ret
    _CODE = bytes.fromhex("4889f831d248c1c70348c1c70d48c1c73d48c1c7334887db4889d0c3")
    _DUMP, _ZERO = 0x43540000, 0x43540001

    def __init__(self, out: Path) -> None:
        self._out = out
        self._dumps = 0
        executable = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        self._code = mmap.mmap(-1, mmap.PAGESIZE, prot=executable)
        self._code.write(self._CODE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._code))
        self._request = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)(address)
        self._zero, self._dump = (
            (ctypes.c_ulong * 6)(code, 0, 0, 0, 0, 0)
            for code in (self._ZERO, self._DUMP)
        )
        self._loop = 0.0
        self._loop = self.count(lambda: None)

    def count(self, piece: Callable[[], object]) -> float:
        """Return the instructions of one call."""
        self._run(piece, _CALLS)
        once, twice = self._run(piece, _CALLS), self._run(piece, 2 * _CALLS)
        return (twice - once) / _CALLS - self._loop

    def _run(self, piece: Callable[[], object], calls: int) -> int:
        self._request(ctypes.addressof(self._zero))
        for _ in range(calls):
            piece()
        self._request(ctypes.addressof(self._dump))
        self._dumps += 1
        written = Path(f"{self._out}.{self._dumps}")
        match = re.search(r"^totals: (\d+)", written.read_text(), re.MULTILINE)
        written.unlink()
        assert match is not None, "callgrind wrote no total"
        return int(match[1])


# --- the parts ----------------------------------------------------------------------


class _Keys:
    def __init__(self, key: rsa.RSAPublicKey) -> None:
        self._key = key

    def get(self, _: str) -> rsa.RSAPublicKey:
        return self._key

    def usable_for_s(self) -> float:
        return 3600.0


class _NoAuth:
    def owns(self, _: str) -> bool:
        return False


class _Wire:
    """A transport without a socket."""

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.out = data

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        """Nothing is open."""


class _ServiceWire(_Wire):
    def __init__(self) -> None:
        self._ends = socket.socketpair()

    def get_extra_info(self, name: str) -> Any:
        return self._ends[0] if name == "socket" else super().get_extra_info(name)


def _token(key: rsa.RSAPrivateKey) -> str:
    now = int(time.time())
    parts = (
        {"alg": "RS256", "typ": "JWT", "kid": "d-1", "version": "5"},
        {
            "sub": "5b4b8b1c-9c53-4a9e-8b1f-6a1b2c3d4e5f",
            "rsub": "5b4b8b1c-9c53-4a9e-8b1f-6a1b2c3d4e5f",
            "tId": "public",
            "iss": _ISSUER,
            "iat": now - 10,
            "exp": now + 3590,
            "sessionHandle": "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
            "refreshTokenHash1": "a" * 64,
            "parentRefreshTokenHash1": None,
            "antiCsrfToken": None,
            "st-role": {"v": [], "t": now * 1000},
            "st-perm": {"v": [], "t": now * 1000},
        },
    )
    signed = ".".join(_segment(json.dumps(part).encode()) for part in parts)
    signature = key.sign(signed.encode(), padding.PKCS1v15(), SHA256())
    return f"{signed}.{_segment(signature)}"


def _segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


async def _count(counter: Counter) -> list[tuple[str, float]]:
    """Return each part with its instructions, and the total last."""
    loop = asyncio.get_running_loop()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = _token(key)
    loaded = config.parse(
        {
            "version": 1,
            "services": {"orders": {"targets": ["http://127.0.0.1:1"]}},
            "routes": [{"path": "/orders", "service": "orders", "protected": True}],
        }
    )
    table = routes.compile(loaded)
    limits = loaded.gateway.limits
    reader, replies = readers(table, loaded.gateway)
    upstreams = Upstreams(replies)
    pool = upstreams.pool(UpstreamTarget.parse("http://127.0.0.1:1"))
    sessions = SessionAuthenticator(
        keys=cast("Any", _Keys(key.public_key())),
        core=cast("Any", None),
        rules=SessionRules(tokens=tokens.TokenRules(issuers=frozenset({_ISSUER}))),
        cache=config.CacheConfig(),
        client=config.CoreConfig(),
    )
    engine = Engine((sessions,), unauthorised=sessions.refusals.unauthorised)
    resources = Router(
        table=table, auth=cast("Any", _NoAuth()), user_path=loaded.gateway.user_path
    )
    make_id = id_maker()
    proxy = Proxy(
        Dependencies(
            limiter=Limiter(LocalStore(time.monotonic_ns)),
            reader=reader,
            resources=resources,
            services={"orders": ServiceTargets("orders", [pool])},
            verifier=engine,
            cors=Cors(
                loaded.cors,
                website_domain="http://localhost:8000",
                sdk_headers=(),
                method_allowed=resources.method_allowed,
            ),
            observer=NoLog(),
            limits=limits,
            forwarded=ForwardedCache(Networks(())),
            make_id=make_id,
            traces=traces(loaded),
            pace=PACE,
        )
    )
    listener = Listener(
        proxy.handle,
        reader=reader,
        limits=limits,
        observer=NoLog(),
        make_id=make_id,
        pace=PACE,
        clients=Clients(),
    )
    service = UpstreamConnection(pool, "service", replies, loop)
    service.connection_made(cast("Any", _ServiceWire()))
    connection, wire = ClientConnection(listener, loop), _Wire()
    connection.connection_made(cast("Any", wire))

    request = (
        b"GET /orders HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
        b"Authorization: Bearer %b\r\n\r\n" % text.encode()
    )
    end = _REPLY.index(b"\r\n\r\n") + 4

    def decide() -> Forward:
        record = Record.begin(0.0, "127.0.0.1", "GET")
        decision = proxy.decider.decide(head, "127.0.0.1", record, False)
        assert isinstance(decision, Forward)
        return decision

    def send() -> None:
        wait = service.send(b"", False, None, None, route.timeouts, 1e18, False)
        service.data_received(_REPLY)
        assert wait.value is not None
        pool._idle.clear()  # noqa: SLF001 - not to be taken twice

    def answer() -> None:
        client = Exchange(connection, head, NO_BODY, limits)
        client.start(b"HTTP/1.1 200 OK\r\n" + back, 200, 2, b"{}", True)

    def whole() -> None:
        connection.data_received(request)
        service.data_received(_REPLY)
        assert wire.out.startswith(b"HTTP/1.1 200 OK\r\n")

    head = reader.read(request)
    forward = decide()
    route, verified = forward.route, forward.request
    head = reader.read(request)  # the verdict now refers to its line
    identity = forward.verdict.principal
    reply = replies.read(_REPLY[:end], False)
    dated = partial(responses.date_line, int(time.time()))
    back = headers.to_client(reply, verified.id, dated, (), (), True)
    parsed = tokens.parse(text)
    assert parsed is not None
    assert identity is not None

    def fields() -> bytes:
        return headers.to_upstream(
            head, route.headers, verified.forwarded, identity, verified.id
        )

    def written() -> bytes:
        identity.written.clear()
        return fields()

    pieces: list[tuple[str, Callable[[], object]]] = [
        ("the request's head", lambda: reader.read(request)),
        ("what it means, and its verification", decide),
        ("of it, verification", lambda: engine.verify_now(verified, route.session)),
        ("the fields to the service", fields),
        ("the exchange: sent, the reply read", send),
        ("of it, the reply's head", lambda: replies.read(_REPLY[:end], False)),
        (
            "the fields to the client",
            lambda: headers.to_client(reply, verified.id, dated, (), (), True),
        ),
        ("the client's side, and the answer's write", answer),
        ("a new token: decoded", lambda: tokens.parse(text)),
        ("a new token: its signature", lambda: tokens.is_signed(parsed, key_of)),
        ("a new token: identity fields written", written),
    ]
    key_of = key.public_key()
    gc.collect()
    gc.freeze()
    gc.disable()
    counted = [(name, counter.count(piece)) for name, piece in pieces]
    pool.release(service)
    counted.append(("the whole, without the event loop", counter.count(whole)))
    await upstreams.close()
    return counted


# --- the run ------------------------------------------------------------------------


def main() -> int:
    argparse.ArgumentParser(
        prog="python -m bench.scripts.pieces",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    if out := os.environ.get(_INSIDE):
        counted = uvloop.run(_count(Counter(Path(out))))
        rows: list[tuple[str, ...]] = [
            (name, f"{instructions:,.0f}") for name, instructions in counted
        ]
        print(*Table(columns=("piece", "instructions"), rows=rows).markdown(), sep="\n")
        return 0
    if not shutil.which("valgrind"):
        raise SystemExit("missing: valgrind (Debian: apt install valgrind)")
    python = interpreter.choose()
    print(f"under callgrind, on {python}", file=sys.stderr)
    home = interpreter.environment(TOOLS / "python", python, ROOT)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "callgrind.out"
        return subprocess.run(
            [
                *("valgrind", "--quiet", "--tool=callgrind"),
                f"--callgrind-out-file={written}",
                *(home / "python", "-m", "bench.scripts.pieces"),
            ],
            cwd=ROOT,
            env={**os.environ, _INSIDE: str(written), "PYTHONHASHSEED": "0"},
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
