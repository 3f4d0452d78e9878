"""edge. The pidfile: which process is the gateway, for `gateway stop` and its like.

The supervisor holds a lock (flock) on the file for as long as it runs. The kernel
releases the lock when it ends, however it ends. So a process id counts only while the
file is locked, and one that the system has given to another program is never
signalled. Workers close their copies of the lock at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MODE: Final = 0o644
_MAX_BYTES: Final = 32
_PID: Final = re.compile(rb"[1-9][0-9]{0,9}\n?")
_LOCK_TRIES: Final = 20
_LOCK_PAUSE_S: Final = 0.01
"""Between two tries: `running` holds a lock for some microseconds, too."""


class PidFileError(Exception):
    """The pidfile can't be used. The text is the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway that holds its pidfile."""

    pid: int
    since: float
    """When it wrote the file, in seconds since 1970."""


def running(path: Path) -> RunningGateway | None:
    """Return the gateway that holds the pidfile at *path*; None: none does.

    Raises:
        PidFileError: the file can't be read, or isn't a pidfile.
    """
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        return None
    try:
        if _try_lock(descriptor, fcntl.LOCK_SH):
            return None
        since = os.fstat(descriptor).st_mtime
        return RunningGateway(_read_pid(descriptor, path), since)
    finally:
        os.close(descriptor)


def send(gateway: RunningGateway, path: Path, number: signal.Signals) -> bool:
    """Send a signal to *gateway*; return False if it has ended.

    *path* is its pidfile, which it must still hold: its process id may be another
    process's by now.

    Raises:
        PidFileError: it is another user's process; or as `running`.
    """
    try:
        if not hasattr(os, "pidfd_open"):  # not Linux
            if running(path) != gateway:
                return False
            os.kill(gateway.pid, number)
            return True
        # The descriptor is of one process for good. If the file is still held after it
        # was opened, that process is the gateway.
        process = os.pidfd_open(gateway.pid)
        try:
            if running(path) != gateway:
                return False
            signal.pidfd_send_signal(process, number)
        finally:
            os.close(process)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise PidFileError(
            f"process {gateway.pid} is another user's: run this as that user, or as"
            " root"
        ) from None
    return True


class PidFile:
    """This process's pidfile, locked until `close` or `remove`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Use `claim` instead."""
        self.path = path
        self._descriptor = descriptor

    def close(self) -> None:
        """Close this process's copy of the lock. The file stays.

        A forked child calls it: a lock lasts until all copies are closed.
        """
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Remove the file and the state beside it, and unlock it.

        Both stay if they are another process's by now.
        """
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            if _is_at(self._descriptor, self.path):
                state_path(self.path).unlink(missing_ok=True)
                self.path.unlink()
        self.close()


def state_path(pidfile: Path) -> Path:
    """Return where the gateway that holds this pidfile keeps its `ReloadState`."""
    return pidfile.with_name(f"{pidfile.name}.state")


def claim(path: Path, *, before: int | None = None) -> PidFile:
    """Write this process's id to the file at *path*, with mode 0644, and lock it.

    Readers see the whole file or none. A file that a gateway left behind is replaced,
    and so is one that process *before* holds, which hands over to this one.

    Raises:
        PidFileError: a running gateway holds the file, it isn't a pidfile, or its
            folder can't be written to.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _unusable(path, error) from None
    new = Path(name)
    try:
        os.fchmod(descriptor, _MODE)
        os.write(descriptor, b"%d\n" % os.getpid())
        _try_lock(descriptor, fcntl.LOCK_EX)
        while not _put(new, path, before):
            pass  # another process was faster: judge its file
    except OSError as error:
        os.close(descriptor)
        raise _unusable(path, error) from None
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
    return PidFile(path, descriptor)


def refuse_if_held(path: Path, *, before: int | None = None) -> None:
    """Do nothing if `claim` may succeed.

    Raises:
        PidFileError: a running gateway holds the file at *path*; or as `running`.
    """
    if (gateway := running(path)) is not None and gateway.pid != before:
        raise _held(path, gateway.pid)


def _put(new: Path, path: Path, before: int | None) -> bool:
    """Move *new* to *path*; return False if *path* has changed meanwhile.

    Raises:
        PidFileError: a running gateway holds the file, or it isn't a pidfile.
    """
    try:
        old = _open(path)
    except FileNotFoundError:
        try:
            os.link(new, path)  # unlike `rename`, it fails if the file exists
        except FileExistsError:
            return False
        return True
    try:
        pid = _read_pid(old, path)
        # Whoever replaces the file holds its lock, so only one process can. The one
        # before holds it, and lets only this process replace the file.
        if pid != before and not _lock_in_time(old):
            raise _held(path, pid)
        if not _is_at(old, path):
            return False
        new.rename(path)
    finally:
        os.close(old)
    return True


def _open(path: Path) -> int:
    """Return a descriptor for the file at *path*.

    Raises:
        FileNotFoundError: there is none.
        PidFileError: it can't be read, or isn't a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unusable(path, error) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _foreign(path)
    return descriptor


def _read_pid(descriptor: int, path: Path) -> int:
    data = os.pread(descriptor, _MAX_BYTES, 0)
    if _PID.fullmatch(data) is None:
        raise _foreign(path)
    return int(data)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_in_time(descriptor: int) -> bool:
    """Return whether the file is this process's, after some tries."""
    for _ in range(_LOCK_TRIES):
        if _try_lock(descriptor, fcntl.LOCK_EX):
            return True
        time.sleep(_LOCK_PAUSE_S)
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether *path* is the file of *descriptor*."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _held(path: Path, pid: int) -> PidFileError:
    return PidFileError(
        f"a gateway is running already: process {pid} holds {path}. Stop it with"
        " gateway stop, or choose another file with gateway.pidfile or --pidfile"
    )


def _foreign(path: Path) -> PidFileError:
    return PidFileError(
        f"{path} isn't a pidfile: remove it, or choose another file with"
        " gateway.pidfile or --pidfile"
    )


def _unusable(path: Path, error: OSError) -> PidFileError:
    return PidFileError(f"the pidfile {path} can't be used: {error.strerror}")
