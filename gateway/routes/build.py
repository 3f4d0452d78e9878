"""PURE. The configuration's routes → compiled ones, with all defaults filled in."""

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
        InvalidConfig: a route can never match, it leads to the core, or nobody can
            meet what it requires. All such routes are named.
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
        _route(settings, services, index, given)
        for index, given in enumerate(settings.routes)
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
    given: config.RouteConfig,
) -> Route:
    form, path = lint.form_of(given)
    if given.upstream is not None:
        service = services.get(given.upstream)
        if service is None:
            target = config.TargetConfig(url=given.upstream)
            service = _service(given.upstream, config.ServiceConfig(targets=(target,)))
            services[given.upstream] = service
        narrower = config.TimeoutsPatch()
        host_header = "upstream"
    else:
        assert given.service is not None
        service = services[given.service]
        narrower = settings.services[given.service].timeouts
        host_header = settings.services[given.service].host_header
    timeouts = settings.defaults.timeouts
    for patch in (narrower, given.timeouts):
        timeouts = timeouts.model_copy(update=patch.model_dump(exclude_none=True))
    body = given.request.max_body_size
    return Route(
        index=index,
        name=given.name or f"{index}:{path}",
        form=form,
        path=path,
        methods=given.match.methods if given.match else None,
        hosts=given.match.hosts if given.match else None,
        service=service,
        session=_session(settings.defaults, given),
        says_protected=given.protected is not None,
        headers=_header_policy(settings.defaults, given),
        timeouts=timeouts,
        rewrite=_rewrite(given.rewrite, form, path),
        host_header=given.host_header or host_header,
        upstream_401=given.upstream_401 or settings.defaults.upstream_401,
        websocket=given.websocket,
        max_body_size=settings.gateway.limits.max_body_size if body is None else body,
        retry=given.retry,
    )


def _service(name: str, given: config.ServiceConfig) -> Service:
    return Service(
        name=name,
        targets=tuple(config.address(target.url) for target in given.targets),
        tls=given.tls,
        max_connections=given.max_connections,
        paths=given.paths,
    )


def _header_policy(
    defaults: config.DefaultsConfig, given: config.RouteConfig
) -> HeaderPolicy:
    forward = given.forward_credentials
    return headers.policy(
        given.identity.headers,
        forward_credentials=defaults.forward_credentials
        if forward is None
        else forward,
        allow_field_names=given.request.allow_field_names,
    )


def _rewrite(given: config.RewriteConfig, form: Form, path: str) -> Rewrite | None:
    prefix = given.strip_prefix
    if prefix is None:
        if given.replace_prefix is None:
            return None
        assert form in ("exact", "prefix"), "the schema has refused the others"
        prefix = path
    return Rewrite(
        strip=prefix.rstrip("/").count("/"),
        replacement=(given.replace_prefix or "").rstrip("/"),
    )


_PROTECTION = {
    True: Protection.REQUIRED,
    False: Protection.PUBLIC,
    "optional": Protection.OPTIONAL,
}


def _session(
    defaults: config.DefaultsConfig, given: config.RouteConfig
) -> SessionPolicy:
    protected = defaults.protected if given.protected is None else given.protected
    session = defaults.session.model_copy(
        update=given.session.model_dump(exclude_none=True)
    )
    return SessionPolicy(
        protection=_PROTECTION[protected],
        requirements=_requirements(given.require),
        check_database=CheckDatabase(session.check_database),
        max_age_s=session.max_age,
    )


def _requirements(given: config.RequireConfig) -> Requirements:
    return Requirements(
        roles_any=given.roles.any,
        roles_all=given.roles.all,
        permissions_any=given.permissions.any,
        permissions_all=given.permissions.all,
        email_verified=given.email_verified,
        mfa=given.mfa,
        tenants=given.tenants,
        claims=tuple(
            ClaimRule(
                path=tuple(rule.path.split(".")),
                any_of=rule.any_of or (),
                equals=rule.equals,
                has_equals="equals" in rule.model_fields_set,
                contains=rule.contains,
                has_contains="contains" in rule.model_fields_set,
            )
            for rule in given.claims
        ),
        max_age_s=given.max_age,
        validators=given.validators,
    )
