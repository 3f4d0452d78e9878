"""edge. `gateway doctor`: whether what is around the gateway is as it needs it."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from gateway.cli.loading import read
from gateway.cli.loop import run
from gateway.cli.options import chosen_listen, config_option
from gateway.cli.terminal import console

if TYPE_CHECKING:
    from gateway.config import ListenConfig
    from gateway.doctor.diagnosis import Diagnosis
    from gateway.doctor.limits import ListenFacts, MachineFacts
    from gateway.routes import Service
    from gateway.settings import Problem, Settings
    from gateway.supertokens import Sdk

_STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 600, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long each question to a peer may take. All are asked at the same time.",
)
@click.option(
    "--stop-timeout",
    "stop_timeout_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long whatever stops the gateway waits before it kills it.",
)
@click.option(
    "--listen", envvar="GATEWAY_LISTEN", metavar="ADDRESS", help="As serve's."
)
@click.option(
    "--probes-listen",
    envvar="GATEWAY_PROBES_LISTEN",
    metavar="HOST:PORT",
    help="As serve's.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    envvar="GATEWAY_WORKERS",
    metavar="N",
    help="As serve's.",
)
def doctor(
    config_paths: tuple[Path, ...],
    listen: str | None,
    probes_listen: str | None,
    workers: int | None,
    *,
    as_json: bool,
    timeout_s: float,
    stop_timeout_s: float | None,
) -> None:
    """Examine what the gateway needs: file, core, services, mail, limits.

    Run it where the gateway runs, with its environment. It changes nothing, and prints
    no secret. Exits with 1 if something fails, and with 0 otherwise.
    """
    found, settings = _file(config_paths)
    if settings is not None:
        sdk_found, sdk = _started(settings)
        found += sdk_found
        found += _machine(settings, workers, stop_timeout_s)
        own = chosen_listen(listen, settings.config.gateway)
        found += _listens(settings, own, probes_listen)
        if sdk is not None:
            found += _origins(settings, sdk)
            found += _ask(settings, sdk, timeout_s, is_quiet=as_json)
    _print(found, as_json=as_json)
    sys.exit(any(each.severity == "fail" for each in found))


# --- the file and what it names ---


def _file(paths: Sequence[Path]) -> tuple[list[Diagnosis], Settings | None]:
    """Return what `gateway check` finds in the files, and the settings in them."""
    from gateway import supertokens, tls
    from gateway.doctor.diagnosis import fail, ok
    from gateway.seams import aiohttp as aiohttp_seams
    from gateway.seams.library import LibraryChanged
    from gateway.settings import ConfigError

    try:
        settings = read(paths, is_to_serve=True)
    except ConfigError as error:
        return [_problem("file", each, is_error=True) for each in error.problems], None
    try:
        aiohttp_seams.check()
        supertokens.check_library()
    except LibraryChanged as error:
        return [fail("libraries", str(error), "Install the versions of its lock")], None
    listens = settings.config.gateway.listen
    doubts = (*settings.warnings, *settings.problems(tls.warnings(listens)))
    found = [_problem("file", each, is_error=False) for each in doubts]
    if not found:
        count = len(settings.table.routes)
        routes = "1 route" if count == 1 else f"{count} routes"
        found = [ok("file", f"{settings.path}: {routes}, no problem")]
    return found + list(_cookies(settings)), settings


def _problem(check: str, problem: Problem, *, is_error: bool) -> Diagnosis:
    from gateway.doctor.diagnosis import fail, warn

    where = f"{problem.file}:{problem.line}:{problem.column}"
    text = f"{where}: {f'{problem.path}: ' if problem.path else ''}{problem.message}"
    remedy = problem.hint or "See docs/configuration.md"
    return (fail if is_error else warn)(check, text, remedy)


def _cookies(settings: Settings) -> Iterator[Diagnosis]:
    """Yield whether browsers send the session's cookies from the website to the API."""
    from gateway import supertokens
    from gateway.doctor.diagnosis import ok

    tokens = settings.config.supertokens
    if tokens.config_module is not None:
        return
    wrong = settings.problems(supertokens.check_domains(tokens))
    doubtful = () if wrong else settings.problems(supertokens.doubtful_domains(tokens))
    for each in wrong:
        yield _problem("cookies", each, is_error=True)
    for each in doubtful:
        yield _problem("cookies", each, is_error=False)
    if wrong or doubtful:
        return
    if tokens.token_transfer_method == "header":  # noqa: S105 - a way to send one
        yield ok("cookies", "none: sessions are sent in header fields")
    else:
        pair = f"{tokens.website_domain} to {tokens.api_domain}"
        yield ok("cookies", f"browsers send them from {pair}")


def _started(settings: Settings) -> tuple[list[Diagnosis], Sdk | None]:
    """Start the SDK, which imports a `config_module`, and import the validators."""
    from gateway import supertokens
    from gateway.app import check_validators
    from gateway.doctor.diagnosis import fail, ok

    remedy = "Correct it, or add its directory to PYTHONPATH"
    sdk = None
    try:
        sdk = supertokens.start(settings.config.supertokens)
        check_validators(settings.table)
    except supertokens.RecipeError as error:
        return [fail("modules", str(error), remedy)], sdk
    return [ok("modules", "recipes, config_module and validators are imported")], sdk


# --- this machine ---


def _machine(
    settings: Settings, workers: int | None, stop_timeout_s: float | None
) -> list[Diagnosis]:
    from gateway.doctor import limits, surroundings
    from gateway.process.stopping import longest_stop_s

    config = settings.config
    machine = _facts(workers, stop_timeout_s)
    return [
        limits.descriptors(machine, config.gateway, _services(settings)),
        limits.processors(machine),
        limits.memory(
            machine,
            tokens=config.supertokens.cache.size,
            per_worker=config.gateway.limits.memory,
        ),
        limits.stopping(machine, longest_stop_s(config.gateway)),
        limits.sink(surroundings.standard_output()),
    ]


def _facts(workers: int | None, stop_timeout_s: float | None) -> MachineFacts:
    from gateway.doctor import limits, surroundings
    from gateway.process.control_groups import memory_limit
    from gateway.process.cpus import usable_cpus

    cpus = usable_cpus()
    return limits.MachineFacts(
        in_container=surroundings.is_container(os.environ),
        descriptors=surroundings.descriptor_limit(),
        cpus=cpus,
        memory_bytes=memory_limit(),
        workers=workers or cpus,
        stop_timeout_s=stop_timeout_s,
    )


def _listens(
    settings: Settings, listen: str | None, probes_listen: str | None
) -> Iterator[Diagnosis]:
    """Yield whether the addresses can be listened on, as `serve` would."""
    from gateway.doctor import limits, surroundings
    from gateway.doctor.diagnosis import fail
    from gateway.process.listening import overriding
    from gateway.process.sockets import ListenError

    in_container = surroundings.is_container(os.environ)
    gateway = settings.config.gateway
    try:
        listens = gateway.listen if listen is None else overriding(listen)
        probes_at = probes_listen or gateway.probes.listen
        probes = () if probes_at is None else overriding(probes_at)
    except ListenError as error:
        yield fail("listen", str(error), "Write host:port, such as 0.0.0.0:8000")
        return
    for each in listens:
        yield limits.listening(_listen_facts(each), in_container=in_container)
    for each in probes:
        yield limits.listening(_listen_facts(each), in_container=False)


def _listen_facts(listen: ListenConfig) -> ListenFacts:
    from gateway.doctor import limits, surroundings
    from gateway.process.sockets import ListenError, bind

    address = listen.parsed
    if address.is_unix:
        return surroundings.unix_listen(address)
    try:
        bind(listen.address).close()
    except ListenError as error:
        if getattr(error.__cause__, "errno", None) == errno.EADDRINUSE:
            return limits.ListenFacts(address=address, is_in_use=True)
        return limits.ListenFacts(address=address, trouble=str(error))
    return limits.ListenFacts(address=address)


# --- peers ---


def _origins(settings: Settings, sdk: Sdk) -> list[Diagnosis]:
    from gateway.doctor import judgments, surroundings

    config = sdk.config
    return [
        judgments.issuer(
            settings.config.supertokens,
            api_domain=config.api_domain,
            issuer=config.issuer,
            in_container=surroundings.is_container(os.environ),
        ),
        judgments.proxies(settings.config.gateway, config.api_domain),
    ]


def _services(settings: Settings) -> list[Service]:
    return list(settings.table.services())


def _ask(
    settings: Settings, sdk: Sdk, timeout_s: float, *, is_quiet: bool
) -> list[Diagnosis]:
    """Ask all peers, and show on a terminal how many have answered."""
    from gateway.config import SmtpConfig
    from gateway.doctor.examination import Peers, examine
    from gateway.shared.place import place_of

    delivery = settings.config.supertokens.email_delivery
    peers = Peers(
        core=sdk.config,
        services=_services(settings),
        smtp=delivery if isinstance(delivery, SmtpConfig) else None,
        store=place_of(settings.config),
    )

    async def work() -> list[Diagnosis]:
        try:
            return await examine(peers, timeout_s=timeout_s, on_progress=progress)
        finally:
            await sdk.close()

    with console(stderr=True).status("asking peers") as status:
        if is_quiet:
            status.stop()

        def progress(done: int, count: int) -> None:
            status.update(f"asking peers: {done} of {count} done")

        return run(work())


# --- output ---


def _print(found: Sequence[Diagnosis], *, as_json: bool) -> None:
    from gateway.doctor.diagnosis import worst

    if as_json:
        checks = [asdict(each) for each in found]
        answer = {"severity": worst(found), "checks": checks}
        click.echo(json.dumps(answer, ensure_ascii=False, indent=2))
        return
    out = console()
    width = max(len(each.check) for each in found)
    for each in found:
        line = f"{each.severity.upper():4}  {each.check:{width}}  {each.text}"
        out.print(line, markup=False, style=_STYLES[each.severity])
        if each.remedy:
            out.print(f"{'':{width + 8}}{each.remedy}", markup=False)
    counts = {name: sum(each.severity == name for each in found) for name in _STYLES}
    out.print(", ".join(f"{count} {name}" for name, count in counts.items()))
