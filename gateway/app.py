"""composition root. Makes every part from the configuration and joins them.

The only module that depends on all the parts. Everything that is opened here is closed
here, in the reverse order.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway import assertions, headers, overload, supertokens
from gateway.assertions import AssertionKey, Assertions
from gateway.clients import Clients
from gateway.config import Config, GatewayConfig
from gateway.config import path as config_path
from gateway.downstream.cors import Cors
from gateway.events import RuntimeEvent, about
from gateway.headers import (
    ForwardedCache,
    InboundPolicy,
    Networks,
    Sampler,
    Traces,
)
from gateway.http.reply_head import ReplyHeadReader
from gateway.http.request_head import HeadLimits, RequestReader
from gateway.mirroring import Mirroring
from gateway.observe import Observer, spans
from gateway.pace import PACE, Pace
from gateway.proxy import Dependencies, Proxy
from gateway.rate_limits import AuthLimits, Limiter, LocalStore
from gateway.resources import Router
from gateway.routes import RouteTable, Service, unmet_requirements
from gateway.seams import aiohttp as aiohttp_seams
from gateway.session import keys
from gateway.session.authenticator import SessionAuthenticator
from gateway.session.credentials import CREDENTIAL_FIELDS
from gateway.session.tokens import holds_token, is_session_text
from gateway.supertokens import session_check
from gateway.supertokens.api import Auth
from gateway.upstream import (
    ServiceTargets,
    UpstreamPool,
    Upstreams,
    UpstreamTarget,
)
from gateway.upstream.discovery import Discovery
from gateway.upstream.ejection import EjectionRules
from gateway.upstream.hold import Hold
from gateway.upstream.in_flight import InFlight
from gateway.upstream.places import WAITING_PER_CONNECTION
from gateway.verify import Engine

if TYPE_CHECKING:
    from gateway.supertokens.delivery import EmailSender


_log = logging.getLogger("gateway")


def id_maker() -> Callable[[], str]:
    """Return a function that makes request ids: 64 random bits, then a count.

    The random bits are drawn once for each call of `id_maker`. Ids name requests and
    protect nothing, so the rest need not be random, and no request costs a system call.
    """
    prefix = secrets.token_hex(8)
    count = itertools.count()
    return lambda: f"{prefix}{next(count):08x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """A gateway that is ready to take requests."""

    config: Config
    proxy: Proxy
    sessions: SessionAuthenticator
    observer: Observer
    keys: keys.KeyStore
    upstreams: Upstreams
    sdk: supertokens.Sdk
    make_id: Callable[[], str]
    engine: Engine


class BadService(ValueError):
    """A service can't be set up; the message has its YAML path."""


def _services(
    table: RouteTable, upstreams: Upstreams, clients: Clients
) -> dict[str, ServiceTargets]:
    """Return the services of *table* by name, with the pools of their targets.

    Services that name the same target share one pool for it. The pool has the smallest
    of their `max_connections`, `max_waiting` and `keep_alive`, so a second service
    doesn't raise a target's load.

    Raises:
        BadService: a CA file can't be read.
    """
    limits: dict[UpstreamTarget, tuple[int, int, float]] = {}
    targets: dict[str, list[UpstreamTarget]] = {}
    for service in table.services():
        targets[service.name] = [
            UpstreamTarget.of(target, service.tls) for target in service.targets
        ]
        for target in targets[service.name]:
            connections = service.max_connections
            waiting = service.max_waiting or WAITING_PER_CONNECTION * connections
            own = connections, waiting, service.keep_alive
            before = limits.get(target, own)
            limits[target] = (
                min(own[0], before[0]),
                min(own[1], before[1]),
                min(own[2], before[2]),
            )
    by_name = {service.name: service for service in table.services()}
    services: dict[str, ServiceTargets] = {}
    for name, own_targets in targets.items():
        try:
            pools = [
                upstreams.pool(
                    target,
                    max_connections=connections,
                    max_waiting=waiting,
                    keepalive_s=keep_alive_s,
                )
                for target in own_targets
                for connections, waiting, keep_alive_s in (limits[target],)
            ]
        except ValueError as exc:
            raise BadService(f"services.{name}.tls.ca_file: {exc}") from exc
        services[name] = service_targets(by_name[name], pools, clients)
    return services


def service_targets(
    service: Service, pools: Sequence[UpstreamPool], clients: Clients | None = None
) -> ServiceTargets:
    """Return the targets of *service*, whose pools these are.

    *clients* tells apart those whose requests wait.
    """
    passive = service.health.passive
    rules = None
    if passive.enabled:
        rules = EjectionRules(
            failures=passive.failures,
            eject_s=passive.eject,
            max_eject_s=passive.max_eject,
            max_ejected=passive.max_ejected,
        )
    hold = None
    if service.hold is not None:
        hold = Hold(service.hold, service.max_connections * len(pools))
    in_flight = None
    if service.limits is not None:
        limits = service.limits
        in_flight = InFlight(
            service.name,
            limits.in_flight,
            limits.pending,
            hold_s=service.hold or 0.0,
            clients=clients,
        )
    return ServiceTargets(
        service.name,
        pools,
        weights=service.weights,
        balance=service.balance,
        rules=rules,
        hold=hold,
        in_flight=in_flight,
    )


def _warn_of_proxy(peer: str) -> None:
    """Log that a TLS terminator may not be in `gateway.trusted_proxies`."""
    _log.warning(
        "X-Forwarded-Proto: https from %s is ignored, because the address isn't in"
        " gateway.trusted_proxies. Add it if it is your TLS terminator. Not said again",
        peer or "a Unix socket",
        extra=about(RuntimeEvent.PROXY_NOT_TRUSTED, peer=peer or "unix"),
    )


def forwarded_cache(gateway: GatewayConfig) -> ForwardedCache:
    """Return what makes the fields that say where requests come from."""
    return ForwardedCache(
        Networks(gateway.trusted_proxies),
        _warn_of_proxy,
        real_ip=gateway.forwarded.real_ip,
        rfc7239=gateway.forwarded.rfc7239,
    )


def traces(config: Config, sampler: Sampler | None = None) -> Traces:
    """Return what begins the traces of this process's requests.

    *sampler* decides which are recorded; None: none.
    """
    return Traces(
        random.Random().randbytes,  # noqa: S311 # ids name traces and protect nothing
        Networks(config.gateway.trusted_proxies),
        InboundPolicy(config.tracing.inbound),
        sampler,
    )


def signing(
    config: Config, table: RouteTable, keys: Sequence[AssertionKey]
) -> Assertions | None:
    """Return what signs the identities of sessions; None: nothing does.

    *keys* are those of `gateway.assertion`.
    """
    settings = config.gateway.assertion
    if settings is None:
        return None
    return Assertions(
        keys,
        issuer=settings.issuer or config.supertokens.api_domain,
        lifetime_s=settings.lifetime,
        table=table,
    )


def readers(
    table: RouteTable, gateway: GatewayConfig
) -> tuple[RequestReader, ReplyHeadReader]:
    """Return the readers of request heads and of reply heads, for *table*."""
    limits = gateway.limits
    names = [
        name.decode() for route in table.routes for name, _ in route.headers.writers
    ]
    if gateway.forwarded.real_ip:
        names.append("X-Real-IP")
    if any(service.mirror is not None for service in table.services()):
        names.append(headers.SHADOW_NAME)
    reserved = headers.reserved(names)
    rules = headers.request_rules(
        reserved,
        holds_token,
        is_session_text,
        frozenset().union(*(route.headers.edits.removed for route in table.routes)),
    )
    bounds = HeadLimits(
        target=limits.max_target_size,
        field=limits.max_field_size,
        head=limits.max_head_size,
        fields=limits.max_fields,
    )
    return (
        RequestReader(bounds, rules, CREDENTIAL_FIELDS),
        ReplyHeadReader(
            headers.reply_rules(
                reserved,
                frozenset().union(*(one.reply_edits.removed for one in table.routes)),
            )
        ),
    )


def check_validators(table: RouteTable) -> None:
    """Load the routes' claim `validators` now, so that requests don't have to.

    Raises:
        RecipeError: a name doesn't lead to a claim validator.
    """
    for route in table.routes:
        for number, name in enumerate(route.session.requirements.validators):
            try:
                session_check.validator(name)
            except ValueError as exc:
                path = f"{config_path(route.loc)}.require.validators[{number}]"
                raise supertokens.RecipeError(path, str(exc)) from exc


@contextlib.asynccontextmanager
async def open_app(
    config: Config,
    table: RouteTable,
    *,
    observer: Observer,
    email: EmailSender | None = None,
    pace: Pace = PACE,
    assertion_keys: Sequence[AssertionKey] | None = None,
    key_clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[App]:
    """Yield the gateway that *config* describes; close all its parts afterwards.

    *table* has the configuration's compiled routes. *email* sends all mail in place of
    `supertokens.email_delivery`. *assertion_keys* are those of `gateway.assertion`;
    None: they are read now. No core needs to be reachable: the signing keys are fetched
    in the background. *key_clock* tells how old they are, and never goes back.

    Raises:
        RecipeError: the SDK refuses a recipe's settings, a route's claim validator
            can't be loaded, or a `config_module` lacks a recipe that a route needs.
        BadService: a CA file can't be read.
        BadAssertionKeys: a key of `gateway.assertion` can't be used.
        LibraryChanged: a library lacks what the gateway depends on.
    """
    if assertion_keys is None:
        assertion_keys = assertions.load(config.gateway.assertion)
    async with contextlib.AsyncExitStack() as stack:
        aiohttp_seams.check()
        recorder, sampler = observer, spans.exporting(os.environ)
        if sampler is not None:
            exported = spans.Spans(has_user_id=config.tracing.user_id)
            stack.push_async_callback(exported.close)
            recorder = spans.SpanObserver(observer, exported)
        sdk = supertokens.start(config.supertokens, email=email)
        stack.push_async_callback(sdk.close)
        for finding in unmet_requirements(config, sdk.recipes()):
            raise supertokens.RecipeError(
                finding.path, f"{finding.message}. {finding.hint}"
            )
        check_validators(table)
        key_store = keys.KeyStore(
            sdk.config.core_uris,
            config.supertokens.keys,
            clock=key_clock,
            pace=pace,
        )
        sessions = SessionAuthenticator(
            keys=key_store,
            core=session_check.SdkSessions(sdk),
            rules=session_check.rules(sdk),
            cache=config.supertokens.cache,
            client=config.supertokens.core,
        )
        stack.push_async_callback(sessions.close)
        key_store.subscribe(sessions.keys_changed)
        key_store.subscribe(
            lambda key_set, _left: sdk.install_keys(key_set.jwks["keys"])
        )
        sdk.want_key = key_store.want
        sdk.on_revoked = sessions.deny
        await key_store.start()
        stack.push_async_callback(key_store.close)

        limits = config.gateway.limits
        reader, replies = readers(table, config.gateway)
        clients = Clients(
            config.gateway.trusted_proxies, config.gateway.limits.per_client.exempt
        )
        upstreams = Upstreams(replies, clients=clients, share=limits.per_client.share)
        stack.push_async_callback(upstreams.close)
        services = _services(table, upstreams, clients)
        discovery = Discovery(upstreams)
        stack.push_async_callback(discovery.aclose)
        for service in table.services():
            if service.resolve_s is not None:
                discovery.add(services[service.name], service.resolve_s)
        mirroring = Mirroring.of(table, services)
        if mirroring is not None:
            stack.push_async_callback(mirroring.aclose)
        make_id = id_maker()
        asserting = config.gateway.assertion
        resources = Router(
            table=table,
            auth=Auth(sdk),
            user_path=config.gateway.user_path,
            access_path=config.gateway.access_path,
            jwks_path=None if asserting is None else asserting.jwks_path,
            jwks=assertions.key_set(assertion_keys),
        )
        engine = Engine((sessions,), unauthorised=sessions.refusals.unauthorised)
        proxy = Proxy(
            Dependencies(
                reader=reader,
                resources=resources,
                services=services,
                verifier=engine,
                cors=Cors(
                    config.cors,
                    website_domain=config.supertokens.website_domain,
                    sdk_headers=sdk.cors_headers(),
                    method_allowed=resources.method_allowed,
                    routes=table.routes,
                ),
                observer=recorder,
                limits=limits,
                forwarded=forwarded_cache(config.gateway),
                make_id=make_id,
                traces=traces(config, sampler),
                pace=pace,
                mirroring=mirroring,
                assertions=signing(config, table, assertion_keys),
                limiter=Limiter(LocalStore(time.monotonic_ns)),
                auth_limits=AuthLimits.of(config),
                logs_user_agent=config.log.user_agent,
            )
        )
        await stack.enter_async_context(
            overload.watching(config.gateway.overload, proxy.decider)
        )
        sessions.subscribe(lambda handle, _until: proxy.session_ended(handle))
        sessions.on_user_denied = proxy.sessions_ended
        yield App(
            config=config,
            proxy=proxy,
            sessions=sessions,
            observer=observer,
            keys=key_store,
            upstreams=upstreams,
            sdk=sdk,
            make_id=make_id,
            engine=engine,
        )
