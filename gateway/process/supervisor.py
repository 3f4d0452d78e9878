"""edge. The process that forks the workers. It reports events to the plan and performs
the plan's actions."""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from gateway import supertokens
from gateway.assertions import BadAssertionKeys
from gateway.config.diff import changes, parts
from gateway.events import RuntimeEvent, Severity
from gateway.observe import Origin, Say, has_colours
from gateway.process.activation import given_sockets
from gateway.process.admin_listen import description_of, listener_of
from gateway.process.admin_messages import WatchFiles
from gateway.process.channel import Channel, ChildProcess, Hangup
from gateway.process.holding import Holdings, Overrides, hold
from gateway.process.hub import be_hub
from gateway.process.inheriting import inherited, run_next
from gateway.process.listening import socket_count
from gateway.process.loaded import loaded_file, sdk_digest
from gateway.process.messages import Message
from gateway.process.pidfile import PidFileError
from gateway.process.plan import Plan
from gateway.process.plan_events import (
    Action,
    Announce,
    Closed,
    CloseSockets,
    EndGateway,
    Event,
    Exit,
    Exited,
    FileLoaded,
    FileRefused,
    Fork,
    ForkGateway,
    ForkHub,
    HandOver,
    Inherited,
    Kill,
    Load,
    LogLine,
    NoteReload,
    NotStarted,
    Now,
    Received,
    Send,
    Signal,
    Signalled,
    TakeOver,
    Tick,
    Unread,
    WriteFrom,
)
from gateway.process.plan_pace import SupervisorPace
from gateway.process.plan_places import name_of
from gateway.process.plan_upgrade import refused
from gateway.process.reload_state import Fingerprints, ReloadNotes
from gateway.process.served import ServedSettings, served
from gateway.process.service_manager import ServiceManager, service_manager
from gateway.process.signals import has_nohup
from gateway.process.surroundings import (
    HUB_NAME,
    WORKER_NAME,
    has_terminal,
    how_it_ended,
    is_read,
    set_name,
    share_memory,
)
from gateway.process.worker import SIGNALS, run_worker
from gateway.settings import ConfigError, Settings
from gateway.tls import BadTls

if TYPE_CHECKING:
    from gateway.supertokens.delivery import EmailSender

_MAX_UNREAD_BYTES = 4 * 1024 * 1024
"""The unsent bytes of a child beyond which the plan gets `Unread`."""


class Supervisor:
    """Performs the actions of a plan until the plan exits."""

    def __init__(
        self,
        settings: Settings,
        holdings: Holdings,
        *,
        workers: int,
        work: Callable[[Settings, socket.socket, int, int], int],
        hub: Callable[[socket.socket], int],
        load: Callable[[], Settings],
        say: Say,
        write_from: Callable[[Severity], None] = lambda _least: None,
        on_ready: Callable[[], None],
        manager: ServiceManager,
        describe: Callable[[Settings], Mapping[str, str]] = lambda _settings: {},
        watch: Callable[[], WatchFiles | None] = lambda: None,
        pace: SupervisorPace | None = None,
    ) -> None:
        """*work* runs a worker in a forked process, with the settings, its end of the
        channel, and the numbers of its slot and its generation; it returns the exit
        code. *hub* runs the hub, with its end of the channel. *load* reloads the file,
        in a thread, and raises `ConfigError` if it can't be served. *say* writes a line
        for operators, of the severity that *write_from* was given last, or higher.
        *on_ready* is called when the first worker is ready, and
        *manager* is told of it. *describe* returns what the hub shows of a file; it is
        called in the thread that reads it. *watch* returns which files were read last.
        """
        self._describe = describe
        self._watch_files = watch
        self._description = describe(settings)
        self._holdings = holdings
        self._work = work
        self._hub = hub
        self._load = load
        self._say = say
        self._write_from = write_from
        self._on_ready = on_ready
        self._manager = manager
        self._settings = {1: settings}
        """By generation, for those whose workers may still be forked."""
        self._notes = ReloadNotes(holdings.pidfile)
        self._fingerprints: Fingerprints = self._notes.fingerprints(settings.config)
        """Of the file that was loaded last."""
        self._serving = self._fingerprints
        self._plan = Plan(
            replace(loaded_file(1, settings, self._description), watch=watch()),
            workers=workers,
            sockets=socket_count(holdings.listens),
            pace=pace,
            is_upgrade=holdings.before is not None,
        )
        self._has_nohup = False
        self._events: deque[Event] = deque()
        self._processes: dict[int, ChildProcess] = {}
        """By the child's number in the plan."""
        self._selector = selectors.DefaultSelector()
        self._signals: deque[int] = deque()
        self._wakes = socket.socketpair()
        self._loading: threading.Thread | None = None
        self._loaded: Settings | tuple[str, ...] = ()
        """The settings that the thread has loaded, or the problems of the file."""
        self._exit_code: int | None = None

    def run(self) -> int:
        """Supervise until no child is left; return the exit code."""
        self._has_nohup = has_nohup()
        has_had_terminal = has_terminal() and not self._has_nohup
        with self._watching_signals():
            self._notes.start(self._fingerprints)
            gc.enable()
            gc.freeze()
            self._inherit()
            while self._exit_code is None:
                self._report(Tick())
                self._manager.tick(now := time.monotonic())
                wait_s = max(0.0, min(self._plan.due, self._manager.due) - now)
                if self._exit_code is None:
                    for key, events in self._selector.select(wait_s):
                        self._on_channel_ready(key.data, events)
                while self._signals:
                    is_lost = has_had_terminal and not has_terminal()
                    self._on_signal(self._signals.popleft(), is_terminal_lost=is_lost)
                self._reap()
                self._collect_loaded()
        return self._exit_code

    # --- events ---------------------------------------------------------------

    def _report(self, event: Event) -> None:
        """Report *event* to the plan, and perform the actions that follow."""
        self._events.append(event)
        if len(self._events) > 1:
            return  # reported by an action: the loop below gets to it in order
        while self._events:
            now = Now(time.monotonic(), time.time())
            for action in self._plan.on(self._events[0], now):
                self._perform(action)
            self._events.popleft()
        self._manager.update(self._plan.phase)

    def _inherit(self) -> None:
        """Report what the gateway before knows; from now on it is child 1."""
        before = self._holdings.before
        if before is None:
            return
        handed = before.handed()
        process = ChildProcess(child=1, pid=None, channel=before.channel)
        self._processes[1] = process
        self._selector.register(process.channel, selectors.EVENT_READ, process)
        is_same = before.sdk == sdk_digest(self._settings[1])
        keys = handed.keys if is_same else None
        self._report(Inherited(handed.denied, keys, handed.keys is not None))
        for message in handed.later:
            self._report(Received(1, message))

    @contextlib.contextmanager
    def _watching_signals(self) -> Iterator[None]:
        """Queue signals, and wake the selector, while the block runs."""
        reads, wakes = self._wakes
        reads.setblocking(False)
        wakes.setblocking(False)
        self._selector.register(reads, selectors.EVENT_READ)
        before = {
            number: signal.signal(
                number, lambda signum, _: self._signals.append(signum)
            )
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
                pass  # it has woken the selector; `_reap` follows
            case signal.SIGUSR2 if os.getpid() == 1:
                self._perform(refused("process 1 can't be replaced in its container"))
            case signal.SIGUSR2:
                self._report(Signalled(Signal.UPGRADE))
            case signal.SIGHUP if is_terminal_lost:
                self._report(Signalled(Signal.HANG_UP))
            case signal.SIGHUP:
                self._report(Signalled(Signal.RELOAD))
            case _:
                self._report(Signalled(Signal.STOP))

    def _on_channel_ready(self, process: ChildProcess | None, events: int) -> None:
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

    def _receive(self, process: ChildProcess) -> bool:
        """Report some of a child's messages; return whether there may be more."""
        if not process.channel.is_open:
            return False
        try:
            messages = process.channel.receive()
        except Hangup as hangup:
            # Report before closing: a child that is to be killed must not see its
            # channel end first, and log that.
            self._report(Closed(process.child, str(hangup) or None))
            self._close(process)
            return False
        for message in messages or ():
            self._report(Received(process.child, message))
        return messages is not None

    def _reap(self) -> None:
        """Report the processes that have exited."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for process in tuple(self._processes.values()):
                if process.pid == pid:
                    self._on_exit(process, pid, os.waitstatus_to_exitcode(status))
            # Any other is an orphan, inherited because this is process 1.

    def _on_exit(self, process: ChildProcess, pid: int, code: int) -> None:
        while self._receive(process):
            pass  # messages sent before the exit
        if process.channel.is_open:
            self._close(process)
        del self._processes[process.child]
        self._report(Exited(process.child, pid, code, how_it_ended(code)))

    def _collect_loaded(self) -> None:
        """Report the result of a reload when its thread has ended."""
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
                share_memory()
                config = loaded_file(generation, settings, self._description)
                before = parts(self._settings[serving].config)
                found = changes(before, parts(settings.config))
                watch = self._watch_files()
                self._report(FileLoaded(replace(config, changes=found, watch=watch)))
            case problems:
                self._report(FileRefused(problems, self._watch_files()))
        self._loaded = ()

    # --- actions --------------------------------------------------------------

    def _perform(self, action: Action) -> None:
        match action:
            case Fork(child, slot, generation):
                settings = self._settings[generation]
                self._fork(
                    child,
                    WORKER_NAME,
                    lambda end: self._work(settings, end, slot, generation),
                )
            case ForkHub(child):
                self._fork(child, HUB_NAME, self._be_hub)
            case Send(child, message):
                self._send(child, message)
            case ForkGateway(child):
                self._fork(child, "", self._be_gateway)
            case HandOver(child):
                self._holdings.hand_over()
                if (pid := self._pid_of(child)) is not None:
                    self._manager.hand_over(pid)
            case TakeOver():
                self._take_over()
            case Kill(child):
                self._signal(child, signal.SIGKILL)
            case EndGateway(child):
                self._signal(child, signal.SIGTERM)
            case Load():
                self._manager.reloading()
                self._notes.begin()
                # In a thread, since sign-outs mustn't wait: 10,000 routes take 3 s.
                self._loading = threading.Thread(target=self._reload, daemon=True)
                self._loading.start()
            case NoteReload(problems, found):
                if not problems:
                    self._serving = self._fingerprints
                generation = self._plan.generation
                self._notes.end(generation, problems, found, self._serving)
            case LogLine(event, message, facts):
                self._say(event, message, generation=self._plan.generation, **facts)
            case WriteFrom(least):
                self._write_from(least)
            case Announce():
                self._on_ready()
            case CloseSockets():
                self._holdings.close_listeners()
            case Exit(code):
                self._exit_code = code

    def _pid_of(self, child: int) -> int | None:
        process = self._processes.get(child)
        return None if process is None else process.pid

    def _signal(self, child: int, number: signal.Signals) -> None:
        if (pid := self._pid_of(child)) is not None:
            os.kill(pid, number)

    def _take_over(self) -> None:
        try:
            self._holdings.take_over()
        except PidFileError as error:
            self._say(RuntimeEvent.OTHER, str(error))
        self._notes = ReloadNotes(self._holdings.pidfile)
        self._fingerprints = self._notes.fingerprints(self._settings[1].config)
        self._serving = self._fingerprints
        self._notes.start(self._fingerprints)

    def _send(self, child: int, message: Message) -> None:
        process = self._processes.get(child)
        if process is not None and process.channel.is_open:
            process.channel.send(message)
            self._watch(process)
            if process.channel.unsent_bytes > _MAX_UNREAD_BYTES:
                self._report(Unread(child))

    def _watch(self, process: ChildProcess) -> None:
        """Select for a child's messages and, while bytes are unsent, for writing."""
        events = selectors.EVENT_READ
        if process.channel.unsent_bytes:
            events |= selectors.EVENT_WRITE
        self._selector.modify(process.channel, events, process)

    def _close(self, process: ChildProcess) -> None:
        self._selector.unregister(process.channel)
        process.channel.close()

    def _fork(self, child: int, name: str, run: Callable[[socket.socket], int]) -> None:
        """Fork a child that calls *run* with its end of a new channel.

        It has *name* in the list of processes; its parent's if that is empty.
        """
        ours, theirs = socket.socketpair()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()  # or the child would write the buffer again
        # Block signals until the child has replaced the supervisor's handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._be_child(name, run, theirs)
        except OSError as error:
            ours.close()
            self._report(NotStarted(child, error.strerror or "fork failed"))
            return
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        process = ChildProcess(child=child, pid=pid, channel=Channel(ours))
        self._processes[child] = process
        self._selector.register(process.channel, selectors.EVENT_READ, process)

    def _be_child(
        self, name: str, run: Callable[[socket.socket], int], theirs: socket.socket
    ) -> NoReturn:
        """Drop the supervisor's handlers and descriptors, call *run*, and exit.

        Only in a forked process.
        """
        code = 1
        try:
            if name:
                set_name(name)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            # While a copy is open, no child would notice that the supervisor has ended.
            for process in self._processes.values():
                process.channel.close()
            for wake in self._wakes:
                wake.close()
            self._selector.close()
            self._holdings.close_pidfile()
            self._manager.close()
            code = run(theirs)
        except BaseException:  # noqa: BLE001 - a child must not return into the supervisor
            with contextlib.suppress(OSError):
                traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(code)

    def _be_hub(self, end: socket.socket) -> int:
        """Run the hub; return the exit code. Only in a forked process."""
        # The hub never accepts: copies would only hold connections.
        self._holdings.close_listeners()
        return self._hub(end)

    def _be_gateway(self, end: socket.socket) -> NoReturn:
        """Run the program again, with what it inherits. Only in a forked process."""
        run_next(
            self._holdings.for_next(),
            end,
            sdk=sdk_digest(self._settings[self._plan.generation]),
            environ=self._manager.environ(),
            keeps_hangup=self._has_nohup,
        )

    def _reload(self) -> None:
        """Reload the file, in a thread; keep the result for `_collect_loaded`."""
        try:
            settings = self._load()
            supertokens.preload(settings.config.supertokens)
            self._description = self._describe(settings)
            self._fingerprints = self._notes.fingerprints(settings.config)
            self._loaded = settings
        except ConfigError as error:
            self._loaded = tuple(map(str, error.problems))
        except (BadAssertionKeys, BadTls) as error:
            self._loaded = (str(error),)
        except Exception as error:  # noqa: BLE001 - the supervisor must survive it
            self._loaded = (f"the file can't be read: {type(error).__name__}",)
        finally:
            with contextlib.suppress(OSError):  # the supervisor has ended
                self._wakes[1].send(b"\0")


def supervise(
    settings: Settings,
    *,
    workers: int,
    log_format: str,
    overrides: Overrides,
    run: Callable[[Coroutine[Any, Any, int]], int],
    load: Callable[[], Settings],
    say: Say,
    write_from: Callable[[Severity], None],
    on_ready: Callable[[str, str | None], None],
    watch: Callable[[], WatchFiles | None] = lambda: None,
    email: EmailSender | None = None,
    pace: SupervisorPace | None = None,
) -> int:
    """Serve until a signal stops the gateway; return the exit code.

    *run* runs a coroutine on a new event loop. *load* reloads the file. *say* writes a
    line to standard error; a line is dropped if it would block. *write_from* sets the
    least severity of these lines. *on_ready* gets the
    URL, and that of the probes, when the first worker is ready. *watch* returns which
    files were read last, if they are to be watched. *email* sends all mail of the
    workers in place of `supertokens.email_delivery`.

    Raises:
        ListenError: an address can't be listened on.
        PidFileError: a running gateway has the pidfile, or it can't be written.
        BadTls: the certificates of an address can't be used.
        BadAssertionKeys: a key of `gateway.assertion` can't be used.
        LibraryChanged: a library isn't as the gateway needs it.
        NotHandedOver: the gateway before an upgrade hasn't left what this one needs.
    """
    given = given_sockets(os.environ)
    holdings = hold(settings.config.gateway, overrides, workers, inherited(), given)
    operators = listener_of(
        overrides.admin_of(settings.config.gateway.admin), holdings.admin
    )
    manager = service_manager(os.environ)

    def serve(settings: Settings) -> ServedSettings:
        is_overridden = overrides.listen is not None
        return served(settings, holdings.listens, is_overridden=is_overridden)

    def be_worker(
        settings: Settings, end: socket.socket, slot: int, generation: int
    ) -> int:
        assert isinstance(settings, ServedSettings), "`load` returns no others"
        for store in settings.stores:
            store.is_silent = slot > 0
        holdings.close_probes()  # only the hub accepts from it
        origin = Origin(
            form=log_format,
            worker=slot + 1,
            generation=generation,
            who=f"{name_of(slot)}: " if workers > 1 else "",
            has_colours=has_colours(),
        )
        return run(
            run_worker(
                settings,
                end,
                listens=settings.listens,
                stores=settings.stores,
                assertion_keys=settings.assertion_keys,
                log_format=log_format,
                origin=origin,
                email=email,
                is_metered=holdings.probes is not None or operators is not None,
                workers=workers,
            )
        )

    def say_if_read(*args: Any, **facts: Any) -> None:
        if is_read(sys.stderr):
            say(*args, **facts)

    try:
        supertokens.preload(settings.config.supertokens)
        return Supervisor(
            serve(settings),
            holdings,
            workers=workers,
            work=be_worker,
            hub=lambda end: be_hub(
                end, holdings.probes, operators, log_format=log_format
            ),
            load=lambda: serve(load()),
            watch=watch,
            say=say_if_read,
            write_from=write_from,
            on_ready=lambda: on_ready(holdings.url, holdings.probes_url),
            describe=(lambda _settings: {}) if operators is None else description_of,
            manager=manager,
            pace=pace,
        ).run()
    finally:
        manager.close()
        holdings.close_all()
