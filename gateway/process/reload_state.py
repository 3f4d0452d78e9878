"""edge. What a gateway tells `gateway reload`: its reloads, and what it serves.

It stands beside the pidfile, in a file that only the gateway's user can read.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gateway.config import Config
from gateway.config.diff import ConfigChange, fingerprints
from gateway.process.pidfile import PidFile, PidFileError, state_path

_MAX_BYTES = 64 * 1024 * 1024
"""10,000 routes take less than 1 MiB."""
_KEY_BYTES = 32

Fingerprints = tuple[Mapping[str, Mapping[str, str]], ...]
"""As `config.diff.fingerprints` returns them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadState:
    """The reloads of a running gateway up to now."""

    pid: int
    begun: int
    """How many reloads have begun. One that begins later reads the file as it is."""
    ended: int
    """How many have ended; the others run."""
    generation: int
    """The number of the configuration that serves."""
    problems: tuple[str, ...]
    """Why the last reload didn't take over; empty: it did."""
    changes: tuple[str, ...]
    """What it changed."""
    key: str
    """That of the fingerprints, in hexadecimal."""
    serving: Fingerprints
    """Those of the configuration that serves."""


class ReloadNotes:
    """Writes the state of this process, if it has a pidfile."""

    def __init__(self, pidfile: PidFile | None) -> None:
        self._pidfile = pidfile
        self._key = secrets.token_bytes(_KEY_BYTES)
        self._state: ReloadState | None = None

    def fingerprints(self, config: Config) -> Fingerprints:
        """Return those of *config*, or nothing if they aren't needed."""
        return () if self._pidfile is None else fingerprints(config, self._key)

    def start(self, serving: Fingerprints) -> None:
        """Note the configuration that this process has started with."""
        self._state = ReloadState(
            pid=os.getpid(),
            begun=0,
            ended=0,
            generation=1,
            problems=(),
            changes=(),
            key=self._key.hex(),
            serving=serving,
        )
        self._write()

    def begin(self) -> None:
        """Note that a reload begins."""
        if self._state is not None:
            self._state = replace(self._state, begun=self._state.begun + 1)
            self._write()

    def end(
        self,
        generation: int,
        problems: Sequence[str],
        changes: Sequence[ConfigChange],
        serving: Fingerprints,
    ) -> None:
        """Note that it has ended, and which configuration serves now."""
        if self._state is not None:
            self._state = replace(
                self._state,
                ended=self._state.begun,
                generation=generation,
                problems=tuple(problems),
                changes=tuple(map(str, changes)),
                serving=serving,
            )
            self._write()

    def _write(self) -> None:
        if self._pidfile is not None and self._state is not None:
            # Without the file, only `gateway reload` doesn't know the outcome.
            with contextlib.suppress(OSError):
                write(self._pidfile.path, self._state)


def write(pidfile: Path, state: ReloadState) -> None:
    """Replace the file with *state*. Readers see the old or the new one.

    Raises:
        OSError: it can't be written.
    """
    path = state_path(pidfile)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    new = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(state), file)
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def read(pidfile: Path, pid: int) -> ReloadState:
    """Return the state of the gateway with process id *pid*.

    Raises:
        PidFileError: there is none that can be used.
    """
    path = state_path(pidfile)
    try:
        with path.open("rb") as file:
            state = _parsed(json.loads(file.read(_MAX_BYTES)))
    except OSError as error:
        raise PidFileError(
            f"the gateway's state {path} can't be read: {error.strerror}"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise PidFileError(f"{path} isn't a gateway's state") from None
    if state.pid != pid:
        raise PidFileError(f"{path} is of process {state.pid}, not of {pid}")
    return state


def _parsed(value: Any) -> ReloadState:
    return ReloadState(
        pid=int(value["pid"]),
        begun=int(value["begun"]),
        ended=int(value["ended"]),
        generation=int(value["generation"]),
        problems=tuple(map(str, value["problems"])),
        changes=tuple(map(str, value["changes"])),
        key=str(value["key"]),
        serving=tuple(
            {name: dict(item) for name, item in part.items()}
            for part in value["serving"]
        ),
    )
