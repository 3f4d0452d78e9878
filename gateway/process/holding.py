"""edge. What a supervisor holds while it runs: its sockets, and its pidfile."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.config import GatewayConfig
from gateway.process.admin_listen import open_admin
from gateway.process.listening import (
    BoundListen,
    close_listens,
    close_sockets,
    open_listens,
    overriding,
    urls,
)
from gateway.process.pidfile import PidFile, claim, refuse_if_held
from gateway.process.sockets import bind, url_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the command line says in place of the file; None: nothing."""

    listen: str | None = None
    """`--listen`."""
    probes: str | None = None
    """`--probes-listen`."""
    pidfile: Path | None = None
    """`--pidfile`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Open until `close_all`."""

    listens: Sequence[BoundListen]
    probes: socket.socket | None
    """Where the hub answers probes."""
    admin: BoundListen | None
    """Where the hub answers operators."""
    pidfile: PidFile | None

    @property
    def url(self) -> str:
        """Where clients connect, as `listening.urls` writes it."""
        return urls(self.listens)

    @property
    def probes_url(self) -> str | None:
        """Where probes connect."""
        return None if self.probes is None else url_of(self.probes)

    def close_listeners(self) -> None:
        """Close this process's copies of what clients connect to."""
        close_sockets(self.listens)

    def close_pidfile(self) -> None:
        """Close this process's copy of the pidfile's lock, in a forked child."""
        if self.pidfile is not None:
            self.pidfile.close()

    def close_probes(self) -> None:
        """Close this process's copies of what only the hub accepts from."""
        if self.probes is not None:
            self.probes.close()
        if self.admin is not None:
            close_sockets((self.admin,))

    def close_all(self) -> None:
        """Close all sockets, and remove their files and, last, the pidfile."""
        close_listens(self.listens)
        if self.admin is not None:
            close_listens((self.admin,))
        self.close_probes()
        if self.pidfile is not None:
            self.pidfile.remove()


def hold(gateway: GatewayConfig, overrides: Overrides, workers: int) -> Holdings:
    """Listen where *gateway* or *overrides* say, then write the pidfile.

    Raises:
        ListenError: an address can't be listened on.
        PidFileError: a running gateway has the pidfile, or it can't be written.
    """
    path = overrides.pidfile or (gateway.pidfile and Path(gateway.pidfile)) or None
    if path is not None:
        # A second start says this, not that a port is in use.
        refuse_if_held(path)
    named = gateway.listen
    if overrides.listen is not None:
        named = overriding(overrides.listen)
    with contextlib.ExitStack() as undo:
        listens = open_listens(named, workers)
        undo.callback(close_listens, listens)
        probes = None
        if (address := overrides.probes or gateway.probes.listen) is not None:
            probes = bind(address, keys="gateway.probes.listen or --probes-listen")
            undo.callback(probes.close)
        admin = open_admin(gateway.admin)
        if admin is not None:
            undo.callback(close_listens, (admin,))
        pidfile = None if path is None else claim(path)
        undo.pop_all()
    return Holdings(listens=listens, probes=probes, admin=admin, pidfile=pidfile)
