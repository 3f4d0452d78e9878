"""edge. The look at the configuration's files, in the hub.

It is there because the hub has an event loop and no clients. The supervisor must not
wait for a disk, and has no thread while it forks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.process import watching
from gateway.process.admin_messages import FilesChanged, WatchFiles
from gateway.process.messages import Message
from gateway.settings import files_read


class HubWatcher:
    """Asks for a reload when watched files have changed."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._task: asyncio.Task[None] | None = None
        self._state = watching.WatchState("")

    def watch(self, files: WatchFiles) -> None:
        """Watch these files from now on, in place of any others."""
        self.close()
        # What was asked for stays so: a load may have read less than is watched.
        asked = self._state.asked
        self._state = watching.WatchState(files.loaded, asked=asked)
        if files.names:
            self._task = asyncio.create_task(self._run(files), name="watch")

    def close(self) -> None:
        """Watch nothing."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self, files: WatchFiles) -> None:
        while True:
            await asyncio.sleep(files.interval_s)
            found = await asyncio.to_thread(files_read.now, files.names)
            self._state, is_wanted = watching.look(self._state, found)
            if is_wanted:
                self._send(FilesChanged())
