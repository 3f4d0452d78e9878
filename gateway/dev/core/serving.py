"""edge. The embedded core's HTTP server, on loopback by default.

`serve` and `serve_in_thread` are for tests, `run` is for a command.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from aiohttp import web

from gateway.dev.core.core import Core
from gateway.dev.core.settings import CoreSettings

T = TypeVar("T")

log: Final = logging.getLogger(__name__)

NOTICE: Final = (
    "This is the embedded development core, for development and tests only. "
    "Production uses the real SuperTokens core: set its address as connection_uri."
)
"""A warning for the developer. `run` logs it, and commands print it."""

_SHUTDOWN_S: Final = 1.0
"""How long calls in flight may take to end when the server stops."""


class UnsafeBind(Exception):
    """The address isn't loopback: anyone who reaches it could sign in as any user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCore:
    """A core and the address on which it listens."""

    core: Core
    host: str
    port: int

    @property
    def url(self) -> str:
        """The connection URI, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadedCore(RunningCore):
    """A core that listens in a separate thread."""

    loop: asyncio.AbstractEventLoop

    def do(self, coroutine: Coroutine[object, object, T]) -> T:
        """Run a coroutine of the core, such as `rotate_keys`, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()


def check_bind(host: str, *, unsafe_bind: bool) -> None:
    """Refuse an address that isn't loopback.

    Raises:
        UnsafeBind: it isn't, and `unsafe_bind` is off.
    """
    if not unsafe_bind and not _is_loopback(host):
        raise UnsafeBind(
            f"the development core listens on loopback only, not on {host!r}: it "
            "trusts its callers and has no TLS (use 127.0.0.1, or --unsafe-bind)"
        )


@asynccontextmanager
async def serve(
    core: CoreSettings | Core | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    unsafe_bind: bool = False,
) -> AsyncIterator[RunningCore]:
    """Yield a core that is served while the block runs.

    For port 0 the system chooses one. A core made from settings is closed at the end.
    A `Core` that the caller passes stays open, and can be served again.

    Raises:
        UnsafeBind: the address isn't loopback.
        StoreError: the database can't be used.
        OSError: the socket can't listen on the address and port.
    """
    check_bind(host, unsafe_bind=unsafe_bind)
    async with AsyncExitStack() as stack:
        if not isinstance(core, Core):
            core = Core(core or CoreSettings())
            stack.callback(core.close)
        runner = web.AppRunner(
            core.app(),
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_S,
        )
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        address = runner.addresses[0]
        yield RunningCore(core=core, host=address[0], port=address[1])


@contextmanager
def serve_in_thread(
    core: CoreSettings | Core | None = None, *, port: int = 0
) -> Iterator[ThreadedCore]:
    """Yield a core on loopback, served from another thread while the block runs.

    The SDK fetches the JWKS with a blocking call. In the core's own event loop, that
    call would block the core that has to answer it.

    Raises:
        StoreError, OSError: as `serve`.
    """
    started: Future[tuple[ThreadedCore, asyncio.Event]] = Future()

    async def main() -> None:
        try:
            async with serve(core, port=port) as running:
                stop = asyncio.Event()
                threaded = ThreadedCore(
                    core=running.core,
                    host=running.host,
                    port=running.port,
                    loop=asyncio.get_running_loop(),
                )
                started.set_result((threaded, stop))
                await stop.wait()
        except Exception as exc:
            if started.done():
                raise
            started.set_exception(exc)

    thread = threading.Thread(target=asyncio.run, args=(main(),), name="core")
    thread.start()
    try:
        threaded, stop = started.result()
        try:
            yield threaded
        finally:
            threaded.loop.call_soon_threadsafe(stop.set)
    finally:
        thread.join()


async def run(
    host: str,
    port: int,
    settings: CoreSettings,
    *,
    unsafe_bind: bool = False,
    on_start: Callable[[RunningCore], None] | None = None,
) -> None:
    """Serve a core until cancelled; call `on_start` when it listens.

    Raises:
        UnsafeBind, StoreError, OSError: as `serve`.
    """
    async with serve(
        settings, host=host, port=port, unsafe_bind=unsafe_bind
    ) as running:
        log.warning("%s Listening on %s", NOTICE, running.url)
        if on_start is not None:
            on_start(running)
        await asyncio.Event().wait()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # A name may resolve to any address, and "" means every interface.
        return False
