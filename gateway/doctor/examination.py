"""edge. Everything that is asked of peers, at the same time and within a limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.config import Address, SmtpConfig
from gateway.doctor import judgments
from gateway.doctor.diagnosis import Diagnosis, fail, ok
from gateway.doctor.mail import visit
from gateway.doctor.peers import PeerAddress, connect
from gateway.routes import Service
from gateway.shared import store as shared_store
from gateway.shared.place import StorePlace
from gateway.supertokens import SdkConfig
from gateway.supertokens.core_check import CoreCheck, CoreVerdict
from gateway.supertokens.core_examination import ask_for_keys, trusted_by_core_calls
from gateway.upstream import UpstreamTarget
from gateway.upstream.dial import tls_context

_MOST_AT_ONCE: Final = 64
"""Connections to services that are made at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Whom the gateway needs."""

    core: SdkConfig
    services: Sequence[Service]
    smtp: SmtpConfig | None = None
    store: StorePlace | None = None


_Work = Coroutine[Any, Any, list[Diagnosis]]


async def examine(
    peers: Peers, *, timeout_s: float, on_progress: Callable[[int, int], None]
) -> list[Diagnosis]:
    """Return what was found about each of *peers*, in their order.

    Each question may take *timeout_s*. *on_progress* is called with the number of
    peers that are done, and of all.
    """
    places = asyncio.Semaphore(_MOST_AT_ONCE)
    work: list[_Work] = [_core(peers.core, timeout_s)]
    work += (_service(each, timeout_s, places) for each in peers.services)
    if peers.store is not None:
        work.append(_store(peers.store, timeout_s))
    if peers.smtp is not None:
        work.append(_mail(peers.smtp, timeout_s))
    tasks = [asyncio.create_task(each) for each in work]
    on_progress(0, len(tasks))
    async for count in _counted(tasks):
        on_progress(count, len(tasks))
    return [diagnosis for task in tasks for diagnosis in task.result()]


async def _counted(
    tasks: Iterable[asyncio.Task[list[Diagnosis]]],
) -> AsyncIterator[int]:
    for count, done in enumerate(asyncio.as_completed(tasks), start=1):
        await done
        yield count


# --- the core ---


async def _core(core: SdkConfig, timeout_s: float) -> list[Diagnosis]:
    if core.is_intercepted:
        text = "not asked: a network_interceptor of the config_module changes calls"
        return [ok("core", text)]
    context = await trusted_by_core_calls(core.core_uris)
    facts = await asyncio.gather(
        *(
            connect(_core_address(uri, context), timeout_s=timeout_s)
            for uri in core.core_uris
        )
    )
    found = dict(zip(core.core_uris, facts, strict=True))
    result = list(judgments.peers("core", found))
    # The others wouldn't answer, and their names may keep a resolver busy.
    reached = [uri for uri, each in found.items() if each.failed is None]
    if not reached:
        return result
    state, keys = await asyncio.gather(
        CoreCheck(reached, core.api_key, timeout_s=timeout_s).ask(),
        ask_for_keys(reached, timeout_s=timeout_s),
    )
    is_usable = state.state is CoreVerdict.USABLE
    result.append(judgments.acceptance(state.trouble, is_usable=is_usable))
    for answer in keys:
        result.append(judgments.signing_keys(answer.host, answer.count, answer.trouble))
        result.append(judgments.clock(answer.host, answer.skew_s))
    return result


def _core_address(uri: str, context: Any) -> PeerAddress:
    url = urlsplit(uri)
    is_https = url.scheme == "https"
    return PeerAddress(
        host=url.hostname or "",
        port=url.port or (443 if is_https else 80),
        context=context if is_https else None,
    )


# --- services, the shared store and mail ---


async def _service(
    service: Service, timeout_s: float, places: asyncio.Semaphore
) -> list[Diagnosis]:
    check = f"service {service.name}"
    is_https = any(target.scheme == "https" for target in service.targets)
    context = None
    if is_https:
        try:
            context = await asyncio.to_thread(tls_context, service.tls)
        except ValueError as error:
            return [fail(check, str(error), "Correct tls.ca_file")]

    async def one(address: Address) -> judgments.PeerFacts:
        target = UpstreamTarget.of(address, service.tls)
        peer = PeerAddress(
            host=target.host,
            port=target.port,
            socket_path=target.path,
            context=context if target.scheme == "https" else None,
            server_name=service.tls.server_name,
        )
        async with places:
            return await connect(peer, timeout_s=timeout_s)

    facts = await asyncio.gather(*map(one, service.targets))
    names = [str(UpstreamTarget.of(each)) for each in service.targets]
    result = list(judgments.peers(check, dict(zip(names, facts, strict=True))))
    if is_https and not service.tls.verify:
        result.append(judgments.unverified(check))
    return result


async def _store(place: StorePlace, timeout_s: float) -> list[Diagnosis]:
    trouble = await shared_store.ask(place, timeout_s=timeout_s)
    at, refuses = str(place.address), place.grace_s is not None
    return [judgments.shared_store(at, place.key, trouble, refuses=refuses)]


async def _mail(smtp: SmtpConfig, timeout_s: float) -> list[Diagnosis]:
    facts = await visit(smtp, timeout_s=timeout_s)
    return [judgments.mail(f"{smtp.host}:{smtp.port}", facts)]
