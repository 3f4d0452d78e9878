"""Processes pinned to a core, and the CPU time that the system charged them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")

PROXY_CORE = 0
"""Where whoever is measured runs."""
LOAD_CORE = 1
"""Where the load generator and the upstream run."""


class DidNotStart(Exception):
    """A process ended, or didn't listen in time; the text is the end of its output."""


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    core: int,
    port: int,
    log: Path,
    environ: dict[str, str] | None = None,
) -> Iterator[int]:
    """Run *command* on *core*; yield its process id once *port* takes connections.

    Raises:
        DidNotStart: it ended or didn't listen within 30 seconds.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environ or {})},
        )
    try:
        deadline = time.monotonic() + 30
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise DidNotStart(log.read_text(errors="replace")[-2000:])
            time.sleep(0.05)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except OSError:
        return False
    return True


def cpu_s(pid: int) -> float:
    """Return user and system time of the process and all its children, in seconds."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = stat.read_text()
            fields = text[text.rindex(")") + 2 :].split()
            number = int(stat.parent.name)
            parents[number] = int(fields[1])
            used[number] = (int(fields[11]) + int(fields[12])) * _TICK_S
    family = {pid}
    grown = True
    while grown:
        more = {child for child, parent in parents.items() if parent in family}
        grown = not more <= family
        family |= more
    return sum(used.get(member, 0.0) for member in family)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of one process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
