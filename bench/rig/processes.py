"""Processes pinned to cores, and their CPU time and memory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
WORKER = "gateway worker"
"""The name of a process of the gateway that serves clients."""

CORES = sorted(os.sched_getaffinity(0))
"""The CPU cores that the harness may use. A child of the harness has only one."""
PROXY_CORE = CORES[0]
"""The core of the rival that is measured."""
LOAD_CORE = CORES[min(1, len(CORES) - 1)]
"""The core of the load generator and the upstream."""


class DidNotStart(Exception):
    """A process ended, or didn't listen in time. The text is its last output."""


class PortInUse(Exception):
    """Another process listens on a port that the benchmark needs."""


class Cpu(NamedTuple):
    """Seconds of CPU time: user and system."""

    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        return self.user_s + self.system_s

    def since(self, before: Cpu) -> Cpu:
        """Return the CPU time since *before*."""
        return Cpu(self.user_s - before.user_s, self.system_s - before.system_s)


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    core: int | Sequence[int],
    port: int,
    log: Path,
    environ: dict[str, str] | None = None,
) -> Iterator[int]:
    """Run *command* on *core*; yield its process id once *port* takes connections.

    Raises:
        PortInUse: another process listens on *port*; nothing was started.
        DidNotStart: it ended or didn't listen within 30 seconds.
    """
    if listens(port):
        raise PortInUse(f"port {port} is in use: stop the program that listens there")
    cores = [core] if isinstance(core, int) else core
    process: subprocess.Popen[bytes] | None = None
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["taskset", "-c", ",".join(map(str, cores)), *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environ or {})},
            )
        deadline = time.monotonic() + 30
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise DidNotStart(log.read_text(errors="replace")[-2000:])
            time.sleep(0.05)
        yield process.pid
    finally:
        if process is not None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its children, which are a separate session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def listens(port: int) -> bool:
    """Return whether a process accepts connections on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except OSError:
        return False
    return True


def cpu(pids: Sequence[int]) -> Cpu:
    """Return the CPU time so far of the processes and their live descendants."""
    user = system = 0
    for member in family(pids):
        with contextlib.suppress(OSError):
            fields = _stat(Path(f"/proc/{member}/stat"))
            user += int(fields[11])
            system += int(fields[12])
    return Cpu(user * _TICK_S, system * _TICK_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """CPU seconds of all CPUs together since the machine was started."""

    busy_s: float
    stolen_s: float
    """CPU time that the host gave to other virtual machines (steal)."""
    ours_s: float
    """CPU time of this process and its descendants, including those that have ended."""
    at_s: float

    def meanwhile(self, before: Machine) -> str:
        """Return a line on other load, which makes the figures less reliable."""
        stolen = (self.stolen_s - before.stolen_s) / self._whole(before)
        return (
            f"{self.others(before):.0%} of the machine's CPU time went to others"
            f" meanwhile, {stolen:.0%} to other virtual machines"
        )

    def others(self, before: Machine) -> float:
        """Return the share of all CPU time that other processes here have used."""
        ours = self.ours_s - before.ours_s
        return max(0.0, self.busy_s - before.busy_s - ours) / self._whole(before)

    def _whole(self, before: Machine) -> float:
        return (self.at_s - before.at_s) * (os.cpu_count() or 1)


def machine() -> Machine:
    """Return the machine's CPU time so far. Source: proc(5), /proc/stat."""
    first = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _, _, irq, softirq, stolen = map(int, first.split()[1:9])
    return Machine(
        busy_s=(user + nice + system + irq + softirq) * _TICK_S,
        stolen_s=stolen * _TICK_S,
        ours_s=_whole_s(family([os.getpid()])),
        at_s=time.monotonic(),
    )


def _whole_s(pids: Iterable[int]) -> float:
    """Return the CPU time of processes and of their children that have ended.

    Source: proc(5), /proc/pid/stat, utime to cstime.
    """
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, _stat(Path(f"/proc/{pid}/stat"))[11:15]))
    return ticks * _TICK_S


def family(pids: Sequence[int]) -> set[int]:
    """Return the processes and their live descendants."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(_stat(stat)[1])
    members = set(pids)
    while (
        more := {child for child, parent in parents.items() if parent in members}
        - members
    ):
        members |= more
    return members


def worker_pids(pid: int) -> set[int]:
    """Return the workers of a `gateway serve`."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in children if _name(int(child)) == WORKER}


def _name(pid: int) -> str:
    """Return the name of a process; empty if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _stat(path: Path) -> list[str]:
    """Return the fields after the name, which may contain any character."""
    text = path.read_text()
    return text[text.rindex(")") + 2 :].split()


def resident_bytes(pid: int) -> int:
    """Return the resident memory of one process."""
    return _status_bytes(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """Return the peak of resident memory since `forget_peak`, or the start."""
    return _status_bytes(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Reset the peak. Source: proc(5), /proc/pid/clear_refs, 5."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class Share(NamedTuple):
    """The memory of a process that shares memory with others, in bytes."""

    resident: int
    private: int
    """Memory that no other process shares."""
    proportional: int
    """Private memory plus a share of the shared memory (Pss), for sums of processes."""


def share_of_memory(pid: int) -> Share:
    """Return the memory of a process. Source: proc(5), /proc/pid/smaps_rollup."""
    values = {
        name: int(rest.split()[0]) * 1024
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        for name, _, rest in (line.partition(":"),)
    }
    private = values["Private_Clean"] + values["Private_Dirty"]
    return Share(values["Rss"], private, values["Pss"])


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


# --- sockets and descriptors ------------------------------------------------


class Socket(NamedTuple):
    """A TCP socket that a process holds. Source: proc(5), /proc/net/tcp."""

    local_port: int
    remote_port: int
    state: str
    inode: str


_STATES = {"01": "ESTABLISHED", "08": "CLOSE-WAIT", "0A": "LISTEN"}
_HELD_BY_NONE = "06"
"""TIME-WAIT: the kernel's, no process has a descriptor of it."""


def open_sockets() -> Iterator[Socket]:
    """Yield the TCP sockets that processes hold."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *rest = line.split()
        here, there = (int(each.partition(":")[2], 16) for each in (local, remote))
        found = Socket(here, there, _STATES.get(state, state), rest[5])
        if state != _HELD_BY_NONE:
            yield found


def sockets(is_counted: Callable[[Socket], bool]) -> Counter[str]:
    """Return how many sockets are in which state."""
    return Counter(each.state for each in open_sockets() if is_counted(each))


def sockets_of(pid: int) -> Counter[str]:
    """Return how many TCP sockets a process holds, by state."""
    held = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held.add(str(each.readlink()))
    return sockets(lambda each: f"socket:[{each.inode}]" in held)


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(tuple(Path(f"/proc/{pid}/fd").iterdir()))
