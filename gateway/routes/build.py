"""PURE. Compiles the routes of the configuration, with all defaults filled in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from gateway import config, headers
from gateway.config import Config, EffectiveRoute, InvalidConfig
from gateway.headers import HeaderPolicy, MapPolicy
from gateway.http.fields import Fields
from gateway.http.redirect_template import RedirectTemplate
from gateway.http.target import Slashes
from gateway.identity import (
    CheckDatabase,
    ClaimRule,
    Protection,
    Requirements,
    SessionPolicy,
    together,
)
from gateway.rate_limits import RatePolicy, RouteLimits, policies_of
from gateway.routes import lint, rate_lint
from gateway.routes.answer import Answer
from gateway.routes.condition import condition
from gateway.routes.route import ClientRule, Mirror, Rewrite, Route, Service
from gateway.routes.split import Split
from gateway.routes.table import RouteTable
from gateway.timeouts import Retry, Timeouts


def compile(settings: Config) -> RouteTable:  # noqa: A001 # read as routes.compile
    """Return the route table of a configuration.

    Raises:
        InvalidConfig: a route can never match, leads to the core, or has a requirement
            that no session can meet. The error has a finding for each such route.
    """
    effective = config.effective_routes(settings)
    findings = [
        *lint.own_paths(settings, effective),
        *lint.ways_to_the_core(settings),
        *lint.unmet_requirements(settings),
        *lint.no_tenant(effective),
        *lint.withheld_claims(settings),
        *rate_lint.unusable(settings),
    ]
    policies = policies_of(settings)
    services = {
        name: _service(name, service, settings)
        for name, service in settings.services.items()
    }
    routes = [
        _split(_route(settings, services, policies, index, route), route, services)
        for index, route in enumerate(effective)
    ]
    try:
        table = RouteTable(
            routes,
            near_misses=settings.gateway.near_misses,
            shadows=_shadows(routes, services),
        )
    except InvalidConfig as exc:
        findings += exc.findings
    else:
        if not findings:
            return table
    raise InvalidConfig(findings)


def _route(
    settings: Config,
    services: dict[str, Service],
    policies: Mapping[str, RatePolicy],
    index: int,
    effective: EffectiveRoute,
) -> Route:
    route, defaults = effective.settings, settings.defaults
    service = _service_of(settings, effective, services)
    body, buffer = route.request.max_body_size, route.request.buffer
    closes = route.session.close_streams
    rewrite = _rewrite(effective)
    host_header = route.host_header or defaults.host_header
    return Route(
        index=index,
        loc=effective.loc,
        name=effective.name,
        form=effective.form,
        path=effective.path,
        methods=effective.methods,
        hosts=effective.hosts,
        condition=condition(effective.match.headers, effective.match.query),
        clients=_clients(route.clients),
        limits=RouteLimits.of(route.rate_limit, policies),
        service=service,
        audience=service.audience if route.assertion else None,
        session=_session(defaults, effective),
        says_protected=effective.says_protected,
        headers=_header_policy(defaults, route),
        timeouts=Timeouts.of(defaults.timeouts.patched(route.timeouts)),
        rewrite=rewrite,
        mapping=_mapping(route.rewrite, rewrite, service, host_header),
        cors=(
            settings.cors.patched(route.cors) if route.cors.model_fields_set else None
        ),
        reply_edits=_edits(route.response.headers.over((defaults.response.headers,))),
        host_header=host_header,
        upstream_401=route.upstream_401 or defaults.upstream_401,
        websocket=route.websocket,
        max_body_size=settings.gateway.limits.max_body_size if body is None else body,
        buffer=defaults.request.buffer if buffer is None else buffer,
        retry=Retry.of(route.retry),
        detour=_answer(effective),
        sign_in=_sign_in(
            route.on_unauthenticated or defaults.on_unauthenticated,
        ),
        slashes=Slashes(
            encoded=route.request.encoded_slash == "keep",
            repeated=not route.request.merge_slashes,
        ),
        close_streams=defaults.session.close_streams if closes is None else closes,
        critical=route.critical,
    )


def _shadows(
    routes: Iterable[Route], services: Mapping[str, Service]
) -> tuple[Service, ...]:
    """Return the services that get copies of requests on *routes*."""
    used = dict.fromkeys(one for route in routes for one in route.services)
    names = dict.fromkeys(one.mirror.service for one in used if one.mirror is not None)
    return tuple(services[name] for name in names)


def _split(
    route: Route, effective: EffectiveRoute, services: dict[str, Service]
) -> Route:
    """Return *route*, some requests of which go to another service if it is split."""
    split = effective.settings.split
    if split is None or (split.weight == 0 and split.override is None):
        return route
    service = services[split.to]
    mapping = _mapping(
        effective.settings.rewrite, route.rewrite, service, route.host_header
    )
    audience = service.audience if effective.settings.assertion else None
    other = replace(route, service=service, mapping=mapping, audience=audience)
    by, override = split.sticky, split.override
    detour = Split(
        route=other,
        weight=split.weight,
        sticky=None if by == "none" else headers.HashBy.parse(by),
        override=None if override is None else headers.HashBy.parse(override),
    )
    return replace(route, detour=detour)


def _service_of(
    settings: Config, effective: EffectiveRoute, services: dict[str, Service]
) -> Service:
    """Return the service of a route; a URL's is added to *services*."""
    if effective.respond is not None or effective.redirect is not None:
        return _NO_SERVICE
    url = effective.settings.upstream
    if url is None:
        assert effective.settings.service is not None, "checked with the file"
        return services[effective.settings.service]
    if url not in services:
        target = config.TargetConfig(url=url)
        own = config.ServiceConfig(targets=(target,))
        services[url] = _service(url, own, settings)
    return services[url]


_NO_SERVICE = Service(
    name="gateway",
    targets=(),
    weights=(),
    balance="least_requests",
    hash_by=None,
    health=config.HealthConfig(),
    resolve_s=None,
    hold=None,
    limits=None,
    mirror=None,
    audience=None,
    tls=config.TlsConfig(),
    max_connections=0,
    max_waiting=None,
    keep_alive=0.0,
    # The gateway distinguishes all paths.
    paths=config.PathsConfig(
        case="sensitive",
        final_slash="significant",
        parameters="kept",
        extension="kept",
        final_dots="kept",
    ),
)
"""Stands for the gateway in routes that it answers itself."""


def _answer(effective: EffectiveRoute) -> Answer | None:
    if effective.redirect is not None:
        return Answer(
            status=effective.redirect.status,
            fields=(),
            body=b"",
            location=RedirectTemplate(effective.redirect.to),
        )
    if effective.respond is None:
        return None
    fields: Fields = ()
    if effective.respond.body:
        content_type = effective.respond.content_type.encode()
        fields = (
            (b"Content-Type", content_type),
            (b"X-Content-Type-Options", b"nosniff"),
        )
    return Answer(
        status=effective.respond.status,
        fields=fields,
        body=effective.respond.body.encode(),
        location=None,
    )


def _sign_in(
    settings: config.OnUnauthenticatedConfig | None,
) -> RedirectTemplate | None:
    return None if settings is None else RedirectTemplate(settings.redirect)


def _clients(clients: config.ClientsConfig) -> ClientRule | None:
    if not clients.allow and not clients.deny:
        return None
    return ClientRule(clients.allow, clients.deny)


def _service(name: str, service: config.ServiceConfig, settings: Config) -> Service:
    by, assertion = service.balance.hash, service.assertion
    is_asserted = settings.gateway.assertion is not None and assertion.enabled
    return Service(
        name=name,
        targets=tuple(config.address(target.url) for target in service.targets),
        tls=service.tls,
        max_connections=service.max_connections,
        max_waiting=service.max_waiting,
        keep_alive=service.keep_alive,
        paths=service.paths,
        weights=tuple(target.weight for target in service.targets),
        balance=service.balance.policy,
        hash_by=None if by is None else headers.HashBy.parse(by),
        health=service.health,
        resolve_s=service.resolve_interval if service.resolve == "each" else None,
        hold=service.hold,
        limits=service.limits,
        mirror=None
        if service.mirror is None
        else Mirror(
            service=service.mirror.service,
            share=service.mirror.share,
            methods=frozenset(service.mirror.methods),
            in_flight=service.mirror.in_flight,
        ),
        audience=(assertion.audience or name) if is_asserted else None,
    )


def _header_policy(
    defaults: config.DefaultsConfig, route: config.RouteSettings
) -> HeaderPolicy:
    protected = defaults.protected if route.protected is None else route.protected
    forward = route.forward_credentials
    authorization = route.forward_authorization
    if authorization is None:
        authorization = defaults.forward_authorization
    return headers.policy(
        route.identity.headers,
        forward_credentials=defaults.forward_credentials
        if forward is None
        else forward,
        forward_authorization=protected is not True
        if authorization is None
        else authorization,
        allow_field_names=route.request.allow_field_names,
        edits=_edits(route.request.headers.over((defaults.request.headers,))),
    )


def _edits(
    settings: config.RequestEditsConfig | config.ReplyEditsConfig,
) -> headers.Edits:
    return headers.compile_edits(settings.set, settings.add, settings.remove)


def _rewrite(effective: EffectiveRoute) -> Rewrite | None:
    if effective.strip is None:
        return None
    return Rewrite(
        strip=effective.strip.rstrip("/").count("/"),
        replacement=(effective.settings.rewrite.replace_prefix or "").rstrip("/"),
    )


def _mapping(
    settings: config.RewriteConfig,
    rewrite: Rewrite | None,
    service: Service,
    host_header: str,
) -> MapPolicy:
    schemes = {_scheme(target) for target in service.targets}
    authorities = {
        headers.authority(target.authority, _scheme(target))
        for target in service.targets
    }
    if host_header not in ("upstream", "preserve"):
        authorities |= {headers.authority(host_header, scheme) for scheme in schemes}
    cookies = settings.cookies
    domain: str | None = None
    if cookies is not None and cookies.domain != "keep":
        domain = "" if cookies.domain == "remove" else cookies.domain
    return MapPolicy(
        schemes=frozenset(schemes),
        authorities=frozenset(authorities),
        is_host_kept=host_header == "preserve",
        replacement=None if rewrite is None else rewrite.replacement.encode(),
        redirects=settings.redirects,
        cookie_paths=cookies is not None and cookies.path,
        cookie_domain=domain,
    )


def _scheme(target: config.Address) -> str:
    """Return the scheme of the URLs that a service at *target* would write."""
    return "https" if target.scheme == "https" else "http"


_PROTECTION = {
    True: Protection.REQUIRED,
    False: Protection.PUBLIC,
    "optional": Protection.OPTIONAL,
}


def _session(
    defaults: config.DefaultsConfig, effective: EffectiveRoute
) -> SessionPolicy:
    session = defaults.session.patched(effective.settings.session)
    return SessionPolicy(
        protection=_PROTECTION[effective.protected],
        requirements=together(map(requirements_of, effective.requires)),
        check_database=CheckDatabase(session.check_database),
        max_age_s=session.max_age,
    )


def requirements_of(require: config.ConditionsConfig) -> Requirements:
    """Return what *require* demands of a session."""
    alternatives: tuple[tuple[Requirements, ...], ...] = ()
    validators: tuple[str, ...] = ()
    if isinstance(require, config.RequireConfig):
        validators = require.validators
        if require.any:
            alternatives = (tuple(map(requirements_of, require.any)),)
    return Requirements(
        roles_any=require.roles.any,
        roles_all=require.roles.all,
        permissions_any=require.permissions.any,
        permissions_all=require.permissions.all,
        email_verified=require.email_verified,
        mfa=require.mfa,
        tenants=require.tenants,
        claims=tuple(
            ClaimRule(
                path=tuple(rule.path.split(".")),
                any_of=rule.any_of or (),
                equals=rule.equals,
                has_equals="equals" in rule.model_fields_set,
                contains=rule.contains,
                has_contains="contains" in rule.model_fields_set,
                mail_domains=rule.mail_domain or (),
            )
            for rule in require.claims
        ),
        max_age_s=require.max_age,
        validators=validators,
        alternatives=alternatives,
    )
