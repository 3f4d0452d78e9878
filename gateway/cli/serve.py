"""edge. `gateway serve`: runs the gateway in production."""

from __future__ import annotations

import gc
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway import __version__
from gateway.cli.embedded import warn_of_embedded_core
from gateway.cli.loading import doubts, load, read
from gateway.cli.loop import run
from gateway.cli.options import config_option, log_option
from gateway.cli.terminal import announce, fail

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.supertokens.delivery import EmailSender

_MAX_WORKERS = 512


@click.command()
@config_option
@log_option
@click.option(
    "--listen",
    metavar="ADDRESS",
    envvar="GATEWAY_LISTEN",
    show_envvar=True,
    help="Overrides gateway.listen: host:port or unix:/path, for plain HTTP.",
)
@click.option(
    "--probes-listen",
    metavar="HOST:PORT",
    envvar="GATEWAY_PROBES_LISTEN",
    show_envvar=True,
    help="Overrides gateway.probes.listen.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, _MAX_WORKERS),
    metavar="N",
    envvar="GATEWAY_WORKERS",
    show_envvar=True,
    help="Number of worker processes. Default: one for each usable CPU.",
)
@click.option(
    "--outbox",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="For development: write mails and text messages to files in DIR instead of"
    " sending them, and their links to standard error. Anyone who reads these can sign"
    " in.",
)
def serve(
    config_paths: tuple[Path, ...],
    log_format: str,
    listen: str | None,
    probes_listen: str | None,
    workers: int | None,
    outbox: Path | None,
) -> None:
    """Run the gateway with the core that the file names.

    On SIGTERM or Ctrl-C, requests in flight are finished before it exits; on a
    second one, it exits at once. On SIGHUP, it reads the file again.
    """
    # Objects allocated at start are kept, and collections would take a sixth of the
    # start's time.
    gc.disable()
    click.get_current_context().call_on_close(gc.enable)
    from gateway.process.cpus import usable_cpus
    from gateway.process.sockets import ListenError
    from gateway.process.supervisor import supervise
    from gateway.seams.library import LibraryChanged
    from gateway.tls import BadTls

    settings = load(config_paths, is_to_serve=True)
    warn_of_embedded_core(settings.config.supertokens)
    count = workers or usable_cpus()
    suffix = f", {count} workers" if count > 1 else ""

    def ready(url: str, probes: str | None) -> None:
        more = f"{suffix}, probes on {probes}" if probes else suffix
        announce(f"gateway {__version__} on {url}, routes from {settings.path}{more}")

    def read_again() -> Settings:
        again = read(config_paths, is_to_serve=True)
        _warn(again)
        return again

    email: EmailSender | None = None
    if outbox is not None:
        from gateway.dev.outbox import Outbox

        announce(
            f"warning: mails are written to {outbox}, not sent, and their links to"
            " standard error. For development only",
            colour="yellow",
        )
        # As a log message, since the workers must not block on standard error.
        email = Outbox(outbox, logging.getLogger("gateway.outbox").warning)

    try:
        _warn(settings)
        code = supervise(
            settings,
            workers=count,
            log_format=log_format,
            listen=listen,
            probes=probes_listen,
            run=run,
            load=read_again,
            say=announce,
            on_ready=ready,
            email=email,
        )
    except (BadTls, LibraryChanged, ListenError) as error:
        fail(str(error))
    else:
        sys.exit(code)


def _warn(settings: Settings) -> None:
    """Print the warnings about a file, as `gateway check` does.

    Raises:
        LibraryChanged: a library isn't as the gateway needs it.
    """
    from gateway import supertokens

    supertokens.check_library()
    for warning in doubts(settings):
        announce(f"warning: {warning}", colour="yellow")
