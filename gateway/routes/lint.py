"""PURE. Errors in a route table as a whole, and warnings of probable mistakes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from gateway import config
from gateway.config import Address, Config, EffectiveRoute, Finding
from gateway.config.findings import did_you_mean
from gateway.http.path_pattern import Pattern
from gateway.identity import Protection
from gateway.routes import assertion_lint, pressure, remarks, settings_lint
from gateway.routes.rate_lint import rate_warnings
from gateway.routes.route import Conditional, Matched, Route, shape
from gateway.routes.strictness import is_stricter
from gateway.routes.table import RouteTable


def own_paths(settings: Config, routes: Sequence[EffectiveRoute]) -> Iterator[Finding]:
    """Yield a finding for each route whose path the gateway answers itself."""
    auth = settings.supertokens.api_base_path
    yield from assertion_lint.own_path(settings)
    user, access = settings.gateway.user_path, settings.gateway.access_path
    jwks = assertion_lint.jwks_path(settings)
    if user == auth or user.startswith(f"{auth}/"):
        yield Finding(
            loc=("gateway", "user_path"),
            message="this path is below supertokens.api_base_path, which decides first",
            hint="Choose a path outside of it",
            see=("supertokens", "api_base_path"),
        )
    for route in routes:
        form, path = route.form, route.path
        start = Pattern(path).literal_prefix if form == "regex" else path
        below = start.startswith(f"{auth}/") or (start == auth and form != "regex")
        if below or (form == "exact" and path in (user, access, jwks)):
            yield Finding(
                loc=route.loc,
                message="this route can never match: the gateway answers this path",
                hint="Change the path, supertokens.api_base_path, gateway.user_path or"
                " gateway.assertion.jwks_path"
                if path == jwks
                else "Change the path, supertokens.api_base_path or gateway.user_path",
            )


def ways_to_the_core(settings: Config) -> Iterator[Finding]:
    """Yield a finding for each upstream that is the core.

    Through it, clients could create sessions.
    """
    cores = {
        (config.same_host(core.host), core.port)
        for core in config.core_addresses(settings.supertokens.connection_uri)
    }
    for loc, target in _targets(settings):
        if (config.same_host(target.host), target.port) in cores:
            yield Finding(
                loc=loc,
                message="this is the SuperTokens core, which clients must not reach",
                hint="Remove this upstream: through it, clients could create sessions",
            )


_RECIPE_OF: Mapping[str, str] = {
    "roles": "userroles",
    "permissions": "userroles",
    "email_verified": "emailverification",
    "mfa": "multifactorauth",
}
"""The recipe that puts the required claim into the token and fetches it again."""


def unmet_requirements(
    settings: Config, recipes: Collection[str] | None = None
) -> Iterator[Finding]:
    """Yield a finding for each requirement whose recipe is off: no session meets it.

    *recipes* are those that the SDK has started; unset, those of the file. With a
    `config_module`, there are no findings until its recipes are known.
    """
    module = settings.supertokens.config_module
    if recipes is None:
        if module is not None:
            return
        recipes = settings.supertokens.recipes
    for loc, require in _requires(settings):
        for key, recipe in _RECIPE_OF.items():
            required = key in require.model_fields_set
            if not required or getattr(require, key) is False or recipe in recipes:
                continue
            hint = f"Add {recipe} to supertokens.recipes"
            if module is not None:
                hint = f"Add {recipe}.init(…) to the recipe_list of {module}"
            yield Finding(
                loc=(*loc, key),
                message=f"this needs the recipe {recipe}, which is off",
                hint=hint,
            )


def no_tenant(routes: Sequence[EffectiveRoute]) -> Iterator[Finding]:
    """Yield a finding for each route that wants tenants of which its group has none."""
    for route in routes:
        wanted = [set(one.tenants) for one in route.requires if one.tenants]
        if wanted and not set.intersection(*wanted):
            yield Finding(
                loc=route.loc,
                message="no session can meet this: the route, its group and its service"
                " require different tenants",
                hint="Change require: {tenants: …} on one of them",
            )


def withheld_claims(settings: Config) -> Iterator[Finding]:
    """Yield a finding for each claim that would be fetched again for each request.

    It comes in a new token, and the file says that clients can't be given any.
    """
    decision = settings.gateway.decision
    if decision is None or decision.new_tokens != "withhold":
        return
    for loc, require in _requires(settings):
        if require.max_age is not None:
            yield Finding(
                loc=(*loc, "max_age"),
                message="claims that are fetched again come in a new token, and"
                " gateway.decision.new_tokens withholds it",
                hint="Remove max_age, or write new_tokens: deliver",
                see=("gateway", "decision", "new_tokens"),
            )


def _requires(
    settings: Config,
) -> Iterator[tuple[config.Loc, config.ConditionsConfig]]:
    """Yield what is required, with its place, wherever it stands in the file."""
    levels: list[tuple[config.Loc, config.RequireConfig]] = [
        (("routes", index), route.require)
        for index, route in enumerate(settings.routes)
    ]
    for number, group in enumerate(settings.groups):
        levels.append((("groups", number), group.require))
        levels += [
            (("groups", number, "routes", index), route.require)
            for index, route in enumerate(group.routes)
        ]
    levels += [
        (("services", name), service.require)
        for name, service in settings.services.items()
    ]
    for loc, require in levels:
        yield (*loc, "require"), require
        for number, item in enumerate(require.any):
            yield (*loc, "require", "any", number), item


def _targets(settings: Config) -> Iterator[tuple[config.Loc, Address]]:
    for name, service in settings.services.items():
        for index, target in enumerate(service.targets):
            loc = ("services", name, "targets", index, "url")
            yield loc, config.address(target.url)
    upstreams: list[tuple[config.Loc, str | None]] = [
        (("routes", index), route.upstream)
        for index, route in enumerate(settings.routes)
    ]
    for number, group in enumerate(settings.groups):
        upstreams.append((("groups", number), group.upstream))
        upstreams += [
            (("groups", number, "routes", index), route.upstream)
            for index, route in enumerate(group.routes)
        ]
    for place, upstream in upstreams:
        if upstream is not None:
            yield (*place, "upstream"), config.address(upstream)


def warnings(settings: Config, table: RouteTable) -> list[Finding]:
    """Return findings about settings that are valid but probably mistakes.

    *table* is the compiled table of *settings*.
    """
    return [
        *settings_lint.other_sites(settings),
        *settings_lint.unsent_cookies(settings),
        *settings_lint.readable_sessions(settings),
        *_no_core(settings, table),
        *_hidden_by_own_paths(settings, table),
        *assertion_lint.warnings(settings),
        *_loops(settings),
        *settings_lint.unused_services(settings, table),
        *settings_lint.unverified_services(settings),
        *pressure.doubtful_limits(settings),
        *pressure.doubtful_priorities(table),
        *_overlaps(table),
        *_lost_methods(table),
        *_spellings(settings, table),
        *_unknown_exclusions(settings, table),
        *rate_warnings(settings),
    ]


def _unknown_exclusions(settings: Config, table: RouteTable) -> Iterator[Finding]:
    """Yield a finding for each name in `log.exclude` that no route has."""
    known = {route.name for route in table.routes} | {"/user", "/auth", "/jwks"}
    for number, exclusion in enumerate(settings.log.exclude):
        if exclusion.route is not None and exclusion.route not in known:
            yield Finding(
                loc=("log", "exclude", number, "route"),
                message="no route has this name",
                hint=did_you_mean(exclusion.route, known)
                or "`gateway routes` lists the names",
            )


def _no_core(settings: Config, table: RouteTable) -> Iterator[Finding]:
    """Yield a finding if sessions are required, but the file names no core."""
    reads = (one.session.protection is not Protection.PUBLIC for one in table.routes)
    if "supertokens" not in settings.model_fields_set and any(reads):
        yield Finding(
            loc=(),
            message="there is no supertokens section: sessions are those of a core at"
            f" {settings.supertokens.connection_uri}",
            hint="Add supertokens with connection_uri, api_domain and website_domain",
        )


def _hidden_by_own_paths(settings: Config, table: RouteTable) -> Iterator[Finding]:
    """Yield a finding for a route that would take `gateway.user_path`, or the path of
    the keys of assertions.

    The root is left out: everybody's route for all the rest would be found.
    """
    path, access = settings.gateway.user_path, settings.gateway.access_path
    hint = "If the service needs it, set gateway.user_path to another path"
    yield from _hidden(table, "GET", path, "user_path", hint)
    if access is not None:
        yield from _hidden(table, "POST", access, "user_access", hint)
    if (jwks := assertion_lint.jwks_path(settings)) is not None:
        hint = "Name another path there, or change the route"
        yield from _hidden(table, "GET", jwks, "assertion.jwks_path", hint)


def _hidden(
    table: RouteTable, method: str, path: str, key: str, hint: str
) -> Iterator[Finding]:
    """Yield a finding for a route that would take *path*, which *key* has answered."""
    hosts = dict.fromkeys(
        host.replace("*", "x", 1) for one in table.routes for host in one.hosts or ()
    )
    for host in ("", *hosts):
        outcome = table.decide(method, host, path)
        if isinstance(outcome, Conditional):
            outcome = outcome.otherwise
        if isinstance(outcome, Matched) and outcome.route.path != "/":
            yield Finding(
                loc=outcome.route.loc,
                message=f"this route doesn't get {path}: the gateway answers it"
                f" (gateway.{key})",
                hint=hint,
            )
            return


def _lost_methods(table: RouteTable) -> Iterator[Finding]:
    """Yield a finding for each place that refuses what another route would take, and
    requires no more than that.
    """
    for remark in remarks.lost_methods(table):
        assert remark.other is not None, "the other route would take it"
        if is_stricter(remark.route.session, remark.other.session, "POST"):
            continue  # a guard: the method is meant to be refused
        yield Finding(
            loc=remark.route.loc,
            message=f"{remark.method} {remark.path} is 405 here, and not forwarded by"
            f" {remark.other.name}",
            hint="Add a route for the other methods of this path, or leave methods out",
            see=remark.other.loc,
        )


def _loops(settings: Config) -> Iterator[Finding]:
    """Yield a finding for each target that is the gateway itself."""
    own = [listen.parsed for listen in settings.gateway.listen]
    for loc, target in _targets(settings):
        if any(_is_same(target, listen) for listen in own):
            yield Finding(
                loc=loc,
                message="this is the gateway's own address: requests would loop",
                hint="Write the address of the service",
            )


def _is_same(target: config.Address, listen: config.ListenAddress) -> bool:
    """Return whether a service's address is one that the gateway listens on."""
    if listen.is_unix or target.scheme == "unix":
        return target.socket_path == listen.socket_path
    host = config.same_host(target.host)
    return target.port == listen.port and (
        host == config.same_host(listen.host)
        or (listen.is_everywhere and host == "localhost")
    )


def _overlaps(table: RouteTable) -> Iterator[Finding]:
    """Yield a finding for each route with the path of an earlier one that takes part of
    its requests.
    """
    taken: dict[tuple[object, ...], Route] = {}
    for route in sorted(table.routes, key=lambda route: route.index):
        path = shape(route.form, route.path)
        places = [
            (route.form, path, host, method, route.condition)
            for host in route.hosts or (None,)
            for method in route.methods or (None,)
        ]
        others = [taken[place] for place in places if place in taken]
        taken.update((place, route) for place in places if place not in taken)
        if others:
            yield Finding(
                loc=route.loc,
                message="an earlier route with this path takes some of its requests",
                hint="Give the two different methods or hosts",
                see=others[-1].loc,
            )


def _spellings(settings: Config, table: RouteTable) -> Iterator[Finding]:
    """Yield a finding for each service whose reading of paths may pass a guard."""
    by_service: dict[str, list[remarks.Remark]] = {}
    for remark in remarks.spellings(table):
        assert remark.other is not None, "a near miss has two routes"
        by_service.setdefault(remark.other.service.name, []).append(remark)
    for service, guards in by_service.items():
        first = guards[0]
        names = list(dict.fromkeys(guard.route.name for guard in guards))
        listed = ", ".join(names[:_SHOWN]) + ", …" * (len(names) > _SHOWN)
        assert first.other is not None, "see above"
        if table.refuses_near_misses:
            message = f"the guard of {listed} depends on how this service reads paths:"
            message += f" {first.path} is 404, not forwarded by {first.other.name}"
        else:
            message = f"the guard of {listed} may be passed: {first.path} is forwarded"
            message += f" by {first.other.name}, and near_misses aren't refused"
        yield Finding(
            loc=("services", service)
            if service in settings.services
            else (*first.other.loc, "upstream"),
            message=message,
            hint="Declare how it does: paths: exact, or see services.<name>.paths",
            see=first.route.loc,
        )


_SHOWN = 5
"""Most names of routes in one warning."""
