"""The process that forks the workers, replaces them, and passes on what they say."""

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
from typing import Any, NoReturn, TextIO

from gateway import control, sdk
from gateway.control import Accept, Deny, Drain, Failed, Message, Ping, Ready
from gateway.server import (
    bind,
    has_nohup,
    share,
    url_of,
)
from gateway.settings import ConfigError, Settings
from gateway.workers.children import (
    Child,
    Generation,
    State,
    delay_s,
    how_it_ended,
    name_of,
    shares,
)
from gateway.workers.worker import SIGNALS, work

_TICK_S = 1.0
"""How often a worker is asked whether it reads what it is told."""
_SILENT_TICKS = 15
"""After so many without an answer it is ended: it hangs, and doesn't know of sign-outs.
Counted, not measured: when the machine sleeps, nobody is late."""
_START_TICKS = 60
"""The same for one that starts: a `config_module` may take its time."""
_DRAIN_EXTRA_S = 10.0
"""Beyond `drain_timeout`, for cut requests and the log. Then a worker is ended."""
_STEADY_S = 30.0
"""A worker that lived so long begins with the first delay again."""
_READ_BYTES = 64 * 1024


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
        self._serving = Generation(settings=settings)
        self._coming: Generation | None = None
        """What will serve when all of its workers are ready."""
        self._children: dict[int, Child] = {}
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

    def _on_event(self, child: Child | None, events: int) -> None:
        if child is None:
            with contextlib.suppress(BlockingIOError):
                while self._wakes[0].recv(_READ_BYTES):
                    pass
            return
        if events & selectors.EVENT_READ:
            self._hear(child)
        if events & selectors.EVENT_WRITE:
            self._flush(child)

    def _hear(self, child: Child) -> bool:
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

    def _on_message(self, child: Child, message: Message) -> None:
        match message:
            case Deny(ends):
                news = Deny(self._denied.add(ends, time.time()))
                for other in tuple(self._children.values()):
                    if other is not child and news.ends:
                        self._tell(other, news)
            case Ping():
                pass  # it isn't silent
            case Ready() if child.state is State.STARTING:
                child.state = State.READY
                self._on_child_ready(child.generation)
            case Ready() if child.state is State.LEAVING:
                pass  # it was told so before it could read
            case Failed(reason):
                child.reason = reason
            case _:
                self._end(child, "it said what no worker says")

    # --- what goes out --------------------------------------------------------

    def _tell(self, child: Child, message: Message) -> None:
        child.unsent += control.encode(message)
        self._flush(child)

    def _flush(self, child: Child) -> None:
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

    def _close(self, child: Child) -> None:
        """Give up a channel that has ended, as the process has, or is about to."""
        self._selector.unregister(child.channel)
        child.channel.close()
        if child.state is not State.LEAVING:
            child.state = State.MUTE
            self._deal()

    # --- starting -------------------------------------------------------------

    def _schedule(self, generation: Generation, slots: range) -> None:
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

    def _fork(self, generation: Generation, slot: int) -> None:
        """Start a worker."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()  # or the child would write it, too
        # Until the child has settled whose they are: it begins with our handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_worker(generation.settings, slot, ours, theirs)
        except OSError as error:
            ours.close()
            ending = f"can't be started: {error.strerror}"
            self._lost(generation, slot, f"{name_of(slot)} {ending}")
            return
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        child = Child(
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
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
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

    def _on_child_ready(self, generation: Generation) -> None:
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

    def _on_end(self, child: Child, status: int) -> None:
        generation, slot = child.generation, child.slot
        if generation.children.get(slot) is child:
            del generation.children[slot]
        ending = f"{child} {how_it_ended(status)}"
        if child.reason is not None:
            ending = f"{ending}: {child.reason}"
        if child.state is State.LEAVING:
            if status != 0 and not child.is_discarded:
                self._say(ending)
        elif not generation.is_proven and os.WIFEXITED(status):
            self._refused(generation, child.reason or ending)
        else:
            if time.monotonic() - child.since >= _STEADY_S:
                generation.failures.pop(slot, None)
            self._lost(generation, slot, ending)

    def _refused(self, generation: Generation, why: str) -> None:
        """Give up a configuration with which the first worker ended by itself."""
        if generation is self._coming:
            self._give_up(generation, why)
        else:
            self._say(why)
            self._exit_code = 1
            self._stop()

    def _lost(self, generation: Generation, slot: int, ending: str) -> None:
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

    def _end(self, child: Child, reason: str) -> None:
        """End a process that can't be trusted any more."""
        child.reason = child.reason or reason
        if child.pid in self._children:  # else the id may be another one's by now
            os.kill(child.pid, signal.SIGKILL)

    def _discard(self, child: Child) -> None:
        """End a process that nobody needs any more."""
        child.state = State.LEAVING
        child.is_discarded = True
        os.kill(child.pid, signal.SIGKILL)

    def _leave(self, generation: Generation) -> None:
        """Let the workers of *generation* finish what they have begun."""
        for child in generation.children.values():
            if child.state is State.READY:
                child.state = State.LEAVING
                child.since = time.monotonic()
                self._tell(child, Drain())
            elif child.state is not State.LEAVING:
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
            is_starting = child.state is State.STARTING
            drain_s = child.generation.settings.config.gateway.drain_timeout
            if child.silent > (_START_TICKS if is_starting else _SILENT_TICKS):
                self._end(child, "it didn't answer")
            elif (
                child.state is State.LEAVING
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
                    self._coming = Generation(settings=settings)
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

    def _change_to(self, generation: Generation) -> None:
        """Let *generation* serve, and those before it leave."""
        before = self._serving
        self._serving, self._coming = generation, None
        self._deal()
        self._leave(before)
        self._say(f"reloaded {generation.settings.path}")
        listen = generation.settings.config.gateway.listen
        if listen != before.settings.config.gateway.listen:
            self._say("gateway.listen has changed: that needs a restart")

    def _give_up(self, generation: Generation, why: str) -> None:
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
    first = bind(listen or settings.config.gateway.listen)
    url = url_of(first)
    sockets = share(first, workers)
    sdk.preload(settings.config.supertokens)
    return Supervisor(
        settings,
        sockets,
        workers=workers,
        work=lambda given, end, slot: run(
            work(given, end, slot, sockets=sockets, log_format=log_format)
        ),
        load=load,
        say=lambda text: say(text) if is_read(sys.stderr) else None,
        on_ready=lambda: on_ready(url),
    ).run()
