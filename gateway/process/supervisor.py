"""edge. The process that forks the workers: it performs the plan's actions, and reports
to it what happens."""

from __future__ import annotations

import contextlib
import gc
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
from dataclasses import dataclass
from typing import Any, NoReturn, TextIO

from gateway import supertokens
from gateway.process.channel import Channel, Hangup
from gateway.process.hub import be_hub
from gateway.process.messages import Message
from gateway.process.plan import (
    Action,
    Announce,
    Closed,
    CloseSockets,
    Event,
    Exit,
    Exited,
    FileLoaded,
    FileRefused,
    Fork,
    ForkHub,
    Heard,
    Kill,
    Load,
    LoadedFile,
    NotStarted,
    Now,
    Plan,
    Say,
    Send,
    Signal,
    Signalled,
    SupervisorPace,
    Tick,
    Unread,
    name_of,
)
from gateway.process.signals import has_nohup
from gateway.process.sockets import bind, share, url_of
from gateway.process.worker import SIGNALS, work
from gateway.settings import ConfigError, Settings

_MAX_UNREAD_BYTES = 4 * 1024 * 1024
"""What waits for a child at most before the plan is asked what to do about it."""


def how_it_ended(code: int) -> str:
    """Return in words what `os.waitstatus_to_exitcode` says of a process."""
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Process:
    """A child that hasn't exited."""

    child: int
    """Its number in the plan."""
    pid: int
    channel: Channel


class Supervisor:
    """Performs what the plan decides, until it is over."""

    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket],
        *,
        workers: int,
        work: Callable[[Settings, socket.socket, int], int],
        hub: Callable[[socket.socket], int],
        load: Callable[[], Settings],
        say: Callable[[str], None],
        on_ready: Callable[[], None],
        pace: SupervisorPace | None = None,
    ) -> None:
        """*work* is what a worker does with its end of a channel and the number of its
        slot, in a process of its own; it returns the exit code. *hub* is the same for
        the hub. *load* reads the file
        again, in a thread, and raises `ConfigError` if it can't be served.
        """
        self._sockets = sockets
        self._work = work
        self._hub = hub
        self._load = load
        self._say = say
        self._on_ready = on_ready
        self._settings = {1: settings}
        """By generation: those whose workers may still be forked."""
        self._plan = Plan(
            _config(1, settings), workers=workers, sockets=len(sockets), pace=pace
        )
        self._events: deque[Event] = deque()
        self._processes: dict[int, _Process] = {}
        """By the child's number in the plan."""
        self._selector = selectors.DefaultSelector()
        self._signals: deque[int] = deque()
        self._wakes = socket.socketpair()
        self._loading: threading.Thread | None = None
        self._loaded: Settings | tuple[str, ...] = ()
        """What the thread has read, or all that is wrong with it."""
        self._exit_code: int | None = None

    def run(self) -> int:
        """Look after the workers until none is left; return the exit code."""
        has_had_terminal = has_terminal() and not has_nohup()
        with self._noting_signals():
            gc.enable()
            gc.freeze()
            while self._exit_code is None:
                self._feed(Tick())
                wait_s = max(0.0, self._plan.due - time.monotonic())
                if self._exit_code is None:
                    for key, events in self._selector.select(wait_s):
                        self._on_ready_channel(key.data, events)
                while self._signals:
                    is_lost = has_had_terminal and not has_terminal()
                    self._on_signal(self._signals.popleft(), is_terminal_lost=is_lost)
                self._reap()
                self._take_loaded()
        return self._exit_code

    # --- what comes in --------------------------------------------------------

    def _feed(self, event: Event) -> None:
        """Tell the plan what has happened, and do what follows."""
        self._events.append(event)
        if len(self._events) > 1:
            return  # it came while actions are performed: in turn
        while self._events:
            now = Now(time.monotonic(), time.time())
            for action in self._plan.on(self._events[0], now):
                self._perform(action)
            self._events.popleft()

    @contextlib.contextmanager
    def _noting_signals(self) -> Iterator[None]:
        """Note signals, and wake the selector, while the block runs."""
        reads, wakes = self._wakes
        reads.setblocking(False)
        wakes.setblocking(False)
        self._selector.register(reads, selectors.EVENT_READ)
        before = {
            number: signal.signal(number, lambda got, _: self._signals.append(got))
            for number in (*SIGNALS, signal.SIGCHLD)
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

    def _on_signal(self, number: int, *, is_terminal_lost: bool) -> None:
        match number:
            case signal.SIGCHLD:
                pass  # it has woken us
            case signal.SIGHUP if is_terminal_lost:
                self._feed(Signalled(Signal.HANG_UP))
            case signal.SIGHUP:
                self._feed(Signalled(Signal.RELOAD))
            case _:
                self._feed(Signalled(Signal.STOP))

    def _on_ready_channel(self, process: _Process | None, events: int) -> None:
        if process is None:
            with contextlib.suppress(BlockingIOError):
                while self._wakes[0].recv(4096):
                    pass
            return
        if events & selectors.EVENT_READ:
            self._receive(process)
        if events & selectors.EVENT_WRITE and process.channel.is_open:
            process.channel.flush()
            self._watch(process)

    def _receive(self, process: _Process) -> bool:
        """Take some of what a child has sent; return whether there may be more."""
        if not process.channel.is_open:
            return False
        try:
            messages = process.channel.receive()
        except Hangup as hangup:
            # First what follows: a child that is killed must not complain of its end.
            self._feed(Closed(process.child, str(hangup) or None))
            self._close(process)
            return False
        for message in messages or ():
            self._feed(Heard(process.child, message))
        return messages is not None

    def _reap(self) -> None:
        """Find out which processes have exited."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for process in tuple(self._processes.values()):
                if process.pid == pid:
                    self._on_exit(process, os.waitstatus_to_exitcode(status))
            # Else an orphan, which came to us because we are process 1.

    def _on_exit(self, process: _Process, code: int) -> None:
        while self._receive(process):
            pass  # its last words
        if process.channel.is_open:
            self._close(process)
        del self._processes[process.child]
        self._feed(Exited(process.child, process.pid, code, how_it_ended(code)))

    def _take_loaded(self) -> None:
        """Tell the plan when the file was read."""
        if self._loading is None or self._loading.is_alive():
            return
        self._loading.join()
        self._loading = None
        match self._loaded:
            case Settings() as settings:
                generation = max(self._settings) + 1
                serving = self._plan.generation
                self._settings = {
                    serving: self._settings[serving],
                    generation: settings,
                }
                _share_memory()
                self._feed(FileLoaded(_config(generation, settings)))
            case problems:
                self._feed(FileRefused(problems))
        self._loaded = ()

    # --- what goes out --------------------------------------------------------

    def _perform(self, action: Action) -> None:
        match action:
            case Fork(child, slot, generation):
                settings = self._settings[generation]
                self._fork(child, lambda end: self._work(settings, end, slot))
            case ForkHub(child):
                self._fork(child, self._be_hub)
            case Send(child, message):
                self._send(child, message)
            case Kill(child):
                if process := self._processes.get(child):
                    os.kill(process.pid, signal.SIGKILL)
            case Load():
                # Beside the sign-outs, which mustn't wait: 10,000 routes take 3 s.
                self._loading = threading.Thread(target=self._read, daemon=True)
                self._loading.start()
            case Say(text):
                self._say(text)
            case Announce():
                self._on_ready()
            case CloseSockets():
                for sock in self._sockets:
                    sock.close()
            case Exit(code):
                self._exit_code = code

    def _send(self, child: int, message: Message) -> None:
        process = self._processes.get(child)
        if process is not None and process.channel.is_open:
            process.channel.send(message)
            self._watch(process)
            if process.channel.unsent_bytes > _MAX_UNREAD_BYTES:
                self._feed(Unread(child))

    def _watch(self, process: _Process) -> None:
        """Wait for what a child sends, and until it takes what waits for it."""
        events = selectors.EVENT_READ
        if process.channel.unsent_bytes:
            events |= selectors.EVENT_WRITE
        self._selector.modify(process.channel, events, process)

    def _close(self, process: _Process) -> None:
        self._selector.unregister(process.channel)
        process.channel.close()

    def _fork(self, child: int, run: Callable[[socket.socket], int]) -> None:
        """Start a child that does what *run* does with its end of a channel."""
        ours, theirs = socket.socketpair()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()  # or the child would write it, too
        # Until the child has settled whose they are: it begins with our handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._be_child(run, theirs)
        except OSError as error:
            ours.close()
            self._feed(NotStarted(child, error.strerror or "fork failed"))
            return
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        process = _Process(child=child, pid=pid, channel=Channel(ours))
        self._processes[child] = process
        self._selector.register(process.channel, selectors.EVENT_READ, process)

    def _be_child(
        self, run: Callable[[socket.socket], int], theirs: socket.socket
    ) -> NoReturn:
        """Leave all that is the supervisor's, and run. Only in a forked process."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            # With copies of these nobody would see that the supervisor has ended.
            for process in self._processes.values():
                process.channel.close()
            for wake in self._wakes:
                wake.close()
            self._selector.close()
            code = run(theirs)
        except BaseException:  # noqa: BLE001 - nothing may go on as the supervisor
            with contextlib.suppress(OSError):
                traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(code)

    def _be_hub(self, end: socket.socket) -> int:
        """Be the hub, which has no clients. Only in a forked process."""
        for sock in self._sockets:
            sock.close()  # or they would queue at a socket that nobody accepts from
        return self._hub(end)

    def _read(self) -> None:
        """Read the file again, in a thread."""
        try:
            settings = self._load()
            supertokens.preload(settings.config.supertokens)
            self._loaded = settings
        except ConfigError as error:
            self._loaded = tuple(map(str, error.problems))
        except Exception as error:  # noqa: BLE001 - the old one must go on
            self._loaded = (f"the file can't be read: {type(error).__name__}",)
        finally:
            with contextlib.suppress(OSError):  # nobody waits any more
                self._wakes[1].send(b"\0")


def _config(generation: int, settings: Settings) -> LoadedFile:
    """Return what the plan needs to know of *settings*."""
    gateway = settings.config.gateway
    return LoadedFile(
        generation=generation,
        path=str(settings.path),
        listen=gateway.listen,
        drain_s=gateway.drain_timeout,
    )


def _share_memory() -> None:
    """Have workers share what there is: the collector won't write to it."""
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
    pace: SupervisorPace | None = None,
) -> int:
    """Serve until a signal says otherwise; return the exit code.

    *run* runs a coroutine on an event loop of its own. *load* reads the file again.
    *say* writes a line to standard error; what nobody would read isn't said.

    Raises:
        ListenError: the address can't be listened on.
        LibraryChanged: a library isn't as the gateway needs it.
    """
    first = bind(listen or settings.config.gateway.listen)
    url = url_of(first)
    sockets = share(first, workers)
    supertokens.preload(settings.config.supertokens)

    def be_worker(settings: Settings, end: socket.socket, slot: int) -> int:
        who = f"{name_of(slot)}: " if workers > 1 else ""
        return run(work(settings, end, sockets=sockets, log_format=log_format, who=who))

    return Supervisor(
        settings,
        sockets,
        workers=workers,
        work=be_worker,
        hub=be_hub,
        load=load,
        say=lambda text: say(text) if is_read(sys.stderr) else None,
        on_ready=lambda: on_ready(url),
        pace=pace,
    ).run()
