"""edge. `gateway upgrade`: replaces a running gateway without a pause."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from gateway.cli.options import config_option
from gateway.cli.running import (
    look,
    pidfile_of,
    pidfile_option,
    signal_it,
    until,
    wait_option,
)


@click.command()
@config_option
@pidfile_option
@wait_option("Wait until the new one serves, at most so long. Default: don't wait.")
def upgrade(
    config_paths: tuple[Path, ...], pidfile: Path | None, wait: float | None
) -> None:
    """Have a running gateway start another one in its place, as SIGUSR2 does.

    The new one runs the program as it is now installed, reads the file, and uses the
    same sockets. It exits with 0 if the gateway has the signal and, with --wait, if the
    new one serves; with 1 if it doesn't in time; with 3 if none runs.
    """
    path = pidfile or pidfile_of(config_paths)
    before = signal_it(path, signal.SIGUSR2)
    if wait is None:
        click.echo(f"upgrading: pid {before.pid}")
        return
    until(lambda: look(path) != before, wait)
    now = look(path)
    if now is None or now.pid == before.pid:
        click.echo(
            f"not upgraded after {wait:g} s: pid {before.pid}. Its standard error says"
            " why",
            err=True,
        )
        sys.exit(1)
    click.echo(f"upgraded: pid {now.pid}")
