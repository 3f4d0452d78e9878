"""edge. The sockets of `gateway.listen`: bound, shared by the workers, and closed.

A Unix socket has a file. One that a dead process has left behind is removed, one that
somebody listens on is not. The file is removed at the end by the process that made it.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.config import ListenConfig, listen_address
from gateway.process.sockets import BACKLOG, ListenError, bind, share, url_of


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundListen:
    """An address that is listened on."""

    config: ListenConfig
    sockets: tuple[socket.socket, ...]
    """One for each worker, or one that all workers accept from."""
    file: tuple[int, ...] | None = None
    """What tells a Unix socket's file from others; None for host and port."""

    @property
    def url(self) -> str:
        """The address as clients write it; for a Unix socket `unix:/path`."""
        if self.config.parsed.is_unix:
            return self.config.address
        scheme = "http" if self.config.tls is None else "https"
        return url_of(self.sockets[0], scheme)


def overriding(listen: str) -> tuple[ListenConfig, ...]:
    """Return what is listened on with `--listen` *listen* in place of the file's.

    Raises:
        ListenError: it isn't `host:port` or `unix:/path`.
    """
    try:
        listen_address(listen)
    except ValueError as exc:
        raise ListenError(f"can't listen on {listen}: {exc}") from exc
    return (ListenConfig(address=listen),)


def open_listens(
    listens: Iterable[ListenConfig],
    workers: int,
    found: Callable[[ListenConfig], BoundListen | None] = lambda _listen: None,
) -> list[BoundListen]:
    """Listen on all of *listens*, for *workers* processes.

    *found* returns what is listened on already; None: bind it.

    Raises:
        ListenError: one of them can't be listened on. None is then.
    """
    opened: list[BoundListen] = []
    try:
        for listen in listens:
            bound = found(listen) or _open(listen, workers)
            opened.append(bound)
    except ListenError:
        close_listens(opened)
        raise
    return opened


def _open(listen: ListenConfig, workers: int) -> BoundListen:
    if not listen.parsed.is_unix:
        return BoundListen(
            config=listen, sockets=tuple(share(bind(listen.address), workers))
        )
    sock = _bind_unix(listen)
    return BoundListen(
        config=listen, sockets=(sock,), file=_identity(listen.parsed.socket_path)
    )


def configured(
    bound: Sequence[BoundListen], listens: Iterable[ListenConfig]
) -> list[BoundListen]:
    """Return *bound* with what *listens*, of a later file, say about each address."""
    later: dict[tuple[type, str], list[ListenConfig]] = {}
    for listen in listens:
        later.setdefault((type(listen), listen.address), []).append(listen)
    result = []
    for each in bound:
        key = type(each.config), each.config.address
        same = later.get(key)  # several with port 0: in their order
        result.append(replace(each, config=same.pop(0)) if same else each)
    return result


def urls(listens: Iterable[BoundListen]) -> str:
    """Return the URLs of *listens*, in one line."""
    return ", ".join(listen.url for listen in listens)


def socket_count(listens: Iterable[BoundListen]) -> int:
    """Return the number of sockets of each address, 1 if all workers share one."""
    return max((len(listen.sockets) for listen in listens), default=0)


def assigned(
    listens: Sequence[BoundListen], numbers: Iterable[int]
) -> dict[tuple[int, int], BoundListen]:
    """Return the sockets with these *numbers* of all addresses.

    They are named by the index of their address, and their own.
    """
    return {
        (index, number % len(listen.sockets)): listen
        for number in numbers
        for index, listen in enumerate(listens)
    }


def close_sockets(listens: Iterable[BoundListen]) -> None:
    """Close this process's copies of the sockets; the files of Unix sockets stay."""
    for listen in listens:
        for sock in listen.sockets:
            sock.close()


def close_listens(listens: Iterable[BoundListen]) -> None:
    """Close the sockets, and remove the files of Unix sockets.

    A file that has taken the place of the gateway's own stays.
    """
    for listen in listens:
        path = listen.config.parsed.socket_path
        if listen.file is not None:
            remove_file(path, listen.file)
        close_sockets((listen,))


def remove_file(path: str, file: tuple[int, ...]) -> None:
    """Remove the file of a Unix socket, if it is still this *file*."""
    if _identity(path) == file:
        with contextlib.suppress(OSError):
            Path(path).unlink()


def _identity(path: str) -> tuple[int, ...] | None:
    """Return what tells a socket's file from others, None if *path* isn't one.

    A new file may get the inode of one that was just removed, so the time of its last
    change counts, too.
    """
    try:
        found = Path(path).lstat()
    except OSError:
        return None
    if not stat.S_ISSOCK(found.st_mode):
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _bind_unix(listen: ListenConfig) -> socket.socket:
    """Return a non-blocking listening socket with a file of its own.

    Nobody can connect before the file has its owner and its permissions.

    Raises:
        ListenError: the file can't be made, or somebody listens on it.
    """
    path = listen.parsed.socket_path
    user, group = _owner(listen)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777)
    try:
        sock.bind(path)
    except OSError as exc:
        sock.close()
        raise ListenError(
            f"can't listen on unix:{path}: {exc.strerror}. The directory must exist,"
            " and this user must be allowed to write to it"
        ) from exc
    finally:
        os.umask(before)
    try:
        if (user, group) != (-1, -1):
            os.chown(path, user, group)
        Path(path).chmod(int(listen.mode, 8))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        with contextlib.suppress(OSError):
            Path(path).unlink()
        raise ListenError(
            f"can't listen on unix:{path}: {exc.strerror} when its mode and owner were"
            " set. To give it to another user, the gateway must start as root"
        ) from exc
    return sock


def _owner(listen: ListenConfig) -> tuple[int, int]:
    """Return the numbers of a listen's user and group, -1 where it names none.

    Raises:
        ListenError: the system doesn't have one of them.
    """
    name, _, group_name = (listen.owner or "").partition(":")
    user = group = -1
    try:
        if name:
            user = int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
        if group_name:
            is_number = group_name.isdecimal()
            group = int(group_name) if is_number else grp.getgrnam(group_name).gr_gid
    except KeyError as exc:
        raise ListenError(
            f"can't listen on {listen.address}: this system has no {listen.owner},"
            " which is its owner in the file"
        ) from exc
    return user, group


def _remove_stale(path: str) -> None:
    """Remove a socket's file that nobody listens on.

    Raises:
        ListenError: somebody does, or the file isn't a socket.
    """
    if _identity(path) is None:
        if os.path.lexists(path):
            raise ListenError(
                f"can't listen on unix:{path}: there is a file that isn't a socket."
                " Remove it, or choose another path"
            )
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trying:
        trying.setblocking(False)
        code = trying.connect_ex(path)
    if code == errno.ENOENT:
        return
    if code != errno.ECONNREFUSED:
        reason = "somebody listens there"
        if code not in (0, errno.EAGAIN):
            reason = f"whether somebody listens there is unknown: {os.strerror(code)}"
        raise ListenError(
            f"can't listen on unix:{path}: {reason}. Stop what listens there, or choose"
            " another path"
        )
    with contextlib.suppress(FileNotFoundError):
        try:
            Path(path).unlink()
        except PermissionError as exc:
            raise ListenError(
                f"can't listen on unix:{path}: a process has left this file behind, and"
                " this user may not remove it"
            ) from exc
