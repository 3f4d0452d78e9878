"""edge. `gateway core`: runs the embedded core, for development."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from gateway.cli.core_options import core_options
from gateway.cli.loop import run
from gateway.cli.terminal import announce, fail


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
)
@click.option(
    "--port",
    default=3567,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--database",
    default=".gateway/core.sqlite",
    show_default=True,
    help="SQLite file, or :memory:",
)
@click.option(
    "--api-key",
    multiple=True,
    envvar="CORE_API_KEY",
    help="API key that the core accepts. Repeatable.",
)
@core_options
@click.option("--unsafe-bind", is_flag=True, help="Allow an address beyond loopback.")
def core(
    host: str,
    port: int,
    database: str,
    api_key: tuple[str, ...],
    core_settings: Mapping[str, Any],
    unsafe_bind: bool,
) -> None:
    """Run the embedded core alone. For development and tests only.

    It implements the SuperTokens core's protocol and keeps its data in one SQLite
    file. It doesn't replace the real core. Options that the real core has as settings
    have its names and units.
    """
    from gateway.dev import core as embedded

    path: str | Path = database if database == ":memory:" else Path(database)

    def ready(running: embedded.RunningCore) -> None:
        announce(embedded.NOTICE, colour="yellow")
        announce(f"core on {running.url}, data in {database}")

    async def work() -> None:
        from gateway.process.signals import stop_signal

        stopped = stop_signal(force=lambda: os._exit(130))
        settings = embedded.CoreSettings(
            database=path, api_keys=api_key, **core_settings
        )
        async with embedded.serve(
            settings, host=host, port=port, unsafe_bind=unsafe_bind
        ) as running:
            ready(running)
            await stopped.wait()

    try:
        run(work())
    except (embedded.UnsafeBind, embedded.StoreError, embedded.BadSettings) as error:
        fail(str(error))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            fail(
                f"port {port} is in use on {host}: stop what listens there,"
                " or choose another port with --port"
            )
        # The text of asyncio's error has the address, which the message has already.
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror
        fail(f"can't listen on {host}:{port}: {why}")
