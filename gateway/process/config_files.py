"""edge. The files that the configuration was read from, for the hub to watch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from gateway.config import Config, WatchConfig
from gateway.process.admin_messages import WatchFiles
from gateway.settings import Settings
from gateway.settings.files_read import Found, joined, note_file, now, recording

_MAX_NAMES: Final = 150_000
"""Of all paths, in bytes. As JSON, they may be six times as long."""


class ConfigFiles:
    """What the last load has read, if it is to be watched."""

    def __init__(self, *, is_forced: bool = False) -> None:
        """*is_forced*: watch them with or without `gateway.watch`."""
        self._is_forced = is_forced
        self._found: Found = {}
        self._interval_s: float | None = None

    def load(self, read: Callable[[], Settings]) -> Settings:
        """Return what *read* does, and keep which files it has read.

        Raises: as *read* does.
        """
        with recording() as found:
            try:
                settings = read()
                _note_authorities(settings.config)
            except BaseException:
                # A broken file doesn't say all that it would have read.
                self._found |= found
                raise
        self._found = found
        watch = settings.config.gateway.watch
        if watch is None and self._is_forced:
            watch = WatchConfig()
        self._interval_s = None if watch is None else watch.interval
        return settings

    def have_changed(self) -> bool:
        """Return whether something else is there now than the last load has read."""
        return now(self._found) != joined(self._found)

    @property
    def doubt(self) -> str | None:
        """Why the files can't be watched, though they are to be; None: they can."""
        if self._interval_s is None or _size(self._found) <= _MAX_NAMES:
            return None
        return "the files aren't watched: they are too many for one message"

    def watch(self) -> WatchFiles | None:
        """Return what the hub is to watch; None: nothing."""
        if self._interval_s is None or self.doubt is not None:
            return None
        return WatchFiles(
            tuple(sorted(self._found)), joined(self._found), self._interval_s
        )


def _size(names: Iterable[str]) -> int:
    return sum(len(name.encode(errors="surrogateescape")) for name in names)


def _note_authorities(config: Config) -> None:
    """Record the files of services' authorities, which workers read at their start."""
    for service in config.services.values():
        if service.tls.ca_file is not None:
            note_file(service.tls.ca_file)
