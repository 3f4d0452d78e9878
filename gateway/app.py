"""composition root. Makes every part from the configuration and joins them.

The only place that knows all the rooms. What is opened here is closed here, in
the reverse order.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway import headers, supertokens
from gateway.config import Config, LimitsConfig
from gateway.decide import Router
from gateway.downstream.cors import Cors
from gateway.forward import ServiceTargets
from gateway.headers import Networks
from gateway.http.reply_head import ReplyHeadReader
from gateway.http.request_head import Bounds, RequestReader
from gateway.observe import Observer
from gateway.pace import PACE, Pace
from gateway.proxy import Dependencies, Proxy
from gateway.routes import RouteTable
from gateway.seams import aiohttp as aiohttp_seams
from gateway.session import keys
from gateway.session.authenticator import SessionAuthenticator
from gateway.session.credentials import CREDENTIAL_FIELDS
from gateway.supertokens import session_check
from gateway.supertokens.api import Auth
from gateway.upstream import Upstreams, UpstreamTarget
from gateway.verify import Engine

if TYPE_CHECKING:
    from gateway.supertokens.delivery import EmailSender


def id_maker() -> Callable[[], str]:
    """Return what makes request ids: 64 random bits of its own, then a count.

    Ids name requests and protect nothing, so only the first part has to be random:
    asking the system for each would cost every request a call to it.
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
    make_id: Callable[[], str]


class BadService(ValueError):
    """A service can't be set up; the text names it by its YAML path."""


def _services(table: RouteTable, upstreams: Upstreams) -> dict[str, ServiceTargets]:
    """Return the services of *table* by name, with the pools of their targets.

    A target that several services name has one pool, and the smallest of their
    limits: a target is asked no more because a second service names it, too.

    Raises:
        BadService: a CA file can't be read.
    """
    most: dict[UpstreamTarget, int] = {}
    targets: dict[str, list[UpstreamTarget]] = {}
    for service in table.services():
        targets[service.name] = [
            UpstreamTarget.of(target, service.tls) for target in service.targets
        ]
        for target in targets[service.name]:
            limit = service.max_connections
            most[target] = min(limit, most.get(target, limit))
    services: dict[str, ServiceTargets] = {}
    for name, named in targets.items():
        try:
            pools = [
                upstreams.pool(target, max_connections=most[target]) for target in named
            ]
        except ValueError as exc:
            raise BadService(f"services.{name}.tls.ca_file: {exc}") from exc
        services[name] = ServiceTargets(name, pools)
    return services


def readers(
    table: RouteTable, limits: LimitsConfig
) -> tuple[RequestReader, ReplyHeadReader]:
    """Return what reads the heads of requests, and of replies, for *table*."""
    reserved = headers.reserved(
        name.decode() for route in table.routes for name, _ in route.headers.writers
    )
    bounds = Bounds(
        target=limits.max_target_size,
        field=limits.max_field_size,
        head=limits.max_head_size,
        fields=limits.max_fields,
    )
    return (
        RequestReader(bounds, headers.request_rules(reserved), CREDENTIAL_FIELDS),
        ReplyHeadReader(headers.reply_rules(reserved)),
    )


def _check_validators(table: RouteTable) -> None:
    """Load what the routes name as `validators`, so that no request has to.

    Raises:
        RecipeError: a name leads to no claim validator.
    """
    for route in table.routes:
        for number, name in enumerate(route.session.requirements.validators):
            try:
                session_check.validator(name)
            except ValueError as exc:
                path = f"routes[{route.index}].require.validators[{number}]"
                raise supertokens.RecipeError(path, str(exc)) from exc


@contextlib.asynccontextmanager
async def building(
    config: Config,
    table: RouteTable,
    *,
    observer: Observer,
    email: EmailSender | None = None,
    pace: Pace = PACE,
) -> AsyncIterator[App]:
    """Yield the gateway that *config* describes; close all of it afterwards.

    *table* is what the configuration's routes were compiled to.
    *email* takes every mail in place of `supertokens.email_delivery`. No core needs
    to be reachable: its keys are fetched in the background.

    Raises:
        RecipeError: the SDK refuses a recipe's settings, or a route's claim validator
            can't be loaded.
        BadService: a CA file can't be read.
        LibraryChanged: a library isn't as the gateway needs it.
    """
    async with contextlib.AsyncExitStack() as opened:
        aiohttp_seams.check()
        sdk = supertokens.start(config.supertokens, email=email)
        opened.push_async_callback(sdk.close)
        _check_validators(table)
        store = keys.KeyStore(
            sdk.facts.core_uris,
            config.supertokens.keys,
            pace=pace,
        )
        sessions = SessionAuthenticator(
            keys=store,
            core=session_check.SdkSessions(sdk),
            rules=session_check.rules(sdk),
            cache=config.supertokens.cache,
            client=config.supertokens.core,
        )
        opened.push_async_callback(sessions.close)
        store.subscribe(sessions.keys_changed)
        store.subscribe(lambda found, _left: sdk.install_keys(found.jwks["keys"]))
        sdk.want_key = store.want
        sdk.on_revoked = sessions.deny
        await store.start()
        opened.push_async_callback(store.close)

        limits = config.gateway.limits
        reader, replies = readers(table, limits)
        upstreams = Upstreams(replies)
        opened.push_async_callback(upstreams.close)
        services = _services(table, upstreams)
        make_id = id_maker()
        resources = Router(
            table=table,
            auth=Auth(sdk),
            user_path=config.gateway.user_path,
        )
        proxy = Proxy(
            Dependencies(
                reader=reader,
                resources=resources,
                services=services,
                verifier=Engine(
                    (sessions,), unauthorised=sessions.refusals.unauthorised
                ),
                cors=Cors(
                    config.cors,
                    website_domain=config.supertokens.website_domain,
                    sdk_headers=sdk.cors_headers(),
                    method_allowed=resources.method_allowed,
                ),
                observer=observer,
                limits=limits,
                trusted=Networks(config.gateway.trusted_proxies),
                make_id=make_id,
                pace=pace,
            )
        )
        sessions.subscribe(lambda handle, _until: proxy.session_ended(handle))
        yield App(
            config=config,
            proxy=proxy,
            sessions=sessions,
            observer=observer,
            keys=store,
            make_id=make_id,
        )
