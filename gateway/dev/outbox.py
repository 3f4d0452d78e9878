"""edge. Development only: mails go to files, and their links to the console."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path


class Outbox:
    """Writes each mail that SuperTokens would send to a file in *folder*.

    Anyone with a link can sign in, so only the owner may read the folder. Never use
    this in a gateway that serves strangers.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """*say* prints a line to the console."""
        self._folder = folder
        self._say = say
        self._numbers = count(1)

    async def send(self, kind: str, to: str, link: str) -> None:
        """Write the mail to a file that only its owner may read; print the link."""
        path = await asyncio.to_thread(self._write, kind, to, link)
        self._say(f"mail to {to} ({kind}, kept as {path}):\n  {link}")

    def _write(self, kind: str, to: str, link: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        now = datetime.now(UTC)
        name = f"{now:%Y%m%dT%H%M%S.%f}-{next(self._numbers)}-{kind}.txt"
        path = self._folder / name
        # O_EXCL: don't follow a symbolic link that another user has put there.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w", encoding="utf-8") as mail:
            mail.write(f"Date: {now.isoformat()}\nTo: {to}\nKind: {kind}\n\n{link}\n")
        return path
