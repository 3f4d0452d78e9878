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
from gateway.cli.loading import doubts, load, read, say_problem
from gateway.cli.loop import run
from gateway.cli.options import chosen_listen, config_option, log_option
from gateway.cli.terminal import fail
from gateway.events import RuntimeEvent, Severity

if TYPE_CHECKING:
    from gateway.observe import RuntimeLog
    from gateway.process.config_files import ConfigFiles
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
    help="Overrides gateway.listen: host:port or unix:/path, for plain HTTP. The"
    " variable doesn't override addresses with TLS.",
)
@click.option(
    "--probes-listen",
    metavar="HOST:PORT",
    envvar="GATEWAY_PROBES_LISTEN",
    show_envvar=True,
    help="Overrides gateway.probes.listen.",
)
@click.option(
    "--admin-listen",
    metavar="ADDRESS",
    envvar="GATEWAY_ADMIN_LISTEN",
    show_envvar=True,
    help="Overrides gateway.admin.listen: unix:/path or a loopback host:port.",
)
@click.option(
    "--pidfile",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    envvar="GATEWAY_PIDFILE",
    show_envvar=True,
    help="Overrides gateway.pidfile: where to write the process id.",
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
    "--watch",
    "is_watched",
    is_flag=True,
    help="Read the configuration again when one of its files changes, looked at every"
    " 5 s or at gateway.watch.interval.",
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
    log_format: str | None,
    listen: str | None,
    probes_listen: str | None,
    admin_listen: str | None,
    pidfile: Path | None,
    workers: int | None,
    outbox: Path | None,
    *,
    is_watched: bool,
) -> None:
    """Run the gateway with the core that the file names.

    On SIGTERM or Ctrl-C, requests in flight are finished before it exits; on a
    second one, it exits at once. On SIGHUP, it reads the file again. On SIGUSR2, it
    starts a gateway in its place, as it is installed now.
    """
    # Objects allocated at start are kept, and collections would take a sixth of the
    # start's time.
    gc.disable()
    click.get_current_context().call_on_close(gc.enable)
    from gateway.assertions import BadAssertionKeys
    from gateway.observe import STRUCTURED, RuntimeLog
    from gateway.process.config_files import ConfigFiles
    from gateway.process.cpus import usable_cpus
    from gateway.process.holding import Overrides
    from gateway.process.inheriting import NotHandedOver
    from gateway.process.pidfile import PidFileError
    from gateway.process.sockets import ListenError
    from gateway.process.supervisor import supervise
    from gateway.seams.library import LibraryChanged
    from gateway.tls import BadTls

    # The problems of a file are printed for people unless JSON or ECS is asked for.
    refusals = RuntimeLog(log_format) if log_format in STRUCTURED else None
    files = ConfigFiles(is_forced=is_watched)
    settings = files.load(lambda: load(config_paths, is_to_serve=True, log=refusals))
    log_format = log_format or settings.config.log.format
    log = RuntimeLog(log_format, least=Severity(settings.config.log.level))

    def warn(text: str) -> None:
        log.say(RuntimeEvent.CONFIG_WARNING, text)

    if files.doubt is not None:
        warn(files.doubt)
    warn_of_embedded_core(settings.config.supertokens, warn)
    count = workers or usable_cpus()

    def ready(url: str, probes: str | None) -> None:
        suffix = f", {count} workers" if count > 1 else ""
        more = f"{suffix}, probes on {probes}" if probes else suffix
        log.say(
            RuntimeEvent.READY,
            f"gateway {__version__} on {url}, routes from {settings.path}{more}",
            generation=1,
            url=url,
            probes=probes,
            file=settings.path,
            version=__version__,
            workers=count,
        )

    def read_again() -> Settings:
        again = files.load(lambda: read(config_paths, is_to_serve=True))
        _warn(again, log)
        _run_tests(again, config_paths, files, log)
        if files.doubt is not None:
            warn(files.doubt)
        return again

    email: EmailSender | None = None
    if outbox is not None:
        from gateway.dev.outbox import Outbox

        warn(
            f"mails are written to {outbox}, not sent, and their links to standard"
            " error. For development only"
        )
        # As a log message, since the workers must not block on standard error.
        email = Outbox(outbox, logging.getLogger("gateway.outbox").warning)

    try:
        _warn(settings, log)
        code = supervise(
            settings,
            workers=count,
            log_format=log_format,
            overrides=Overrides(
                listen=chosen_listen(listen, settings.config.gateway),
                probes=probes_listen,
                admin=admin_listen,
                pidfile=None if pidfile is None else pidfile.absolute(),
            ),
            run=run,
            load=read_again,
            watch=files.watch,
            say=log.say,
            write_from=log.write_from,
            on_ready=ready,
            email=email,
        )
    except (
        *(BadAssertionKeys, BadTls, LibraryChanged, ListenError),
        *(NotHandedOver, PidFileError),
    ) as error:
        if log_format not in STRUCTURED:
            fail(str(error))
        log.say(RuntimeEvent.START_REFUSED, str(error))
        sys.exit(1)
    else:
        sys.exit(code)


def _run_tests(
    settings: Settings, paths: tuple[Path, ...], files: ConfigFiles, log: RuntimeLog
) -> None:
    """Run the tests in the file; log their failures if these only warn.

    Raises:
        ConfigError: a test fails, and the file says that this refuses a reload.
    """
    from gateway.cli import reload_tests
    from gateway.settings import ConfigError

    problems = reload_tests.failures(settings, paths)
    tests = settings.config.tests
    if tests is None or tests.on_reload == "off":
        return
    if files.have_changed():
        raise ConfigError([reload_tests.changed(settings)])
    if problems and tests.on_reload == "refuse":
        raise ConfigError(problems)
    for problem in problems:
        say_problem(log, RuntimeEvent.CONFIG_WARNING, problem)


def _warn(settings: Settings, log: RuntimeLog) -> None:
    """Print the warnings about a file, as `gateway check` does.

    Raises:
        LibraryChanged: a library isn't as the gateway needs it.
    """
    from gateway import supertokens

    supertokens.check_library()
    for warning in doubts(settings):
        say_problem(log, RuntimeEvent.CONFIG_WARNING, warning)
