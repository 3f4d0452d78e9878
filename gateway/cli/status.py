"""edge. `gateway status`: which gateway runs, since when, and whether it is ready."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.asking import CannotAsk, ProbeAnswer, ask, local
from gateway.cli.loading import load
from gateway.cli.options import config_option
from gateway.cli.running import NOT_RUNNING, look, pidfile_of, pidfile_option

if TYPE_CHECKING:
    from gateway.process.pidfile import RunningGateway


@click.command()
@config_option
@pidfile_option
@click.option(
    "--url",
    metavar="URL",
    help="Where it answers probes, such as http://127.0.0.1:9902. Default:"
    " GATEWAY_PROBES_LISTEN, or gateway.probes.listen in the file.",
)
@click.option(
    "--probes-listen", envvar="GATEWAY_PROBES_LISTEN", hidden=True, default=None
)
@click.option("--json", "is_json", is_flag=True, help="Print an object, not a line.")
def status(
    config_paths: tuple[Path, ...],
    pidfile: Path | None,
    url: str | None,
    probes_listen: str | None,
    *,
    is_json: bool,
) -> None:
    """Print which gateway runs, for how long, and how it is.

    It exits with 0 if the gateway is ready, or runs and has no probes; with 1 if it
    isn't ready or doesn't answer; with 3 if none runs.
    """
    path = pidfile or pidfile_of(config_paths)
    if url is None:
        listen = probes_listen
        if listen is None and pidfile is None:
            listen = load(config_paths).config.gateway.probes.listen
        url = None if listen is None else local(listen)
    gateway = look(path)
    health = None if gateway is None or url is None else _health(url)
    click.echo(_object(gateway, health) if is_json else _line(gateway, health))
    if gateway is None:
        sys.exit(NOT_RUNNING)
    sys.exit(health is not None and not health.is_good)


def _health(url: str) -> ProbeAnswer:
    try:
        return ask(url, "/readyz")
    except CannotAsk as error:
        return ProbeAnswer(is_good=False, line=str(error))


def _word(gateway: RunningGateway | None, health: ProbeAnswer | None) -> str:
    if gateway is None:
        return "not running"
    if health is None:
        return "running"
    return "ready" if health.is_good else "not ready"


def _line(gateway: RunningGateway | None, health: ProbeAnswer | None) -> str:
    line = _word(gateway, health)
    if gateway is not None:
        line = f"{line}: pid {gateway.pid}, up {_spelled(_uptime_s(gateway))}"
    return line if health is None else f"{line}; {health.line}"


def _object(gateway: RunningGateway | None, health: ProbeAnswer | None) -> str:
    return json.dumps(
        {
            "status": _word(gateway, health).replace(" ", "_"),
            "pid": None if gateway is None else gateway.pid,
            "uptime_seconds": None if gateway is None else _uptime_s(gateway),
            "health": None if health is None else health.line,
        }
    )


def _uptime_s(gateway: RunningGateway) -> int:
    return max(0, int(time.time() - gateway.since))


def _spelled(seconds: int) -> str:
    """Return a duration with its two largest units."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
