"""edge. The text of files that `${file:…}` names."""

from __future__ import annotations

import os
import stat
from typing import Final

from gateway.settings import files_read
from gateway.settings.environment import BadVariable

MAX_BYTES: Final = 64 * 1024
"""Of such a file. Private keys and tokens have less than 4 KiB."""


def is_exposed(mode: int) -> bool:
    """Return whether a file of this mode is no secret: everyone can read it, or others
    than its owner can write it. Its group may read it, as in Kubernetes (`fsGroup`).
    """
    return bool(mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP))


def read_regular(path: str, max_bytes: int) -> tuple[bytes, int]:
    """Return up to *max_bytes* + 1 bytes of a regular file, and its mode.

    Raises:
        OSError, ValueError: it can't be read, or is of another kind.
    """
    try:
        # A pipe without a writer would keep the gateway waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise OSError(0, "it isn't a regular file")
            data = file.read(max_bytes + 1)
    except (OSError, ValueError):
        files_read.note(path, None)
        raise
    files_read.note(path, data)
    return data, stat.S_IMODE(mode)


def read_secret(path: str) -> str:
    """Return the text of the file at *path*, without one line break at its end.

    Raises:
        BadVariable: it isn't a regular file that can be read, has more than
            `MAX_BYTES`, or isn't text in UTF-8. The message quotes nothing of it.
    """
    try:
        # A pipe without a writer would keep the gateway waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            data = os.read(descriptor, MAX_BYTES + 1) if is_regular else b""
        finally:
            os.close(descriptor)
        files_read.note(path, data if is_regular else None)
    except (OSError, ValueError) as error:
        files_read.note(path, None)
        reason = error.strerror if isinstance(error, OSError) else "a wrong path"
        raise BadVariable(
            f"the file {path} can't be read: {reason}",
            "Make it, and let the gateway's user read it",
        ) from None
    if not is_regular:
        raise BadVariable(f"{path} isn't a regular file", "Name a file with the value")
    if len(data) > MAX_BYTES:
        raise BadVariable(
            f"the file {path} has more than {MAX_BYTES} bytes",
            "Name a file with the value alone",
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadVariable(
            f"the file {path} isn't text in UTF-8", "Write the value as text"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")
