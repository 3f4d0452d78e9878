"""edge. The text of files that `${file:…}` names."""

from __future__ import annotations

import os
import stat
from typing import Final

from gateway.settings import files_read
from gateway.settings.environment import BadVariable

MAX_BYTES: Final = 64 * 1024
"""Of such a file. Private keys and tokens have less than 4 KiB."""


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
