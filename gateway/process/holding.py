"""edge. What a supervisor holds while it runs: its sockets, and its pidfile."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.config import (
    AdminConfig,
    GatewayConfig,
    ListenConfig,
    decision_listens,
    listen_address,
)
from gateway.process.activation import GivenSockets
from gateway.process.admin_listen import open_admin
from gateway.process.inheriting import Inheritance
from gateway.process.listening import (
    BoundListen,
    close_listens,
    close_sockets,
    open_listens,
    overriding,
    urls,
)
from gateway.process.pidfile import PidFile, claim, refuse_if_held
from gateway.process.sockets import ListenError, bind, url_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the command line says in place of the file; None: nothing."""

    listen: str | None = None
    """`--listen`."""
    probes: str | None = None
    """`--probes-listen`."""
    admin: str | None = None
    """`--admin-listen`."""
    pidfile: Path | None = None
    """`--pidfile`."""

    def admin_of(self, config: AdminConfig) -> AdminConfig:
        """Return what counts in place of *config*.

        Raises:
            ListenError: `--admin-listen` is no address, or needs a token.
        """
        if self.admin is None:
            return config
        try:
            listen_address(self.admin)
        except ValueError as exc:
            raise ListenError(f"can't listen on {self.admin}: {exc}") from exc
        result = config.model_copy(update={"listen": self.admin})
        for finding in result.conflicts():
            raise ListenError(
                f"can't listen on {self.admin}: {finding.message}. Set"
                " gateway.admin.token_file, or use 127.0.0.1 or unix:/path"
            )
        return result


@dataclass(slots=True, kw_only=True, eq=False)
class Holdings:
    """Open until `close_all`."""

    listens: Sequence[BoundListen]
    probes: socket.socket | None
    """Where the hub answers probes."""
    admin: BoundListen | None
    """Where the hub answers operators."""
    pidfile: PidFile | None
    probes_address: str | None = None
    """What `probes` is bound to, as it was configured."""
    pidfile_path: Path | None = None
    before: Inheritance | None = None
    """What a gateway has left that still has the files and the pidfile."""

    @property
    def url(self) -> str:
        """Where clients connect, as `listening.urls` writes it."""
        return urls(self.listens)

    @property
    def probes_url(self) -> str | None:
        """Where probes connect."""
        return None if self.probes is None else url_of(self.probes)

    def for_next(self) -> list[BoundListen]:
        """Return all that the next gateway of an upgrade can listen on."""
        rest = list(self.listens)
        if self.probes is not None and self.probes_address is not None:
            config = ListenConfig(address=self.probes_address)
            rest.append(BoundListen(config=config, sockets=(self.probes,)))
        if self.admin is not None:
            rest.append(self.admin)
        return rest

    def hand_over(self) -> None:
        """Leave sockets' files to the next gateway, which replaces the pidfile."""
        self.listens = [replace(listen, file=None) for listen in self.listens]
        if self.admin is not None:
            self.admin = replace(self.admin, file=None)

    def take_over(self) -> None:
        """Own the files of inherited sockets, and write the pidfile.

        Files of Unix sockets that only the gateway before has named are removed.

        Raises:
            PidFileError: the pidfile can't be written. The rest is done.
        """
        before, self.before = self.before, None
        if before is None:
            return
        self.listens = [before.with_file(listen) for listen in self.listens]
        if self.admin is not None:
            self.admin = before.with_file(self.admin)
        before.remove_rest()
        if self.pidfile_path is not None:
            self.pidfile = claim(self.pidfile_path, before=before.pid)

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


def hold(
    gateway: GatewayConfig,
    overrides: Overrides,
    workers: int,
    before: Inheritance | None = None,
    given: GivenSockets | None = None,
) -> Holdings:
    """Listen where *gateway* or *overrides* say, then write the pidfile.

    With *before*, in an upgrade, only new addresses are bound, and the pidfile is
    written by `Holdings.take_over`. What a service manager has bound is *given*.

    Raises:
        ListenError: an address can't be listened on.
        PidFileError: a running gateway has the pidfile, or it can't be written.
    """
    path = overrides.pidfile or (gateway.pidfile and Path(gateway.pidfile)) or None
    if path is not None:
        # A second start says this, not that a port is in use.
        refuse_if_held(path, before=None if before is None else before.pid)
    named = gateway.listen
    if overrides.listen is not None:
        named = overriding(overrides.listen)
    named += decision_listens(gateway.decision)
    given = given or GivenSockets([])

    def found(listen: ListenConfig) -> BoundListen | None:
        inherited = None if before is None else before.take(listen)
        return inherited or given.take(listen)

    with contextlib.ExitStack() as undo:
        listens = open_listens(named, workers, found)
        undo.callback(close_listens, listens)
        probes = None
        if (address := overrides.probes or gateway.probes.listen) is not None:
            probes = _one(found(ListenConfig(address=address))) or bind(
                address, keys="gateway.probes.listen or --probes-listen"
            )
            undo.callback(probes.close)
        admin = open_admin(overrides.admin_of(gateway.admin), found)
        if admin is not None:
            undo.callback(close_listens, (admin,))
        given.refuse_rest()
        pidfile = None if path is None or before is not None else claim(path)
        if before is not None:
            before.close_rest()
        undo.pop_all()
    return Holdings(
        listens=listens,
        probes=probes,
        admin=admin,
        pidfile=pidfile,
        probes_address=address,
        pidfile_path=path,
        before=before,
    )


def _one(bound: BoundListen | None) -> socket.socket | None:
    """Return one of the sockets, and close the others: nobody would accept there."""
    if bound is None:
        return None
    for another in bound.sockets[1:]:
        another.close()
    return bound.sockets[0]
