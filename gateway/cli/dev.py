"""edge. `gateway dev`: runs a core, demo services and the gateway."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.core_options import core_options
from gateway.cli.embedded import warn_of_embedded_core
from gateway.cli.loading import load
from gateway.cli.loop import run
from gateway.cli.options import config_option, log_option
from gateway.cli.terminal import announce, fail

if TYPE_CHECKING:
    from asyncio import Event

    from gateway.supertokens.delivery import EmailSender


@click.command()
@config_option
@log_option
@core_options
def dev(
    config_paths: tuple[Path, ...],
    log_format: str | None,
    core_settings: Mapping[str, Any],
) -> None:
    """Run a core, demo services and the gateway on this machine.

    For development only. Data is kept in .gateway/. Ctrl-C stops everything. The
    options from --access-token-validity on are those of `gateway core`.
    """
    import asyncio

    from gateway.app import BadService
    from gateway.dev import runner
    from gateway.process.serve import serve_until_cancelled
    from gateway.process.sockets import ListenError
    from gateway.seams.library import LibraryChanged
    from gateway.supertokens import RecipeError
    from gateway.tls import BadTls

    async def serve_gateway(
        config: Sequence[Path],
        environ: Mapping[str, str],
        *,
        outbox: EmailSender,
        ready: Event,
    ) -> None:
        settings = load(config, environ)
        await asyncio.to_thread(
            warn_of_embedded_core,
            settings.config.supertokens,
            lambda text: announce(text, colour="yellow"),
        )
        await serve_until_cancelled(
            settings,
            log_format=log_format or settings.config.log.format,
            on_ready=lambda _url: ready.set(),
            email=outbox,
        )

    try:
        code = run(
            runner.run(
                config_paths, os.environ, serve_gateway, core_settings=core_settings
            )
        )
    except (BadService, BadTls, LibraryChanged, ListenError, RecipeError) as error:
        fail(str(error))
    else:
        sys.exit(code)
