"""edge. The file with the token of the admin listener."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.config import AdminConfig, Finding
from gateway.settings.secret_files import is_exposed

MIN_CHARS: Final = 32
"""Of a token: 128 bits, if it is written in hexadecimal digits."""
_MAX_BYTES: Final = 4096
_TOKEN = re.compile(rb"[!-~]+")


class BadTokenFile(Exception):
    """The file can't be used. The text is the reason, *hint* the remedy."""

    def __init__(self, reason: str, hint: str) -> None:
        self.hint = hint
        super().__init__(reason)


def read_token(path: str) -> bytes:
    """Return the token in the file at *path*.

    A line break at its end isn't part of it.

    Raises:
        BadTokenFile: it can't be read, others than its owner and group may read it, or
            it has no token of `MIN_CHARS` printable ASCII characters in one line.
    """
    try:
        with Path(path).open("rb") as file:
            mode = stat.S_IMODE(_regular(file.fileno()))
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise BadTokenFile(
            f"the file can't be read: {error.strerror}", _HOW_TO_MAKE
        ) from None
    if is_exposed(mode):
        raise BadTokenFile(
            "everyone on this machine can read the file, or others can write it",
            f"chmod 600 {path}, or 640 with a group for the gateway",
        )
    token = data.removesuffix(b"\n").removesuffix(b"\r")
    if not token:
        raise BadTokenFile("the file is empty", _HOW_TO_MAKE)
    if len(data) > _MAX_BYTES or not _TOKEN.fullmatch(token):
        raise BadTokenFile(
            "a token is one line of printable ASCII characters, without blanks",
            _HOW_TO_MAKE,
        )
    if len(token) < MIN_CHARS:
        raise BadTokenFile(
            f"the token is too short: it needs {MIN_CHARS} characters", _HOW_TO_MAKE
        )
    return token


_HOW_TO_MAKE: Final = "Make one with: openssl rand -hex 32"


def check(config: AdminConfig) -> Iterator[Finding]:
    """Yield a finding if the token file that *config* names can't be used."""
    if config.token_file is None:
        return
    try:
        read_token(config.token_file)
    except BadTokenFile as error:
        yield Finding(
            loc=("gateway", "admin", "token_file"), message=str(error), hint=error.hint
        )


def _regular(descriptor: int) -> int:
    """Return the mode of a regular file.

    Raises:
        OSError: it is of another kind.
    """
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(0, "it isn't a regular file")
    return mode
