"""edge. From a target to a connected transport: names, addresses, TLS, one deadline.

Facts
    - A look-up runs in the loop's thread pool and can't be cancelled. So all requests
      for a name share one look-up at a time: an unresponsive resolver blocks one
      thread per name, not the whole thread pool.
    - If the first address drops all packets, uvloop's `create_connection` doesn't try
      the second one in time. Here the remaining time is divided evenly between the
      remaining addresses.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

from gateway.config import TlsConfig
from gateway.errors import ConnectFailed, ConnectTimeout, OutOfDescriptors
from gateway.events import RuntimeEvent, about
from gateway.upstream.address import UpstreamTarget

DNS_TTL_S: Final = 30.0
"""How long results are cached. The system's resolver has no TTL; Caddy uses 60 s."""

Lookup = Callable[[str, int], Awaitable[list[Any]]]
"""`getaddrinfo`, as `(host, port) -> [(family, type, proto, name, sockaddr), …]`."""

_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE})
_QUIET_S = 10.0
_quiet_until = float("-inf")
_log = logging.getLogger("gateway.upstream")


async def system_lookup(host: str, port: int) -> list[Any]:
    """Return the result of the system's resolver, without blocking the loop.

    Raises:
        OSError: the name can't be resolved (`socket.gaierror`).
    """
    loop = asyncio.get_running_loop()
    return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class Resolver:
    """Addresses of names, cached for *ttl_s*; one look-up at a time per name."""

    def __init__(self, *, ttl_s: float = DNS_TTL_S, lookup: Lookup | None = None):
        self._ttl_s = ttl_s
        self._lookup = lookup or system_lookup
        self._cache: dict[tuple[str, int], tuple[float, list[str]]] = {}
        self._lookups: dict[tuple[str, int], asyncio.Task[list[str]]] = {}

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of *host*, each once, in the resolver's order.

        Raises:
            OSError: the name can't be resolved (`socket.gaierror`), or `close` was
                called.
        """
        cached = self._cache.get((host, port))
        if cached is not None and asyncio.get_running_loop().time() < cached[0]:
            return cached[1]
        return await self.look_up(host, port)

    async def look_up(self, host: str, port: int) -> list[str]:
        """Return the same as `addresses`, of a look-up that ends now.

        Raises:
            OSError: as `addresses`.
        """
        key = (host, port)
        task = self._lookups.get(key) or self._start_lookup(key)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task.cancelled() and current is not None and not current.cancelling():
                raise ConnectionAbortedError("the look-up was cancelled") from None
            raise

    def has_moved(self, host: str, port: int, address: str) -> bool:
        """Return whether cached addresses of *host* exist, without *address*.

        An expired entry is refreshed in the background, and the result is False until
        the new one is cached. Never waits.
        """
        key = (host, port)
        cached = self._cache.get(key)
        if cached is None:
            return False
        if asyncio.get_running_loop().time() >= cached[0]:
            if key not in self._lookups:
                _ = self._start_lookup(key)  # `_lookups` holds the task
            return False
        return address not in cached[1]

    def forget(self, host: str, port: int) -> None:
        """Remove *host* from the cache: none of its addresses could be reached."""
        self._cache.pop((host, port), None)

    async def close(self) -> None:
        """Cancel all look-ups and clear the cache; their waiters get an OSError."""
        self._cache.clear()
        running = list(self._lookups.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def _start_lookup(self, key: tuple[str, int]) -> asyncio.Task[list[str]]:
        task = asyncio.create_task(self._look_up(key))
        self._lookups[key] = task
        task.add_done_callback(lambda done: self._finished(key, done))
        return task

    async def _look_up(self, key: tuple[str, int]) -> list[str]:
        entries = await self._lookup(*key)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        expires = asyncio.get_running_loop().time() + self._ttl_s
        self._cache[key] = (expires, addresses)
        return addresses

    def _finished(self, key: tuple[str, int], task: asyncio.Task[list[str]]) -> None:
        del self._lookups[key]
        # Retrieve the exception even if every waiter was cancelled: asyncio reports
        # those that are never retrieved.
        if not task.cancelled() and task.exception() is not None:
            self._cache.pop(key, None)


def tls_context(tls: TlsConfig) -> ssl.SSLContext:
    """Return the TLS context for a service. It reads files: call it at load only.

    Raises:
        ValueError: `ca_file` can't be read or isn't a PEM bundle.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except OSError as exc:  # ssl.SSLError is one
        raise ValueError(f"{tls.ca_file}: no readable PEM bundle: {exc}") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _report_no_files(now: float) -> None:
    """Log that descriptors are used up, at most once in `_QUIET_S`."""
    global _quiet_until  # noqa: PLW0603 - descriptors belong to the process, too
    if now >= _quiet_until:
        _quiet_until = now + _QUIET_S
        _log.error(
            "no file descriptor is left for connections to services: raise the limit"
            " (ulimit -n)",
            extra=about(RuntimeEvent.OUT_OF_DESCRIPTORS),
        )


class Dialer:
    """Makes connections to one target."""

    def __init__(
        self,
        target: UpstreamTarget,
        resolver: Resolver,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """*context* is that of the target's TLS settings; None: it is made.

        Raises:
            ValueError: the target's `ca_file` can't be read.
        """
        self._target = target
        self._resolver = resolver
        self.is_named = target.scheme != "unix" and not target.is_address
        """The target is a host name, whose addresses may change."""
        self._context = context
        if target.scheme == "https" and context is None:
            self._context = tls_context(target.tls)

    def at(self, target: UpstreamTarget) -> Dialer:
        """Return the dialer of *target*: this one's, at one of its addresses."""
        return Dialer(target, self._resolver, self._context)

    async def dial(
        self, factory: Callable[[], asyncio.Protocol], deadline: float
    ) -> asyncio.Protocol:
        """Return a connected protocol made by *factory*, before *deadline* (loop time).

        Raises:
            ConnectTimeout: the deadline passed before the connection was made.
            ConnectFailed: refused, unreachable, unknown name, or TLS failed.
            OutOfDescriptors: this process has no file descriptor left.
        """
        try:
            async with asyncio.timeout_at(deadline):
                return await self._dial(factory, deadline)
        except TimeoutError as exc:
            raise ConnectTimeout(f"{self._target}: not connected in time") from exc
        except ssl.SSLCertVerificationError as exc:
            why = f"certificate refused: {exc.verify_message}"
            raise ConnectFailed(f"{self._target}: {why}") from exc
        except OSError as exc:
            if exc.errno in _NO_FILES:
                _report_no_files(asyncio.get_running_loop().time())
                raise OutOfDescriptors("no file descriptor left") from exc
            why = exc.strerror or type(exc).__name__
            raise ConnectFailed(f"{self._target}: {why}") from exc

    def leads_away(self, address: str) -> bool:
        """Return whether the target's name no longer resolves to *address*.

        Uses cached look-ups only (see `Resolver.has_moved`).
        """
        if not self.is_named:
            return False
        target = self._target
        return self._resolver.has_moved(target.host, target.port, address)

    async def _dial(
        self, factory: Callable[[], asyncio.Protocol], deadline: float
    ) -> asyncio.Protocol:
        target, loop = self._target, asyncio.get_running_loop()
        if target.scheme == "unix":
            _, protocol = await loop.create_unix_connection(factory, target.path)
            return protocol
        if target.is_address:
            return await self._connect(factory, target.at or target.host)
        addresses = await self._resolver.addresses(target.host, target.port)
        failure: OSError | None = None
        for number, address in enumerate(addresses):
            share = (deadline - loop.time()) / (len(addresses) - number)
            try:
                async with asyncio.timeout(share):
                    return await self._connect(factory, address)
            except ssl.SSLCertVerificationError:
                raise
            except OSError as exc:  # TimeoutError is one
                failure = exc
        self._resolver.forget(target.host, target.port)
        raise failure or ConnectionError("the name has no address")

    async def _connect(
        self, factory: Callable[[], asyncio.Protocol], address: str
    ) -> asyncio.Protocol:
        target = self._target
        name = None
        if self._context is not None:
            name = (target.tls.server_name or target.host).strip("[]")
        _, protocol = await asyncio.get_running_loop().create_connection(
            factory, address, target.port, ssl=self._context, server_hostname=name
        )
        return protocol
