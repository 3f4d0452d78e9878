"""edge. `gateway stop`: ends a running gateway."""

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
@wait_option("Wait until it has ended, at most so long. Default: don't wait.")
def stop(
    config_paths: tuple[Path, ...], pidfile: Path | None, wait: float | None
) -> None:
    """Have a running gateway finish its requests and exit, as SIGTERM does.

    It exits with 0 if the gateway has the signal and, with --wait, has ended; with 1 if
    it hasn't ended in time; with 3 if none runs.
    """
    path = pidfile or pidfile_of(config_paths)
    gateway = signal_it(path, signal.SIGTERM)
    if wait is None:
        click.echo(f"stopping: pid {gateway.pid}")
    elif until(lambda: look(path) != gateway, wait):
        click.echo(f"stopped: pid {gateway.pid}")
    else:
        click.echo(f"still stopping after {wait:g} s: pid {gateway.pid}", err=True)
        sys.exit(1)
