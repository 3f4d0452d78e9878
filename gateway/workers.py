"""edge. Several processes that serve one address, and the one that looks after them.

The supervisor binds the sockets and forks the workers. It serves nothing itself, so it
can do what must not fail: restart, reload, drain, and pass sign-outs on.

Facts
- It forks when everything is imported: a worker shares that memory (with the SDK 16
  instead of 57 MB are its own) and is ready in a tenth of the time. So no event loop
  and no thread may live in the supervisor when it forks.
- All sockets stay open here, and every worker holds all of them. The queue of one is
  lost to nobody when its worker ends: another one accepts from it meanwhile.
- A worker accepts when it is told to, which is after it was told of all sign-outs.
- A worker ignores the signals that a terminal or a service manager sends to all
  processes of a group: the supervisor says what they mean. It drains when its channel
  ends, because then there is no supervisor any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import select
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any, NoReturn, TextIO

from gateway import control, sdk
from gateway.app import App, BadService
from gateway.control import Accept, Deny, Drain, Failed, Message, Ping, Ready
from gateway.sdk import RecipeError
from gateway.server import (
    LAST_REQUESTS_S,
    Entrance,
    bind,
    check_parser,
    has_nohup,
    hosting,
    settle_garbage,
    share,
    url_of,
)
from gateway.settings import ConfigError, Settings

_TICK_S = 1.0
"""How often a worker is asked whether it reads what it is told."""
_SILENT_TICKS = 15
"""After so many without an answer it is ended: it hangs, and doesn't know of sign-outs.
Counted, not measured: when the machine sleeps, nobody is late."""
_START_TICKS = 60
"""The same for one that starts: a `config_module` may take its time."""
_DRAIN_EXTRA_S = 10.0
"""Beyond `drain_timeout`, for cut requests and the log. Then a worker is ended."""
_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 30.0
"""How soon a worker that ended is replaced: doubled each time, up to this."""
_STEADY_S = 30.0
"""A worker that lived so long begins with the first delay again."""
_HANDOVER_S = 0.05
"""How long a worker that drains goes on to accept, so that nobody is left in a queue
whose other holders haven't closed it yet."""
_READ_BYTES = 64 * 1024
_MAX_UNREAD_BYTES = 4 * 1024 * 1024
"""What a worker keeps for a supervisor that doesn't read; then it drains."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


# --- how many -------------------------------------------------------------------


def usable_cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may keep busy, at least 1.

    Its affinity (`taskset`, cpusets) and the quota of its control group and of those
    around it, which containers are limited by; a part of a CPU counts as one.
    *root* is where `proc` and `sys` are mounted.

    Source: Linux, admin-guide/cgroup-v2 (cpu.max), cgroup-v1 (cpu.cfs_quota_us).
    """
    if hasattr(os, "sched_getaffinity"):
        most = len(os.sched_getaffinity(0))
    else:
        most = os.cpu_count() or 1
    return max(1, min(most, math.ceil(min(_quotas(root), default=most))))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the limits in CPUs that control groups set for this process."""
    groups = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError, ValueError):  # no such version, or no limit
        period, quota = (
            int((groups / "cpu" / f"cpu.cfs_{name}_us").read_text())
            for name in ("period", "quota")
        )
        if quota > 0 and period > 0:
            yield quota / period
    place = "."
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::/"):
                place = line.removeprefix("0::/")
    for group in (groups / place, *(groups / place).parents):
        with contextlib.suppress(OSError, ValueError):  # such as "max"
            quota, period = map(int, (group / "cpu.max").read_text().split())
            if quota > 0 and period > 0:
                yield quota / period
        if group == groups:
            break


# --- what is decided ------------------------------------------------------------


def shares(sockets: int, slots: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Return for each of *slots*, where workers are ready, its sockets' numbers.

    Everyone has the socket of its own slot. Those of the other slots are dealt out. A
    single socket is everyone's.
    """
    if sockets == 1:
        return dict.fromkeys(slots, (0,))
    dealt = {slot: [slot] for slot in slots}
    if slots:
        orphans = (number for number in range(sockets) if number not in dealt)
        for turn, number in enumerate(orphans):
            dealt[slots[turn % len(slots)]].append(number)
    return {slot: tuple(numbers) for slot, numbers in dealt.items()}


def delay_s(failures: int) -> float:
    """Return how long to wait after so many workers of a slot have ended in a row."""
    return min(_MAX_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(failures - 1, 32))


def how_it_ended(status: int) -> str:
    """Return in words what `waitpid` says of a process."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def has_terminal() -> bool:
    """Return whether the process has a terminal that still is one."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def is_read(stream: TextIO) -> bool:
    """Return whether a line can be written to *stream* without a wait.

    The supervisor has no thread that may wait instead, and mustn't itself.
    """
    try:
        _, ready, _ = select.select((), (stream,), (), 0)
    except (OSError, ValueError):  # no descriptor, or one that is no matter of waiting
        return True
    return bool(ready)


# --- the worker -----------------------------------------------------------------


class _Channel(asyncio.Protocol):
    """A worker's end of its channel."""

    def __init__(self, worker: _Worker) -> None:
        self._worker = worker
        self._decoder = control.Decoder()
        self._wire: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an isinstance: uvloop's transports have asyncio's methods, not its bases.
        self._wire = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        assert self._wire is not None
        try:
            for message in self._decoder.feed(data):
                self._worker.hear(message)
        except control.BadMessage:
            self._wire.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._worker.orphaned()

    def tell(self, message: Message) -> None:
        """Send *message*; a supervisor that reads nothing is as good as none."""
        assert self._wire is not None
        if not self._wire.is_closing():
            self._wire.write(control.encode(message))
        if self._wire.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            self._wire.abort()


class _Worker:
    """What a process that serves is told, and does."""

    def __init__(self, app: App, sockets: Sequence[socket.socket]) -> None:
        self._app = app
        self._sockets = sockets
        self._channel = _Channel(self)
        self._entrance = Entrance(app, linger_s=LAST_REQUESTS_S)
        self._servers: dict[int, asyncio.Server] = {}
        self._wanted: tuple[int, ...] = ()
        self._told = asyncio.Event()
        self._leaving = False
        self._hears_of_denials = False
        app.engine.on_denied = self._denied

    async def run(self, end: socket.socket) -> None:
        """Serve until the supervisor says otherwise at the other end of the channel."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._channel, sock=end)
        self._channel.tell(Ready())
        while not self._leaving:
            await self._told.wait()
            self._told.clear()
            await self._accept()
        for sock in self._sockets:
            sock.close()
        await asyncio.sleep(_HANDOVER_S)
        await self._entrance.close()

    async def _accept(self) -> None:
        """Accept where it is wanted, and nowhere else."""
        for number in self._servers.keys() - set(self._wanted):
            self._entrance.shut(self._servers.pop(number))
        for number in self._wanted:
            if number not in self._servers:
                sock = self._sockets[number].dup()
                self._servers[number] = await self._entrance.open(sock)

    def hear(self, message: Message) -> None:
        """Do what the supervisor says.

        Raises:
            BadMessage: a supervisor doesn't say that.
        """
        match message:
            case Deny(ends):
                self._hears_of_denials = True
                for handle, until in ends.items():
                    self._app.engine.deny(handle, until)
                self._hears_of_denials = False
            case Ping():
                self._channel.tell(message)
            case Accept(sockets) if all(
                n in range(len(self._sockets)) for n in sockets
            ):
                self._wanted = sockets
                self._told.set()
            case Drain():
                self._leave()
            case _:
                raise control.BadMessage("not for a worker")

    def orphaned(self) -> None:
        """Drain without a supervisor; from now on signals are this process's own."""
        if not self._leaving:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            self._leave()

    def _leave(self) -> None:
        self._leaving = True
        self._told.set()

    def _denied(self, handle: str, until: float) -> None:
        self._app.proxy.session_ended(handle)
        if not self._hears_of_denials:
            self._channel.tell(Deny({handle: until}))


def _name(slot: int) -> str:
    """Return what operators read of the worker of a slot."""
    return f"worker {slot + 1}"


async def _work(
    settings: Settings,
    end: socket.socket,
    slot: int,
    *,
    sockets: Sequence[socket.socket],
    log_format: str,
) -> int:
    """Be the worker of a slot; return the exit code."""
    async with contextlib.AsyncExitStack() as opened:
        try:
            app = await opened.enter_async_context(
                hosting(settings, log_format=log_format, who=f"{_name(slot)}: ")
            )
        except (BadService, RecipeError) as error:
            end.setblocking(True)
            end.sendall(control.encode(Failed(str(error))))
            return 1
        worker = _Worker(app, sockets)
        settle_garbage()
        await worker.run(end)
    return 0


# --- the supervisor -------------------------------------------------------------


class _State(Enum):
    STARTING = auto()
    READY = auto()
    LEAVING = auto()
    """It drains, or is of no more use; its slot is somebody else's."""
    MUTE = auto()
    """Its channel has ended and it hasn't, yet."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Child:
    """A worker as its supervisor sees it."""

    pid: int
    slot: int
    generation: _Generation
    channel: socket.socket
    decoder: control.Decoder = field(default_factory=control.Decoder)
    unsent: bytearray = field(default_factory=bytearray)
    since: float
    """When it was started, or told to drain, on the monotonic clock."""
    state: _State = _State.STARTING
    silent: int = 0
    """Ticks since it last said something."""
    sockets: tuple[int, ...] = ()
    """What it accepts on."""
    reason: str | None = None
    """Why it couldn't be started, or was ended."""
    is_discarded: bool = False
    """It was ended because nobody needs it."""

    def __str__(self) -> str:
        return f"{_name(self.slot)} (pid {self.pid})"

    @property
    def is_heard(self) -> bool:
        return self.channel.fileno() >= 0


@dataclass(slots=True, kw_only=True, eq=False)
class _Generation:
    """The workers of one reading of the file."""

    settings: Settings
    children: dict[int, _Child] = field(default_factory=dict)
    """By slot."""
    due: dict[int, float] = field(default_factory=dict)
    """When a slot gets a worker, on the monotonic clock."""
    failures: dict[int, int] = field(default_factory=dict)
    """How many workers of a slot have ended in a row."""
    is_proven: bool = False
    """A worker has been ready: the configuration can be served."""

    def ready(self) -> dict[int, _Child]:
        """Return the workers that can serve, by slot, in order."""
        return {
            slot: child
            for slot, child in sorted(self.children.items())
            if child.state is _State.READY
        }


class Supervisor:
    """Starts workers and replaces them, until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket],
        *,
        workers: int,
        work: Callable[[Settings, socket.socket, int], int],
        load: Callable[[], Settings],
        say: Callable[[str], None],
        on_ready: Callable[[], None],
    ) -> None:
        """*work* is what a worker does with its end of a channel and the number of its
        slot, in a process of its own; it returns the exit code. *load* reads the file
        again, in a thread, and raises `ConfigError` if it can't be served.
        """
        self._count = workers
        self._sockets = sockets
        self._work = work
        self._load = load
        self._say = say
        self._on_ready = on_ready
        self._serving = _Generation(settings=settings)
        self._coming: _Generation | None = None
        """What will serve when all of its workers are ready."""
        self._children: dict[int, _Child] = {}
        """All that haven't ended, by process id, whatever they do."""
        self._denied = control.DenyList()
        self._selector = selectors.DefaultSelector()
        self._signals: deque[int] = deque()
        self._wakes = socket.socketpair()
        self._next_tick = time.monotonic() + _TICK_S
        self._is_stopping = False
        self._exit_code = 0
        self._is_reload_asked = False
        self._loading: threading.Thread | None = None
        self._loaded: Settings | tuple[str, ...] = ()
        """What the thread read, or all that is wrong with it."""

    def run(self) -> int:
        """Look after workers until none is left; return the exit code."""
        has_had_terminal = has_terminal() and not has_nohup()
        with self._noting_signals():
            _share_memory()
            self._schedule(self._serving, range(1))
            while self._children or not self._is_stopping:
                self._start_due()
                for key, events in self._selector.select(self._wait_s()):
                    self._on_event(key.data, events)
                while self._signals:
                    number = self._signals.popleft()
                    is_lost = has_had_terminal and not has_terminal()
                    self._on_signal(number, is_terminal_lost=is_lost)
                self._reap()
                self._reload()
                self._tick()
        return self._exit_code

    # --- what comes in --------------------------------------------------------

    @contextlib.contextmanager
    def _noting_signals(self) -> Iterator[None]:
        """Note signals, and wake the selector, while the block runs."""
        reads, wakes = self._wakes
        reads.setblocking(False)
        wakes.setblocking(False)
        self._selector.register(reads, selectors.EVENT_READ)
        before = {
            number: signal.signal(number, lambda got, _: self._signals.append(got))
            for number in (*_SIGNALS, signal.SIGCHLD)
        }
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            reads.close()
            wakes.close()

    def _wait_s(self) -> float:
        """Return for how long nothing has to be done if nothing happens."""
        times = [self._next_tick]
        if not self._is_stopping and self._loading is None:
            times += self._serving.due.values()
        return max(0.0, min(times) - time.monotonic())

    def _on_signal(self, number: int, *, is_terminal_lost: bool) -> None:
        match number:
            case signal.SIGCHLD:
                pass  # it has woken us
            case signal.SIGHUP if not is_terminal_lost:
                self._is_reload_asked = True
            case signal.SIGTERM | signal.SIGINT if self._is_stopping:
                self._exit_code = 130
                for child in self._children.values():
                    self._discard(child)
            case _:
                self._stop()

    def _on_event(self, child: _Child | None, events: int) -> None:
        if child is None:
            with contextlib.suppress(BlockingIOError):
                while self._wakes[0].recv(_READ_BYTES):
                    pass
            return
        if events & selectors.EVENT_READ:
            self._hear(child)
        if events & selectors.EVENT_WRITE:
            self._flush(child)

    def _hear(self, child: _Child) -> bool:
        """Take some of what a worker has said; return whether there may be more.

        Not all of it, so that one that never stops keeps nobody else waiting.
        """
        if not child.is_heard:
            return False
        try:
            data = child.channel.recv(_READ_BYTES)
            messages = child.decoder.feed(data)
        except BlockingIOError:
            return False
        except ConnectionError:
            data, messages = b"", []
        except control.BadMessage as error:
            self._end(child, str(error))
            data, messages = b"", []
        child.silent = 0
        for message in messages:
            self._on_message(child, message)
        if not data:
            self._close(child)
        return bool(data)

    def _on_message(self, child: _Child, message: Message) -> None:
        match message:
            case Deny(ends):
                news = Deny(self._denied.add(ends, time.time()))
                for other in tuple(self._children.values()):
                    if other is not child and news.ends:
                        self._tell(other, news)
            case Ping():
                pass  # it isn't silent
            case Ready() if child.state is _State.STARTING:
                child.state = _State.READY
                self._on_child_ready(child.generation)
            case Ready() if child.state is _State.LEAVING:
                pass  # it was told so before it could read
            case Failed(reason):
                child.reason = reason
            case _:
                self._end(child, "it said what no worker says")

    # --- what goes out --------------------------------------------------------

    def _tell(self, child: _Child, message: Message) -> None:
        child.unsent += control.encode(message)
        self._flush(child)

    def _flush(self, child: _Child) -> None:
        """Send what the channel takes; the rest goes when it takes more."""
        if not child.is_heard:
            child.unsent.clear()
            return
        try:
            sent = child.channel.send(child.unsent)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            sent = len(child.unsent)  # that it has ended shows when it is read from
        del child.unsent[:sent]
        events = selectors.EVENT_READ
        if child.unsent:
            events |= selectors.EVENT_WRITE
        self._selector.modify(child.channel, events, child)

    def _close(self, child: _Child) -> None:
        """Give up a channel that has ended, as the process has, or is about to."""
        self._selector.unregister(child.channel)
        child.channel.close()
        if child.state is not _State.LEAVING:
            child.state = _State.MUTE
            self._deal()

    # --- starting -------------------------------------------------------------

    def _schedule(self, generation: _Generation, slots: range) -> None:
        generation.due.update(dict.fromkeys(slots, time.monotonic()))

    def _start_due(self) -> None:
        """Start the workers whose time has come; none beside a thread."""
        if self._is_stopping or self._loading is not None:
            return
        for generation in (self._serving, self._coming):
            if generation is not None:
                now = time.monotonic()
                for slot in [slot for slot, at in generation.due.items() if at <= now]:
                    del generation.due[slot]
                    self._fork(generation, slot)

    def _fork(self, generation: _Generation, slot: int) -> None:
        """Start a worker."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()  # or the child would write it, too
        # Until the child has settled whose they are: it begins with our handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_worker(generation.settings, slot, ours, theirs)
        except OSError as error:
            ours.close()
            ending = f"can't be started: {error.strerror}"
            self._lost(generation, slot, f"{_name(slot)} {ending}")
            return
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        child = _Child(
            pid=pid,
            slot=slot,
            generation=generation,
            channel=ours,
            since=time.monotonic(),
        )
        self._children[pid] = generation.children[slot] = child
        self._selector.register(ours, selectors.EVENT_READ, child)
        for denied in self._denied.messages(time.time()):
            self._tell(child, denied)

    def _be_worker(
        self,
        settings: Settings,
        slot: int,
        ours: socket.socket,
        theirs: socket.socket,
    ) -> NoReturn:
        """Leave all that is the supervisor's, and work. Only in a forked process."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            # With copies of these nobody would see that the supervisor has ended.
            for other in (ours, *(child.channel for child in self._children.values())):
                other.close()
            for wake in self._wakes:
                wake.close()
            self._selector.close()
            code = self._work(settings, theirs, slot)
        except BaseException:  # noqa: BLE001 - nothing may go on as the supervisor
            with contextlib.suppress(OSError):
                traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(code)

    def _on_child_ready(self, generation: _Generation) -> None:
        if not generation.is_proven:
            # Only now the others: what is wrong is told once.
            generation.is_proven = True
            self._schedule(generation, range(1, self._count))
            if generation is self._serving:
                self._on_ready()
        if generation is self._coming and len(generation.ready()) == self._count:
            self._change_to(generation)
        self._deal()

    def _deal(self) -> None:
        """Have every socket accepted from, by its own worker or another that is ready.

        While nobody is, clients wait in the sockets' queues.
        """
        ready = self._serving.ready()
        for slot, numbers in shares(len(self._sockets), tuple(ready)).items():
            child = ready[slot]
            if child.sockets != numbers:
                child.sockets = numbers
                self._tell(child, Accept(numbers))

    # --- ending ---------------------------------------------------------------

    def _reap(self) -> None:
        """Find out which processes have ended, and have them replaced."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is None:
                continue  # an orphan, which came to us because we are process 1
            while self._hear(child):
                pass  # its last words
            if child.is_heard:
                self._close(child)
            self._on_end(child, status)

    def _on_end(self, child: _Child, status: int) -> None:
        generation, slot = child.generation, child.slot
        if generation.children.get(slot) is child:
            del generation.children[slot]
        ending = f"{child} {how_it_ended(status)}"
        if child.reason is not None:
            ending = f"{ending}: {child.reason}"
        if child.state is _State.LEAVING:
            if status != 0 and not child.is_discarded:
                self._say(ending)
        elif not generation.is_proven and os.WIFEXITED(status):
            self._refused(generation, child.reason or ending)
        else:
            if time.monotonic() - child.since >= _STEADY_S:
                generation.failures.pop(slot, None)
            self._lost(generation, slot, ending)

    def _refused(self, generation: _Generation, why: str) -> None:
        """Give up a configuration with which the first worker ended by itself."""
        if generation is self._coming:
            self._give_up(generation, why)
        else:
            self._say(why)
            self._exit_code = 1
            self._stop()

    def _lost(self, generation: _Generation, slot: int, ending: str) -> None:
        """Have a worker replaced that wasn't to end."""
        if generation is self._coming:
            self._give_up(generation, ending)
            return
        failures = generation.failures.get(slot, 0) + 1
        generation.failures[slot] = failures
        wait_s = delay_s(failures)
        generation.due[slot] = time.monotonic() + wait_s
        self._say(f"{ending}; another one starts in {wait_s:.1f} s")
        self._deal()

    def _end(self, child: _Child, reason: str) -> None:
        """End a process that can't be trusted any more."""
        child.reason = child.reason or reason
        if child.pid in self._children:  # else the id may be another one's by now
            os.kill(child.pid, signal.SIGKILL)

    def _discard(self, child: _Child) -> None:
        """End a process that nobody needs any more."""
        child.state = _State.LEAVING
        child.is_discarded = True
        os.kill(child.pid, signal.SIGKILL)

    def _leave(self, generation: _Generation) -> None:
        """Let the workers of *generation* finish what they have begun."""
        for child in generation.children.values():
            if child.state is _State.READY:
                child.state = _State.LEAVING
                child.since = time.monotonic()
                self._tell(child, Drain())
            elif child.state is not _State.LEAVING:
                self._discard(child)

    def _stop(self) -> None:
        """Let no one in any more, and end when all that was begun is finished."""
        if self._is_stopping:
            return
        self._is_stopping = True
        for sock in self._sockets:
            sock.close()
        for generation in (self._serving, self._coming):
            if generation is not None:
                self._leave(generation)

    def _tick(self) -> None:
        """Ask every worker whether it is there; end those that aren't."""
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + _TICK_S
        for child in tuple(self._children.values()):
            child.silent += 1
            is_starting = child.state is _State.STARTING
            drain_s = child.generation.settings.config.gateway.drain_timeout
            if child.silent > (_START_TICKS if is_starting else _SILENT_TICKS):
                self._end(child, "it didn't answer")
            elif (
                child.state is _State.LEAVING
                and now - child.since > drain_s + _DRAIN_EXTRA_S
            ):
                self._end(child, "it didn't finish in time")
            else:
                self._tell(child, Ping())

    # --- reloading ------------------------------------------------------------

    def _reload(self) -> None:
        """Go on with a reload that was asked for, one at a time."""
        if self._is_stopping:
            return
        if self._loading is not None:
            if self._loading.is_alive():
                return
            self._loading.join()
            self._loading = None
            match self._loaded:
                case Settings() as settings:
                    _share_memory()
                    self._coming = _Generation(settings=settings)
                    self._schedule(self._coming, range(1))
                case problems:
                    for problem in problems:
                        self._say(problem)
                    self._say("not reloaded: what was served before goes on")
        elif self._is_reload_asked and self._coming is None and self._serving.is_proven:
            self._is_reload_asked = False
            # Beside the sign-outs, which mustn't wait: 10,000 routes take 3 s.
            self._loading = threading.Thread(target=self._read, daemon=True)
            self._loading.start()

    def _read(self) -> None:
        """Read the file again, in a thread."""
        try:
            settings = self._load()
            sdk.preload(settings.config.supertokens)
            self._loaded = settings
        except ConfigError as error:
            self._loaded = tuple(map(str, error.problems))
        except Exception as error:  # noqa: BLE001 - the old one must go on
            self._loaded = (f"the file can't be read: {type(error).__name__}",)
        finally:
            with contextlib.suppress(OSError):  # nobody waits any more
                self._wakes[1].send(b"\0")

    def _change_to(self, generation: _Generation) -> None:
        """Let *generation* serve, and those before it leave."""
        before = self._serving
        self._serving, self._coming = generation, None
        self._deal()
        self._leave(before)
        self._say(f"reloaded {generation.settings.path}")
        listen = generation.settings.config.gateway.listen
        if listen != before.settings.config.gateway.listen:
            self._say("gateway.listen has changed: that needs a restart")

    def _give_up(self, generation: _Generation, why: str) -> None:
        """End a reload that failed."""
        self._coming = None
        for child in generation.children.values():
            self._discard(child)
        self._say(why)
        self._say("not reloaded: what was served before goes on")


def _share_memory() -> None:
    """Have workers share what there is: the collector won't write to it."""
    gc.enable()
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def supervise(
    settings: Settings,
    *,
    workers: int,
    log_format: str,
    listen: str | None,
    run: Callable[[Coroutine[Any, Any, int]], int],
    load: Callable[[], Settings],
    say: Callable[[str], None],
    on_ready: Callable[[str], None],
) -> int:
    """Serve with several processes until a signal says otherwise; return the exit code.

    *run* runs a coroutine on an event loop of its own. *load* reads the file again.
    *say* writes a line to standard error; what nobody would read isn't said.

    Raises:
        ListenError: the address can't be listened on.
    """
    check_parser()
    first = bind(listen or settings.config.gateway.listen)
    url = url_of(first)
    sockets = share(first, workers)
    sdk.preload(settings.config.supertokens)
    return Supervisor(
        settings,
        sockets,
        workers=workers,
        work=lambda given, end, slot: run(
            _work(given, end, slot, sockets=sockets, log_format=log_format)
        ),
        load=load,
        say=lambda text: say(text) if is_read(sys.stderr) else None,
        on_ready=lambda: on_ready(url),
    ).run()
