"""edge. `gateway reload`: has a running gateway read its file again."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.loading import load, refuse
from gateway.cli.options import config_option
from gateway.cli.running import (
    NOT_RUNNING,
    look,
    pidfile_of,
    pidfile_option,
    signal_it,
    until,
    wait_option,
)
from gateway.cli.terminal import fail

if TYPE_CHECKING:
    from gateway.process.pidfile import RunningGateway
    from gateway.process.reload_state import ReloadState


@click.command()
@config_option
@pidfile_option
@wait_option("Wait for the outcome, at most so long. Default: don't wait.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check the file, and print what a reload would change. Nothing is changed.",
)
def reload(
    config_paths: tuple[Path, ...],
    pidfile: Path | None,
    wait: float | None,
    *,
    dry_run: bool,
) -> None:
    """Have a running gateway read its file again, as SIGHUP does.

    It exits with 0 if the gateway has the signal and, with --wait, serves the new
    configuration; with 1 if that is refused, or isn't served in time; with 3 if no
    gateway runs.
    """
    if dry_run:
        settings = load(config_paths, is_to_serve=True)
        if (tests := settings.config.tests) and tests.on_reload == "refuse":
            from gateway.cli.failing import failed_tests

            if failed := failed_tests(settings):
                refuse(config_paths, failed)
        path = pidfile or pidfile_of(config_paths)
        gateway = look(path)
        if gateway is None:
            click.echo(f"not running: no gateway holds {path}", err=True)
            sys.exit(NOT_RUNNING)
        from gateway.config.diff import changes, fingerprints

        state = _state(path, gateway)
        new = fingerprints(settings.config, bytes.fromhex(state.key))
        _echo([str(change) for change in changes(state.serving, new)])
        return
    path = pidfile or pidfile_of(config_paths)
    before = None
    if wait is not None and (gateway := look(path)) is not None:
        before = _state(path, gateway).begun
    gateway = signal_it(path, signal.SIGHUP)
    if wait is None or before is None:
        click.echo(f"reloading: pid {gateway.pid}")
        return
    _await(path, gateway, before, wait)


def _await(path: Path, gateway: RunningGateway, before: int, wait_s: float) -> None:
    """Print the outcome of the first reload after number *before*; exit with 1 if
    it isn't good, or hasn't come in *wait_s*."""

    def is_over() -> bool:
        return look(path) != gateway or _state(path, gateway).ended > before

    if not until(is_over, wait_s):
        fail(f"still reloading after {wait_s:g} s: pid {gateway.pid}")
    if look(path) != gateway:
        fail(f"the gateway has ended: pid {gateway.pid}")
    state = _state(path, gateway)
    if state.problems:
        for problem in state.problems:
            click.echo(problem, err=True)
        fail("not reloaded: the old configuration stays in use")
    click.echo(f"reloaded: pid {gateway.pid}, generation {state.generation}")
    _echo(state.changes)


def _echo(changes: list[str] | tuple[str, ...]) -> None:
    for change in changes or ("nothing has changed",):
        click.echo(change)


def _state(path: Path, gateway: RunningGateway) -> ReloadState:
    from gateway.process.pidfile import PidFileError
    from gateway.process.reload_state import read

    try:
        return read(path, gateway.pid)
    except PidFileError as error:
        fail(str(error))
