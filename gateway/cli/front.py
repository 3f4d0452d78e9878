"""edge. `gateway front`: prints a configuration for a proxy that asks the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from gateway.cli.loading import load
from gateway.cli.options import config_option
from gateway.cli.terminal import fail

if TYPE_CHECKING:
    from gateway.config import ListenAddress

PROGRAMS: Final = ("nginx", "caddy", "traefik", "envoy", "haproxy", "haproxy-lua")
"""The keys of `gateway.fronts.generated.FRONTS`, which is slow to import."""


def _place(
    _ctx: click.Context, _param: click.Parameter, text: str | None
) -> ListenAddress | None:
    """Return the address that an option names."""
    from gateway.config import listen_address

    try:
        return None if text is None else listen_address(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("program", type=click.Choice(PROGRAMS))
@config_option
@click.option(
    "--decision",
    metavar="ADDR",
    callback=_place,
    help="Where the program reaches gateway.decision, if that isn't its address in the"
    " file: host:port or unix:/path.",
)
@click.option(
    "--listen",
    metavar="ADDR",
    callback=_place,
    default="0.0.0.0:8080",  # printed, not listened on
    show_default=True,
    help="Where the program listens.",
)
def front(
    program: str,
    config_paths: tuple[Path, ...],
    decision: ListenAddress | None,
    listen: ListenAddress,
) -> None:
    """Print a configuration for a proxy that asks the gateway about each request.

    It is complete for this route table: the services, the identity fields that are set
    and removed, and the paths that the gateway answers itself. HAProxy needs two files:
    haproxy and haproxy-lua. See docs/fronts.md.
    """
    from gateway.fronts.generated import FRONTS, NoFront, front_plan

    settings = load(config_paths)
    endpoint, write = FRONTS[program]
    try:
        plan = front_plan(
            settings.config,
            settings.table,
            program,
            endpoint,
            listen=listen,
            decision=decision,
        )
        text = write(plan)
    except NoFront as error:
        fail(str(error))
    click.echo(text, nl=False)
