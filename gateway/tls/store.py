"""edge. The certificates of an address, loaded again when their files change."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final

from gateway.config import ListenConfig, ListenTlsConfig
from gateway.events import RuntimeEvent, about
from gateway.tls.certificates import Certificate
from gateway.tls.contexts import BadTls, ServerTls, load

_log = logging.getLogger("gateway")

POLL_S: Final = 5.0
"""How often the files are compared. By their content: a Kubernetes secret changes
behind a symbolic link, and a copy may keep its time."""


TICKET_KEY_S: Final = 86400.0
"""How long one context, and with it the key for tickets, is used."""


def contents(tls: ListenTlsConfig) -> str:
    """Return a digest of the files of *tls*; one that can't be read counts as empty."""
    paths = [path for pair in tls.certificates for path in (pair.cert, pair.key)]
    if tls.client_auth is not None:
        paths.append(tls.client_auth.ca_file)
    digest = hashlib.sha256()
    for path in paths:
        try:
            data = Path(path).read_bytes()
        except OSError:
            data = b""
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()


class CertificateStore:
    """The TLS of one address, as its files are now or were when they were last good."""

    def __init__(self, listen: ListenConfig, *, poll_s: float = POLL_S) -> None:
        """Load the files.

        Raises:
            BadTls: they can't be used.
        """
        assert listen.tls is not None, "an address without TLS has no certificates"
        self._tls = listen.tls
        self.listen = listen
        self._poll_s = poll_s
        self.is_silent = False
        """Another process says what happens to the same files."""
        self._seen = contents(listen.tls)
        self._doubtful: str | None = None
        """The files that were seen once and couldn't be used: they may be half
        written."""
        self.current: ServerTls = load(listen.tls)
        self._loaded_at = time.monotonic()

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The certificates that new clients get."""
        return self.current.certificates

    async def refresh(self) -> None:
        """Load the files if they have changed; keep what is there if they are bad.

        Bad files are reported once, when they are seen for the second time: while a
        certificate and its key are replaced, they don't match.
        """
        found = await asyncio.to_thread(contents, self._tls)
        if found == self._seen:
            self._doubtful = None
            if not self._is_aged():
                return
        try:
            loaded = await asyncio.to_thread(load, self._tls)
        except BadTls as error:
            if self._doubtful != found:
                self._doubtful = found
                return
            self._seen = found  # not tried again before they change
            self._say(
                RuntimeEvent.CERTIFICATES_REFUSED,
                f"the new certificates of {self.listen.address} can't be used:"
                f" {error}. The old ones stay",
            )
            return
        self._doubtful = None
        self._loaded_at = time.monotonic()
        self.current = loaded
        if found != self._seen:
            self._seen = found
            self._say(
                RuntimeEvent.CERTIFICATES_CHANGED,
                f"the certificates of {self.listen.address} have changed",
            )

    def _is_aged(self) -> bool:
        """Return whether the key for tickets has been used long enough.

        Who learns it can read the sessions of TLS 1.2 that tickets have resumed.
        """
        return time.monotonic() - self._loaded_at > TICKET_KEY_S

    def _say(self, event: RuntimeEvent, text: str) -> None:
        if not self.is_silent:
            level = logging.ERROR if event.severity == "error" else logging.WARNING
            _log.log(level, text, extra=about(event, address=self.listen.address))

    async def watch(self) -> None:
        """Refresh now and from time to time, without end."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._poll_s)


def stores_of(listens: Iterable[ListenConfig]) -> tuple[CertificateStore, ...]:
    """Return the certificates of those of *listens* that have TLS.

    Raises:
        BadTls: the files of one can't be used.
    """
    return tuple(
        CertificateStore(listen) for listen in listens if listen.tls is not None
    )


@contextlib.asynccontextmanager
async def watching(stores: Iterable[CertificateStore]) -> AsyncIterator[None]:
    """Keep *stores* up to date while the block runs."""
    tasks = [
        asyncio.create_task(
            store.watch(), name=f"certificates of {store.listen.address}"
        )
        for store in stores
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
