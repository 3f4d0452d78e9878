"""edge. The `gateway` command: what a person types, and what they read back.

Heavy imports (the SDK takes half a second) stand where they are needed.
Exit codes: 0 done, 1 a problem that is explained, 2 a wrong command line.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from gateway import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from gateway.sdk.delivery import EmailSender
    from gateway.settings import Settings

_DEFAULT_CONFIG = "config/routes.yaml"
_MAX_WORKERS = 512
_UNBOUNDED = 10_000
"""Columns, for output that no terminal shows."""

_T = TypeVar("_T")

_config_option = click.option(
    "-c",
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=_DEFAULT_CONFIG,
    show_default=True,
    envvar="GATEWAY_CONFIG",
    show_envvar=True,
    help="The route table.",
)
_log_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json", "none"]),
    default="text",
    show_default=True,
    envvar="GATEWAY_LOG_FORMAT",
    show_envvar=True,
    help="How the access log is written to standard output.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gateway")
def main() -> None:
    """A reverse proxy that verifies SuperTokens sessions.

    It reads a route table, checks the session on protected routes, and sends
    requests on with the user's identity in headers. `gateway dev` shows it all
    on this machine; `gateway serve` is for production.
    """
    _open_closed_streams()


def _open_closed_streams() -> None:
    """Put the null device where the caller closed a standard stream (`>&-`).

    Otherwise a socket would get the stream's number: what is printed would go to a
    client, and uvloop aborts when it closes it. In this order each gets its own.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _announce(text: str, colour: str | None = None) -> None:
    """Say on standard error what a server goes on without, if it can't be said.

    Not through rich, which ends the process when the reader has gone.
    """
    try:
        click.secho(text, fg=colour, err=True)
    except OSError:
        # What it still holds would make the process end with an error.
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def _console(*, stderr: bool = False) -> Console:
    """Return what writes tables, and colours where a terminal shows them."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run *work* on uvloop where there is one; return its result."""
    try:
        import uvloop
    except ImportError:  # pragma: no cover - Windows only
        return asyncio.run(work)
    return uvloop.run(work)


def _read(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings.

    Raises:
        ConfigError: with every problem.
    """
    from gateway import sdk
    from gateway.settings import ConfigError, load

    settings = load(path, environ)
    # What only the SDK's side knows, before it is started.
    found = sdk.check(settings.config.supertokens.recipes)
    problems = settings.problems(found)
    if problems:
        raise ConfigError(problems)
    return settings


def _load(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings, or print every problem and exit with 1."""
    from gateway.settings import ConfigError

    try:
        return _read(path, environ)
    except ConfigError as error:
        problems = error.problems
    err = _console(stderr=True)
    for problem in problems:
        err.print(str(problem), markup=False, style="red")
    count = len(problems)
    err.print(f"{count} problem{'s' if count != 1 else ''} in {path}")
    sys.exit(1)


@main.command()
@_config_option
@_log_option
@click.option("--listen", metavar="HOST:PORT", help="Overrides gateway.listen.")
@click.option(
    "--workers",
    type=click.IntRange(1, _MAX_WORKERS),
    metavar="N",
    envvar="GATEWAY_WORKERS",
    show_envvar=True,
    help="Processes that serve. Default: one for each CPU that may be used.",
)
def serve(
    config_path: Path, log_format: str, listen: str | None, workers: int | None
) -> None:
    """Run the gateway against the core that the file names.

    SIGTERM or Ctrl-C lets requests in flight finish; a second one ends at once.
    SIGHUP reads the file again.
    """
    # What the start makes, stays: a sixth of its time would go into looking at it.
    gc.disable()
    click.get_current_context().call_on_close(gc.enable)
    from gateway.server import ListenError
    from gateway.workers import supervise, usable_cpus

    settings = _load(config_path)
    count = workers or usable_cpus()
    crew = f", {count} workers" if count > 1 else ""

    def ready(url: str) -> None:
        _announce(f"gateway {__version__} on {url}, routes from {config_path}{crew}")

    try:
        code = supervise(
            settings,
            workers=count,
            log_format=log_format,
            listen=listen,
            run=_run,
            load=lambda: _read(config_path),
            say=_announce,
            on_ready=ready,
        )
    except ListenError as error:
        _fail(str(error))
    else:
        sys.exit(code)


@main.command()
@_config_option
def check(config_path: Path) -> None:
    """Validate the route table: every problem with its place and remedy.

    Exits with 0 when it can be served, and with 1 when it can't.
    """
    settings = _load(config_path)
    err = _console(stderr=True)
    for warning in settings.warnings:
        err.print(f"warning: {warning}", markup=False, style="yellow")
    _console().print(f"{config_path}: {len(settings.table.routes)} routes, no problem")


@main.command()
@_config_option
def routes(config_path: Path) -> None:
    """Print the routes in the order in which they are tried.

    A note says what may not be meant: a route that asks for less than the one around
    it, or a guard that another spelling of its path could pass.
    """
    from rich.markup import escape
    from rich.table import Table

    from gateway.routes import Row, rows

    shown = Table()
    for title in ("#", *Row._fields[1:]):
        shown.add_column(title, overflow="fold")
    for row in rows(_load(config_path).table):
        shown.add_row(*map(escape, map(str, row)))
    out = _console()
    if not out.is_terminal:
        out.width = _UNBOUNDED  # nothing is folded where there's no edge
    out.print(shown)


@main.command()
def schema() -> None:
    """Print the JSON schema of the route table, for editors."""
    import json

    from gateway.config import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=3567, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--database",
    default=".gateway/core.sqlite",
    show_default=True,
    help="SQLite file, or :memory:",
)
@click.option("--api-key", multiple=True, envvar="CORE_API_KEY", help="Repeatable.")
@click.option("--unsafe-bind", is_flag=True, help="Allow an address beyond loopback.")
def core(
    host: str, port: int, database: str, api_key: tuple[str, ...], unsafe_bind: bool
) -> None:
    """Run the embedded core alone. For development and tests only.

    It speaks the SuperTokens core's protocol, keeps everything in one SQLite file
    and is no replacement for the real core.
    """
    from gateway.dev import core as embedded

    path: str | Path = database if database == ":memory:" else Path(database)

    def ready(running: embedded.RunningCore) -> None:
        _announce(embedded.NOTICE, colour="yellow")
        _announce(f"core on {running.url}, data in {database}")

    async def work() -> None:
        from gateway.server import stop_signal

        stopped = stop_signal(force=lambda: os._exit(130))
        settings = embedded.CoreSettings(database=path, api_keys=api_key)
        async with embedded.serve(
            settings, host=host, port=port, unsafe_bind=unsafe_bind
        ) as running:
            ready(running)
            await stopped.wait()

    try:
        _run(work())
    except (embedded.UnsafeBind, embedded.StoreError, embedded.BadSettings) as error:
        _fail(str(error))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            _fail(
                f"port {port} is in use on {host}: stop what listens there,"
                " or choose another port with --port"
            )
        # asyncio's own text would name the address once more.
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror
        _fail(f"can't listen on {host}:{port}: {why}")


@main.command()
@_config_option
@_log_option
def dev(config_path: Path, log_format: str) -> None:
    """Run all of it on this machine: core, demo services and gateway.

    For development only. What it keeps stands in .gateway/; Ctrl-C stops it all.
    """
    from gateway.app import BadService
    from gateway.dev import runner
    from gateway.sdk import RecipeError
    from gateway.server import ListenError, serve_until_cancelled

    async def serve_gateway(
        config: Path,
        environ: Mapping[str, str],
        *,
        outbox: EmailSender,
        ready: asyncio.Event,
    ) -> None:
        await serve_until_cancelled(
            _load(config, environ),
            log_format=log_format,
            on_ready=lambda _url: ready.set(),
            email=outbox,
        )

    try:
        code = _run(runner.run(config_path, os.environ, serve_gateway))
    except (BadService, ListenError, RecipeError) as error:
        _fail(str(error))
    else:
        sys.exit(code)


def _fail(text: str) -> NoReturn:
    _console(stderr=True).print(text, markup=False, style="red")
    sys.exit(1)
