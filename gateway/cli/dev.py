"""edge. `gateway dev`: runs a core, demo services and the gateway."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from gateway.cli.core_options import core_options
from gateway.cli.loop import run
from gateway.cli.options import config_option, log_option


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

    For development only. Data is kept in .gateway/. A changed file is loaded. Ctrl-C
    stops everything. The options from --access-token-validity on are those of `gateway
    core`.
    """
    from gateway.dev import gateway_process, runner

    options = () if log_format is None else ("--log-format", log_format)
    serve = partial(gateway_process.serve, options=options)
    sys.exit(
        run(runner.run(config_paths, os.environ, serve, core_settings=core_settings))
    )
