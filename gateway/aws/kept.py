"""edge. The gateway of a function: made once, and run while an event is served.

It is made while AWS initializes the function, and so are the core's keys fetched. One
event loop is kept. Between two events AWS may freeze the process for hours, and a
monotonic clock need not count that time. So what may be too old is compared with the
wall clock when an event comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final, Protocol, TypeVar

from gateway import settings, supertokens
from gateway.app import App, open_app
from gateway.aws.events import Event
from gateway.config import LogConfig
from gateway.errors import GatewayError
from gateway.observe import Observer, Origin, Record, Selection, fitting_line
from gateway.observe.access_log import common_fields
from gateway.settings import Settings

MARGIN_S: Final = 0.5
"""Kept of an invocation's time for the reply: AWS ends the process when it is over."""
_REFRESH_WAIT_S: Final = 0.5
"""How long a reply waits for a fetch of keys that it doesn't need itself. One that
takes longer goes on in the next invocation."""
_RETRY_S: Final = 10.0
"""Between two fetches that are due, if the first one failed."""
_CORE_IDLE_S: Final = 15.0
"""Idle connections to the core are closed after this time, as aiohttp does it."""
_T = TypeVar("_T")


class Context(Protocol):
    """What AWS says about an invocation."""

    def get_remaining_time_in_millis(self) -> int: ...


class WallClock:
    """Seconds since the epoch that never go back, and that count frozen time."""

    def __init__(self, source: Callable[[], float] = time.time) -> None:
        self._source = source
        self._last = 0.0

    def __call__(self) -> float:
        self._last = max(self._last, self._source())
        return self._last


class EventLog:
    """The access log of a function, on standard output, which AWS collects.

    A line is written at once: the process may be frozen after each request.
    """

    def __init__(self, form: str, config: LogConfig) -> None:
        self._form = form
        self._selection = Selection(config)
        self._more = common_fields(Origin()) if form == "json" else ""

    def observe(self, record: Record) -> None:
        """Write the record's line, if it has one."""
        if self._form != "none" and self._selection.share(record):
            line = fitting_line(self._form, record, time.time(), self._more)
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


class KeptGateway:
    """The gateway of one configuration, from `open` until `close`."""

    def __init__(
        self,
        loaded: Settings,
        observer: Observer,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """*clock* is in seconds since the epoch."""
        config = loaded.config
        # The loop is late whenever the process was frozen, which is no overload.
        gateway = config.gateway.model_copy(update={"overload": None})
        self._config = config.model_copy(update={"gateway": gateway})
        self._table = loaded.table
        self.base_path = config.aws.base_path or ""
        self.observer = observer
        self._clock = WallClock(clock)
        self._keys = config.supertokens.keys
        self._loop = asyncio.new_event_loop()
        self._opened = contextlib.AsyncExitStack()
        self._app: App | None = None
        self._ended_at = self._fetch_at = 0.0
        self._is_over = False
        """The time of the present invocation is over."""

    @property
    def app(self) -> App:
        """The gateway.

        Raises:
            RuntimeError: it isn't open.
        """
        if self._app is None:
            raise RuntimeError("the gateway isn't open")
        return self._app

    def open(self) -> None:
        """Make the gateway, and fetch the core's keys; without a core, go on.

        Raises: as `app.open_app`.
        """
        self._loop.run_until_complete(self._open())

    async def _open(self) -> None:
        self._app = await self._opened.enter_async_context(
            open_app(
                self._config,
                self._table,
                observer=self.observer,
                key_clock=self._clock,
            )
        )
        await self._app.keys.refresh()
        self._ended_at = self._fetch_at = self._clock()

    def close(self) -> None:
        """Close the gateway and the loop."""
        self._app = None
        self._loop.run_until_complete(self._opened.aclose())
        self._loop.close()

    def restored(self) -> None:
        """Make the gateway anew: the process is a copy, like others (SnapStart).

        Copies would have the same request ids and random numbers, old keys, and
        connections that aren't theirs.
        """
        random.seed()
        self._loop.run_until_complete(self._opened.aclose())
        self.open()

    def run(self, serving: Coroutine[Any, Any, _T], context: Context) -> _T:
        """Return what *serving* returns. It is cancelled before AWS ends it."""
        left_s = context.get_remaining_time_in_millis() / 1000 - MARGIN_S
        task = self._loop.create_task(serving)
        self._is_over = False

        def end() -> None:
            self._is_over = True
            task.cancel()

        timer = self._loop.call_later(max(0.0, left_s), end)
        try:
            return self._loop.run_until_complete(task)
        finally:
            timer.cancel()
            self._ended_at = self._clock()

    @contextlib.asynccontextmanager
    async def thawed(self) -> AsyncIterator[App]:
        """Yield the gateway, with what has become too old replaced or being replaced.

        Connections that were idle for longer than they are kept are closed. If a fetch
        of the keys is due, it runs beside the block; a session whose key isn't there
        waits for a fetch by itself.
        """
        # What has happened to idle connections while the process was frozen is handled
        # by the loop before a request uses one.
        await asyncio.sleep(0)
        app, idle_s = self.app, self._clock() - self._ended_at
        for pool in app.upstreams.pools:
            if idle_s >= pool.keepalive_s:
                pool.drop_idle()
        if idle_s >= _CORE_IDLE_S:
            await app.sdk.drop_connections()
        fetch = self._begin_fetch()
        yield app
        if fetch is not None and not self._is_over:
            with contextlib.suppress(asyncio.CancelledError):  # the block has ended
                await asyncio.wait((fetch,), timeout=_REFRESH_WAIT_S)

    def _begin_fetch(self) -> asyncio.Task[None] | None:
        """Begin to fetch the core's keys if that is due."""
        now, age_s = self._clock(), self.app.keys.state().age_s
        is_due = age_s is None or age_s >= self._keys.refresh_interval
        if not is_due or now - self._fetch_at < _RETRY_S:
            return None
        self._fetch_at = now
        return self._loop.create_task(self.app.keys.refresh(), name="keys-due")

    def note(self, event: Event, error: GatewayError) -> str:
        """Record a request that isn't served because of *error*; return its id."""
        record = Record.begin(time.perf_counter(), "-", _method(event))
        record.request_id = self.app.make_id()
        record.note_failure(error)
        self.observer.observe(record)
        return record.request_id


def _method(event: Event) -> str:
    context = event.get("requestContext") or {}
    about = context.get("http") or {}
    return str(event.get("httpMethod") or about.get("method") or "-")[:24]


def load(environ: Mapping[str, str]) -> Settings:
    """Return the settings in the files that `GATEWAY_CONFIG` names.

    Raises:
        ConfigError: a file can't be used; it has every problem with its place.
    """
    names = environ.get("GATEWAY_CONFIG", "routes.yaml").split(os.pathsep)
    return settings.load(
        names,
        environ,
        also=lambda config: supertokens.check(config.supertokens.recipes),
    )


def opened(environ: Mapping[str, str]) -> KeptGateway:
    """Return the gateway that *environ* configures, open.

    Raises:
        ConfigError: as `load`.
        Others: as `app.open_app`.
    """
    loaded = load(environ)
    form = environ.get("GATEWAY_LOG_FORMAT") or loaded.config.log.format
    kept = KeptGateway(loaded, EventLog(form, loaded.config.log))
    kept.open()
    with contextlib.suppress(ImportError):  # only AWS' runtime has it
        hooks: Any = importlib.import_module("snapshot_restore_py")
        hooks.register_after_restore(kept.restored)
    return kept
