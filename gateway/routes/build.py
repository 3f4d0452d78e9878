"""PURE. Compiles the routes of the configuration, with all defaults filled in."""

from __future__ import annotations

from gateway import config, headers
from gateway.config import Config, InvalidConfig
from gateway.headers import HeaderPolicy
from gateway.identity import (
    CheckDatabase,
    ClaimRule,
    Protection,
    Requirements,
    SessionPolicy,
)
from gateway.routes import lint
from gateway.routes.route import Form, Rewrite, Route, Service
from gateway.routes.table import RouteTable


def compile(settings: Config) -> RouteTable:  # noqa: A001 # read as routes.compile
    """Return the route table of a configuration.

    Raises:
        InvalidConfig: a route can never match, leads to the core, or has a requirement
            that no session can meet. The error has a finding for each such route.
    """
    findings = [
        *lint.own_paths(settings),
        *lint.ways_to_the_core(settings),
        *lint.unmet_requirements(settings),
    ]
    services = {
        name: _service(name, service) for name, service in settings.services.items()
    }
    routes = [
        _route(settings, services, index, route)
        for index, route in enumerate(settings.routes)
    ]
    try:
        table = RouteTable(routes, near_misses=settings.gateway.near_misses)
    except InvalidConfig as exc:
        findings += exc.findings
    else:
        if not findings:
            return table
    raise InvalidConfig(findings)


def _route(
    settings: Config,
    services: dict[str, Service],
    index: int,
    route: config.RouteConfig,
) -> Route:
    form, path = lint.form_of(route)
    if route.upstream is not None:
        service = services.get(route.upstream)
        if service is None:
            target = config.TargetConfig(url=route.upstream)
            service = _service(route.upstream, config.ServiceConfig(targets=(target,)))
            services[route.upstream] = service
        narrower = config.TimeoutsPatch()
        host_header = "upstream"
    else:
        assert route.service is not None
        service = services[route.service]
        narrower = settings.services[route.service].timeouts
        host_header = settings.services[route.service].host_header
    timeouts = settings.defaults.timeouts
    for patch in (narrower, route.timeouts):
        timeouts = timeouts.model_copy(update=patch.model_dump(exclude_none=True))
    body, buffer = route.request.max_body_size, route.request.buffer
    closes = route.session.close_streams
    return Route(
        index=index,
        name=route.name or f"{index}:{path}",
        form=form,
        path=path,
        methods=route.match.methods if route.match else None,
        hosts=route.match.hosts if route.match else None,
        service=service,
        session=_session(settings.defaults, route),
        says_protected=route.protected is not None,
        headers=_header_policy(settings.defaults, route),
        timeouts=timeouts,
        rewrite=_rewrite(route.rewrite, form, path),
        host_header=route.host_header or host_header,
        upstream_401=route.upstream_401 or settings.defaults.upstream_401,
        websocket=route.websocket,
        max_body_size=settings.gateway.limits.max_body_size if body is None else body,
        buffer=settings.defaults.request.buffer if buffer is None else buffer,
        retry=route.retry,
        close_streams=(
            settings.defaults.session.close_streams if closes is None else closes
        ),
    )


def _service(name: str, service: config.ServiceConfig) -> Service:
    return Service(
        name=name,
        targets=tuple(config.address(target.url) for target in service.targets),
        tls=service.tls,
        max_connections=service.max_connections,
        max_waiting=service.max_waiting,
        paths=service.paths,
    )


def _header_policy(
    defaults: config.DefaultsConfig, route: config.RouteConfig
) -> HeaderPolicy:
    forward = route.forward_credentials
    return headers.policy(
        route.identity.headers,
        forward_credentials=defaults.forward_credentials
        if forward is None
        else forward,
        allow_field_names=route.request.allow_field_names,
    )


def _rewrite(rewrite: config.RewriteConfig, form: Form, path: str) -> Rewrite | None:
    prefix = rewrite.strip_prefix
    if prefix is None:
        if rewrite.replace_prefix is None:
            return None
        assert form in ("exact", "prefix"), "the schema allows no other form"
        prefix = path
    return Rewrite(
        strip=prefix.rstrip("/").count("/"),
        replacement=(rewrite.replace_prefix or "").rstrip("/"),
    )


_PROTECTION = {
    True: Protection.REQUIRED,
    False: Protection.PUBLIC,
    "optional": Protection.OPTIONAL,
}


def _session(
    defaults: config.DefaultsConfig, route: config.RouteConfig
) -> SessionPolicy:
    protected = defaults.protected if route.protected is None else route.protected
    session = defaults.session.model_copy(
        update=route.session.model_dump(exclude_none=True)
    )
    return SessionPolicy(
        protection=_PROTECTION[protected],
        requirements=_requirements(route.require),
        check_database=CheckDatabase(session.check_database),
        max_age_s=session.max_age,
    )


def _requirements(require: config.RequireConfig) -> Requirements:
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
            )
            for rule in require.claims
        ),
        max_age_s=require.max_age,
        validators=require.validators,
    )
