"""edge. The gateway that a pidfile names, for the commands that act on it."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gateway.cli.loading import load
from gateway.cli.terminal import fail

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.process.pidfile import RunningGateway

NOT_RUNNING: Final = 3
"""The exit code that says so, as of the init scripts of the Linux Standard Base."""
_PAUSE_S: Final = 0.05
"""Between two looks at a pidfile."""

pidfile_option = click.option(
    "--pidfile",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    envvar="GATEWAY_PIDFILE",
    show_envvar=True,
    help="The gateway's pidfile. The configuration file isn't read then. Default:"
    " gateway.pidfile in that file.",
)


def wait_option(help_text: str) -> Callable[[Any], Any]:
    """Return the option `--wait SECONDS`, None by default."""
    return click.option(
        "--wait", type=click.FloatRange(0.0), metavar="SECONDS", help=help_text
    )


def pidfile_of(paths: tuple[Path, ...]) -> Path:
    """Return `gateway.pidfile` of the file at *paths*, or exit with 1."""
    path = load(paths).config.gateway.pidfile
    if path is None:
        fail("the file has no gateway.pidfile: set it, or use --pidfile")
    return Path(path)


def look(path: Path) -> RunningGateway | None:
    """Return the gateway that holds the pidfile at *path*, or exit with 1."""
    from gateway.process.pidfile import PidFileError, running

    try:
        return running(path)
    except PidFileError as error:
        fail(str(error))


def signal_it(path: Path, number: signal.Signals) -> RunningGateway:
    """Send a signal to the gateway that holds the pidfile at *path*; return it.

    Exit with 3 if none does, and with 1 if the signal may not be sent.
    """
    from gateway.process.pidfile import PidFileError, send

    try:
        gateway = look(path)
        if gateway is not None and send(gateway, path, number):
            return gateway
    except PidFileError as error:
        fail(str(error))
    click.echo(f"not running: no gateway holds {path}", err=True)
    sys.exit(NOT_RUNNING)


def until(condition: Callable[[], bool], wait_s: float) -> bool:
    """Return whether *condition* was met within *wait_s* seconds."""
    ends = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() >= ends:
            return False
        time.sleep(_PAUSE_S)
    return True
