"""edge. Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from gateway.config import GatewayConfig

_DEFAULT_CONFIG: Final = "config/routes.yaml"

config_option = click.option(
    "-c",
    "--config",
    "config_paths",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    multiple=True,
    default=(_DEFAULT_CONFIG,),
    show_default=True,
    envvar="GATEWAY_CONFIG",
    show_envvar=True,
    help="File with the route table; - is standard input. Repeatable: later files"
    " override earlier ones.",
)
log_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json", "ecs", "none"]),
    envvar="GATEWAY_LOG_FORMAT",
    show_envvar=True,
    help="Form of the access log on standard output, and of messages on standard error."
    " Overrides log.format; the default is text.",
)


def chosen_listen(listen: str | None, config: GatewayConfig) -> str | None:
    """Return the address that replaces `gateway.listen`; None: the file's are used.

    *listen* is the value of `--listen`. From GATEWAY_LISTEN, it doesn't replace
    addresses with TLS: the image sets it, and would serve in clear what the file
    encrypts.
    """
    source = click.get_current_context().get_parameter_source("listen")
    is_replaceable = source is not ParameterSource.ENVIRONMENT or not any(
        each.tls for each in config.listen
    )
    return listen if is_replaceable else None
