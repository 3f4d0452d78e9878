"""edge. Which files a load has read, and digests of what was in them.

The digests are of the bytes that were used, so a file that changes while it is read is
seen as changed afterwards. Contents count, not times or inodes: a Kubernetes volume is
swapped behind a symbolic link, and an editor replaces the file by another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from glob import glob
from typing import Final

MAX_BYTES: Final = 64 * 1024 * 1024
"""Of a file that is compared; the configuration refuses smaller ones than this."""
_PATTERN: Final = "*:"
"""Before a pattern, of which the names of its files are compared."""
_FILE: Final = "=:"
_ABSENT: Final = "-"

Found = dict[str, str]
"""What was read, each with its digest."""
_recorded: ContextVar[Found | None] = ContextVar("files_read", default=None)


@contextlib.contextmanager
def recording() -> Iterator[Found]:
    """Record what is read while the block runs, in this thread."""
    found: Found = {}
    token = _recorded.set(found)
    try:
        yield found
    finally:
        _recorded.reset(token)


def note(path: str, data: bytes | None) -> None:
    """Record that *path* was read; None: it couldn't be."""
    if (found := _recorded.get()) is not None:
        found[_FILE + path] = _digest(data)


def note_file(path: str) -> None:
    """Record *path*, which somebody else reads, as it is now."""
    note(path, _read(path))


def note_pattern(pattern: str, names: Iterable[str]) -> None:
    """Record which files *pattern* has found."""
    if (found := _recorded.get()) is not None:
        found[_PATTERN + pattern] = _names(names)


def joined(found: Mapping[str, str]) -> str:
    """Return one digest of all that was read."""
    text = "\n".join(f"{name}\0{found[name]}" for name in sorted(found))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def now(names: Iterable[str]) -> str:
    """Return the same digest of what is there now. It reads the files."""
    return joined({name: _now(name) for name in names})


def _now(name: str) -> str:
    if name.startswith(_PATTERN):
        return _names(glob(name.removeprefix(_PATTERN)))  # noqa: PTH207 # as joining
    return _digest(_read(name.removeprefix(_FILE)))


def _names(names: Iterable[str]) -> str:
    text = "\0".join(sorted(names))
    return _digest(text.encode("utf-8", "surrogateescape"))


def _digest(data: bytes | None) -> str:
    return _ABSENT if data is None else hashlib.sha256(data).hexdigest()


def _read(path: str) -> bytes | None:
    """Return the content of a regular file, None if it can't be read."""
    try:
        # A pipe without a writer would keep the reader waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    with os.fdopen(descriptor, "rb") as file:
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return file.read(MAX_BYTES)
        except OSError:
            pass
        return None
