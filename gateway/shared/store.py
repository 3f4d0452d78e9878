"""edge. The Redis server: the stream of denials.

Facts (Redis 6.2 and newer):
- The ids of entries are the server's clock in milliseconds and a number, and rise.
  After a loss of data they may begin again at less.
- XREAD without BLOCK returns what follows an id. With BLOCK it waits until there is
  something, at most so long.
- XTRIM with ~ removes whole blocks of entries only, which costs next to nothing.

Two connections are used: one waits for entries, the other one writes. Every wait has a
limit. Errors are translated into `StoreFailed`, whose text has no secret: Redis repeats
arguments in its own texts, so these aren't used.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final

from gateway.config import Finding, SharedConfig
from gateway.session.deny_list import MAX_DENY_S, MAX_SESSIONS
from gateway.shared.entries import SharedEntry, fields
from gateway.shared.place import StorePlace

ANSWER_S: Final = 2.0
"""For the server to answer a command, and to accept a connection."""
_BLOCK_S: Final = 1.0
"""How long the server keeps a read that finds nothing: so often it shows that it is
there."""
_PAGE: Final = 200
"""Entries of one read. Nearly all have one denial."""
_MAX_ENTRIES: Final = MAX_SESSIONS
"""About what the stream keeps. A gateway keeps no more denials."""
_CLOSE_S: Final = 1.0
_CLIENT: Final = "supertokens-gateway"
"""In the server's CLIENT LIST."""
FIRST: Final = "0-0"
"""The id that all entries follow."""
_WORD: Final = re.compile(r"[A-Z]{3,20}")

RawEntry = tuple[str, Mapping[bytes, bytes]]
"""Id and fields."""


class StoreFailed(Exception):
    """The store can't be used. The text is the reason, without address and secret."""


def check(shared: SharedConfig | None) -> Iterator[Finding]:
    """Yield what keeps this machine from using the store."""
    if shared is None:
        return
    if find_spec("redis") is None:
        yield Finding(
            loc=("gateway", "shared", "redis"),
            message="the package redis isn't installed",
            hint="Install it: pip install 'supertokens-gateway[redis]'",
        )
    if shared.ca_file is not None:
        try:
            ssl.create_default_context(cafile=shared.ca_file)
        except (OSError, ssl.SSLError):
            yield Finding(
                loc=("gateway", "shared", "ca_file"),
                message="the file can't be read, or has no certificate in PEM",
                hint="Correct the path, or the file",
            )


class DenialStore:
    """The stream, over two open connections."""

    def __init__(self, reads: Any, writes: Any, key: str) -> None:
        """*reads* and *writes* are clients of the library, which has no exact types."""
        self._reads = reads
        self._writes = writes
        self._key = key

    async def clock(self) -> float:
        """Return the server's time, in seconds since the epoch.

        Raises:
            StoreFailed: the server doesn't answer, or refuses.
        """
        with translated():
            seconds, micros = await self._writes.time()
        return float(seconds) + float(micros) / 1e6

    async def read(self, after: str, *, is_waiting: bool) -> list[RawEntry]:
        """Return the next entries after an id; with *is_waiting*, wait 1 s for one.

        Raises:
            StoreFailed: the server doesn't answer, or refuses.
        """
        block = int(_BLOCK_S * 1000) if is_waiting else None
        with translated():
            found = await self._reads.xread({self._key: after}, _PAGE, block)
        return [
            (entry_id.decode("ascii"), raw or {})
            for _, entries in found or ()
            for entry_id, raw in entries
        ]

    async def append(self, entries: Sequence[SharedEntry]) -> list[str]:
        """Add *entries*; return their ids.

        Raises:
            StoreFailed: the server doesn't answer, or refuses. Some may be there.
        """
        with translated():
            async with self._writes.pipeline(transaction=False) as pipe:
                for entry in entries:
                    pipe.xadd(
                        *(self._key, fields(entry)),
                        maxlen=_MAX_ENTRIES,
                        approximate=True,
                    )
                # So that the stream of a gateway that is gone goes, too.
                pipe.pexpire(self._key, int(MAX_DENY_S * 1000))
                results = await pipe.execute()
        return [one.decode("ascii") for one in results[:-1]]

    async def ends(self, own: str | None) -> tuple[str, bool]:
        """Return the last id in the stream, and whether entry *own* is there.

        Raises:
            StoreFailed: the server doesn't answer, or refuses.
        """
        with translated():
            last = await self._writes.xrevrange(self._key, count=1)
            found = own is None or await self._writes.xrange(self._key, own, own)
        return (last[0][0].decode("ascii") if last else FIRST), bool(found)

    async def trim(self, needed_from: str) -> None:
        """Remove entries before an id, or some of them.

        Raises:
            StoreFailed: the server doesn't answer, or refuses.
        """
        with translated():
            await self._writes.xtrim(self._key, minid=needed_from, approximate=True)


@contextlib.asynccontextmanager
async def connected(place: StorePlace) -> AsyncIterator[DenialStore]:
    """Yield the store at *place*, and close its connections afterwards.

    Raises:
        StoreFailed: it can't be reached, or refuses.
    """
    with translated():
        reads = client_of(place, timeout_s=_BLOCK_S + ANSWER_S)
        writes = client_of(place, timeout_s=ANSWER_S)
    try:
        with translated():
            async with asyncio.timeout(2 * ANSWER_S):
                await writes.ping()
                await reads.ping()
        yield DenialStore(reads, writes, place.key)
    finally:
        with contextlib.suppress(Exception):  # what it says of the end is no news
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.gather(reads.aclose(), writes.aclose())


def client_of(place: StorePlace, *, timeout_s: float) -> Any:
    """Return a client of the library that waits so long for each answer."""
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    address = place.address
    tls: dict[str, Any] = {}
    if address.is_tls:
        tls = {"ssl": True, "ssl_ca_certs": place.ca_file, "ssl_check_hostname": True}
    return Redis(
        host=address.host,
        port=address.port,
        db=address.database,
        username=address.username,
        password=address.password,
        socket_timeout=timeout_s,
        socket_connect_timeout=ANSWER_S,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # the replies that `read` expects
        client_name=_CLIENT,
        **tls,
    )


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise `StoreFailed` for what the library raises."""
    from redis import exceptions

    try:
        yield
    except (exceptions.RedisError, OSError, TimeoutError) as error:
        raise StoreFailed(_reason(error)) from None


def _reason(error: BaseException) -> str:
    """Return *error* in words, without what Redis repeats of a command."""
    from redis import exceptions

    match error:
        case exceptions.TimeoutError() | TimeoutError():
            return "it doesn't answer"
        case exceptions.AuthenticationError():
            return "it refuses the user or the password"
        case exceptions.NoPermissionError():
            return "its user may not use the key, or a command"
        case exceptions.BusyLoadingError():
            return "it loads its data"
        case exceptions.ReadOnlyError():
            return "it is a read-only replica"
        case exceptions.OutOfMemoryError():
            return "its memory is full"
        case exceptions.ConnectionError() | OSError():
            return _unreachable(error)
        case _:
            word = _WORD.match(str(error))
            return f"it refuses a command{f' ({word[0]})' if word else ''}"


def _unreachable(error: BaseException) -> str:
    """Return why the server can't be reached, in the system's words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is refused: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return "it has no TLS, or another version"
        if isinstance(cause, OSError) and (cause.errno or 0) > 0:
            return os.strerror(cause.errno or 0)
        cause = cause.__cause__ or cause.__context__
    return "it can't be reached"


async def ask(place: StorePlace, *, timeout_s: float) -> str | None:
    """Return what is wrong with the store, which is only read; None: nothing."""
    try:
        async with asyncio.timeout(timeout_s), connected(place) as store:
            await store.read(FIRST, is_waiting=False)
    except StoreFailed as error:
        return str(error)
    except TimeoutError:
        return "it doesn't answer"
    return None
