"""Measure how soon a gateway answers after its start: `make bench-startup`.

It measures the time from the start of the process to the first answer on a public
route, and on a protected route with a valid token; and the memory of each process then.
Processes are new, with compiled bytecode. Exits with 1 if the target is missed.

The gateway runs on an optimised Python where there is one, as in `make bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import aiohttp

from bench.rig import goals, interpreter
from bench.rig.processes import (
    PROXY_CORE,
    DidNotStart,
    Share,
    cpu,
    share_of_memory,
    worker_pids,
)
from bench.rig.report import Part, Table, spread
from bench.rig.stage import ROOT, TOOLS
from gateway.dev.core import CoreSettings, ThreadedCore, serve_in_thread

_LIMIT_S = 30.0
_LOOK_S = 0.002
"""The time between two attempts to connect, which is the error of every figure."""
_MIB = 1024 * 1024

_CONFIG = """
version: 1
gateway: {{listen: "127.0.0.1:{port}"}}
supertokens:
  connection_uri: "{core}"
  recipes:
    emailpassword: {{}}
    emailverification: {{mode: OPTIONAL}}
    userroles: {{}}
    usermetadata: {{}}
routes:
  - {{path: /open, upstream: "{upstream}", protected: false}}
  - {{path: /, upstream: "{upstream}"}}
"""
"""The recipes of config/routes.yaml, since only configured recipes are imported."""


class Run(NamedTuple):
    """The times in seconds, and the processes, of one start."""

    public_s: float
    """Until an answer on a public route."""
    protected_s: float
    """Until an answer on a protected route, with a valid token."""
    cpu_s: float
    """User and system time of all processes until then."""
    processes: tuple[Share, ...]
    """The process that was started, and its workers, if any."""


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def _upstream() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def _token(core: ThreadedCore) -> str:
    """Return an access token of the core."""
    async with aiohttp.ClientSession(headers={"cdi-version": "5.4"}) as client:
        account = {"email": "bench@example.com", "password": "correct-horse-1"}
        async with client.post(f"{core.url}/recipe/signup", json=account) as reply:
            user = (await reply.json())["user"]["id"]
        session = {
            "userId": user,
            "userDataInJWT": {"iss": "http://localhost:8000/auth"},
            "userDataInDatabase": {},
            "enableAntiCsrf": False,
        }
        async with client.post(f"{core.url}/recipe/session", json=session) as reply:
            return str((await reply.json())["accessToken"]["token"])


def _environ() -> dict[str, str]:
    """Return the environment, in which modules are compiled once, as usual."""
    environ = dict(os.environ)
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return environ


def measure(command: list[str], config: str, token: str, workers: int) -> Run:
    """Start one gateway, measure its times and its memory, and stop it.

    Raises:
        DidNotStart: it ended, or didn't answer in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "routes.yaml"
        path.write_text(config.replace("{port}", str(port)))
        log = Path(folder) / "log"
        with log.open("wb") as output:
            began = time.perf_counter()
            process = subprocess.Popen(
                [*command, "serve", "-c", str(path), "--log-format", "none"],
                stdout=output,
                stderr=output,
                env={**_environ(), "GATEWAY_WORKERS": str(workers)},
            )
        try:
            with _connected(process, port, log) as client:
                _expect(client, "/open", None)
                public_s = time.perf_counter() - began
                _expect(client, "/", token)
                protected_s = time.perf_counter() - began
            used = cpu([process.pid])
            pids = (process.pid, *sorted(worker_pids(process.pid)))
            memory = tuple(map(share_of_memory, pids))
            return Run(public_s, protected_s, sum(used), memory)
        finally:
            process.terminate()
            process.wait(_LIMIT_S)


@contextlib.contextmanager
def _connected(
    process: subprocess.Popen[bytes], port: int, log: Path
) -> Iterator[socket.socket]:
    """Yield a connection to *port* as soon as a process listens on it."""
    deadline = time.monotonic() + _LIMIT_S
    client = None
    while client is None:
        try:
            client = socket.create_connection(("127.0.0.1", port), _LIMIT_S)
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                last_output = log.read_text(errors="replace")[-2000:]
                raise DidNotStart(last_output) from None
            time.sleep(_LOOK_S)
    with client:
        yield client


def _expect(client: socket.socket, path: str, token: str | None) -> None:
    """Request *path* and wait for its 200."""
    credentials = f"Authorization: Bearer {token}\r\n" if token else ""
    client.sendall(
        f"GET {path} HTTP/1.1\r\nHost: gateway\r\n{credentials}\r\n".encode()
    )
    reply = b""
    while b"\r\n\r\n" not in reply:
        piece = client.recv(65536)
        if not piece:
            break
        reply += piece
    if not reply.startswith(b"HTTP/1.1 200 "):
        raise DidNotStart(f"{path} was answered with {reply[:200]!r}")


def _table(runs: list[Run]) -> str:
    def line(title: str, values: list[float], unit: str) -> str:
        low, middle = min(values), statistics.median(values)
        return f"{title:44} {low:8.0f} {middle:8.0f} {unit}"

    def memory(title: str, place: int) -> tuple[str, str]:
        taken = [one.processes[place] for one in runs]
        return (
            line(
                f"resident memory, {title}",
                [one.resident / _MIB for one in taken],
                "MiB",
            ),
            line("of it private", [one.private / _MIB for one in taken], "MiB"),
        )

    return "\n".join(
        (
            f"{'':44} {'minimum':>8} {'median':>8}",
            line("first answer, public", [1000 * one.public_s for one in runs], "ms"),
            line(
                "first answer, protected",
                [1000 * one.protected_s for one in runs],
                "ms",
            ),
            line("CPU until then", [1000 * one.cpu_s for one in runs], "ms"),
            *memory("the process" if len(runs[0].processes) == 1 else "supervisor", 0),
            *(memory("last worker", -1) if len(runs[0].processes) > 1 else ()),
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scripts.startup")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--python", help="in an environment that has the gateway")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    path = options.python or str(
        interpreter.environment(TOOLS / "python", interpreter.choose(), ROOT) / "python"
    )
    python = interpreter.ask(path)
    if python is None:
        parser.error(f"--python: {path} is no Python")
    runs = _several([path], options.runs, options.workers)
    print(
        f"{python}, {platform.system()} {platform.machine()},"
        f" {os.cpu_count()} CPUs, workers: {options.workers},"
        f" runs: {options.runs}\n{_table(runs)}"
    )
    fastest = min(one.public_s for one in runs)
    goal = goals.GOALS["P16"].most
    assert goal is not None, "a program can't end by a goal that there isn't"
    print(f"target: the first answer within {goal:g} s")
    return 0 if fastest <= goal else 1


def _several(python: list[str], count: int, workers: int) -> list[Run]:
    """Start *count* gateways, one after the other, with the command *python*."""
    command = [*python, "-c", "from gateway.cli import main; main()"]
    with _upstream() as upstream, serve_in_thread(CoreSettings()) as core:
        token = asyncio.run(_token(core))
        config = _CONFIG.format(port="{port}", core=core.url, upstream=upstream)
        measure(command, config, token, 1)  # writes the bytecode
        return [measure(command, config, token, workers) for _ in range(count)]


def part(python: Path, count: int) -> Part:
    """Start *count* gateways on the proxy's core, for the whole comparison."""
    runs = _several(["taskset", "-c", str(PROXY_CORE), str(python)], count, 1)
    figures = {
        "first answer, public": [one.public_s for one in runs],
        "first answer, protected": [one.protected_s for one in runs],
        "CPU until then": [one.cpu_s for one in runs],
    }
    return Part(
        title="Start",
        how=f"{count} starts of one worker on one core, with compiled modules. Seconds"
        " from the making of the process.",
        tables=[
            Table(
                columns=("until", "s"),
                rows=[
                    (what, spread(values).text(2)) for what, values in figures.items()
                ],
            )
        ],
        targets=goals.judged("P16", figures["first answer, public"]),
        samples={"gateway": [{**one._asdict(), "processes": ()} for one in runs]},
    )


if __name__ == "__main__":
    sys.exit(main())
