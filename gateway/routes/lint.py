"""PURE. Errors in a route table as a whole, and warnings of probable mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway import config
from gateway.config import Address, Config, Finding
from gateway.http.path_pattern import Pattern
from gateway.routes import remarks
from gateway.routes.route import Form
from gateway.routes.table import RouteTable


def own_paths(settings: Config) -> Iterator[Finding]:
    """Yield a finding for each route whose path the gateway answers itself."""
    auth = settings.supertokens.api_base_path
    user = settings.gateway.user_path
    if user == auth or user.startswith(f"{auth}/"):
        yield Finding(
            loc=("gateway", "user_path"),
            message="this path is below supertokens.api_base_path, which decides first",
            hint="Choose a path outside of it",
            see=("supertokens", "api_base_path"),
        )
    for index, route in enumerate(settings.routes):
        form, path = form_of(route)
        start = Pattern(path).literal_prefix if form == "regex" else path
        below = start.startswith(f"{auth}/") or (start == auth and form != "regex")
        if below or (form == "exact" and path == user):
            yield Finding(
                loc=("routes", index),
                message="this route can never match: the gateway answers this path",
                hint="Change the path, supertokens.api_base_path or gateway.user_path",
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


def unmet_requirements(settings: Config) -> Iterator[Finding]:
    """Yield a finding for each requirement whose recipe is off: no session meets it.

    With a `config_module`, there are none: its recipes are known only at start.
    """
    if settings.supertokens.config_module is not None:
        return
    for index, route in enumerate(settings.routes):
        for key, recipe in _RECIPE_OF.items():
            required = key in route.require.model_fields_set
            if (
                not required
                or getattr(route.require, key) is False
                or recipe in settings.supertokens.recipes
            ):
                continue
            hint = f"Add {recipe} to supertokens.recipes"
            if recipe not in config.RECIPES:
                hint = "Only a supertokens.config_module can add this recipe"
            yield Finding(
                loc=("routes", index, "require", key),
                message=f"this needs the recipe {recipe}, which is off",
                hint=hint,
            )


def _targets(settings: Config) -> Iterator[tuple[config.Loc, Address]]:
    for name, service in settings.services.items():
        for index, target in enumerate(service.targets):
            loc = ("services", name, "targets", index, "url")
            yield loc, config.address(target.url)
    for index, route in enumerate(settings.routes):
        if route.upstream is not None:
            yield ("routes", index, "upstream"), config.address(route.upstream)


def warnings(settings: Config, table: RouteTable) -> list[Finding]:
    """Return findings about settings that are valid but probably mistakes.

    *table* is the compiled table of *settings*.
    """
    return [
        *_doubtful_cookies(settings.supertokens),
        *_doubtful_services(settings),
        *_overlaps(settings),
        *_spellings(settings, table),
    ]


def _doubtful_cookies(supertokens: config.SuperTokensConfig) -> Iterator[Finding]:
    place = ("supertokens", "cookie", "secure")
    api_domain = supertokens.api_domain
    if supertokens.cookie.same_site == "none":
        if supertokens.anti_csrf == "NONE":
            yield Finding(
                loc=("supertokens", "anti_csrf"),
                message="other sites can act for your users: browsers add the cookies"
                " to their requests (same_site: none), and nothing checks for CSRF",
                hint="Remove anti_csrf",
            )
        if supertokens.cookie.secure is False:
            yield Finding(
                loc=place,
                message="browsers drop same_site: none without secure: true",
                hint="Set secure: true",
            )
    if api_domain.startswith("http:"):
        host = config.origin_host(api_domain)
        if supertokens.cookie.secure:
            yield Finding(
                loc=place,
                message="browsers don't send secure cookies to an http api_domain",
                hint="Use an https api_domain",
            )
        if config.same_host(host) != "localhost":
            yield Finding(
                loc=("supertokens", "api_domain"),
                message="this isn't https: sessions can be read on the network",
                hint="Use https",
            )


def _doubtful_services(settings: Config) -> Iterator[Finding]:
    host, _, port = settings.gateway.listen.rpartition(":")
    for loc, target in _targets(settings):
        everywhere = host in ("0.0.0.0", "[::]")  # noqa: S104 # compared, not bound
        here = everywhere and config.same_host(target.host) == "localhost"
        if str(target.port) == port and (
            here or config.same_host(target.host) == config.same_host(host)
        ):
            yield Finding(
                loc=loc,
                message="this is the gateway's own address: requests would loop",
                hint="Write the address of the service",
            )
    used = {route.service for route in settings.routes}
    for name, service in settings.services.items():
        if name not in used:
            yield Finding(
                loc=("services", name),
                message="no route uses this service",
                hint="Remove it, or add a route",
            )
        if not service.tls.verify:
            yield Finding(
                loc=("services", name, "tls", "verify"),
                message="an attacker on the network can pose as this service",
                hint="Remove verify: false, and set ca_file if needed",
            )


def _overlaps(settings: Config) -> Iterator[Finding]:
    """Yield a finding for each route with the path of an earlier one that takes part of
    its requests.
    """
    taken: dict[tuple[object, ...], int] = {}
    for index, route in enumerate(settings.routes):
        form, path = form_of(route)
        shape = "/".join(
            "{}" if form == "template" and segment.startswith("{") else segment
            for segment in path.split("/")
        )
        hosts = (route.match and route.match.hosts) or (None,)
        methods = (route.match and route.match.methods) or (None,)
        earlier = None
        for place in ((form, shape, h, m) for h in hosts for m in methods):
            earlier = taken.get(place, earlier)
            taken.setdefault(place, index)
        if earlier not in (None, index):
            assert earlier is not None
            yield Finding(
                loc=("routes", index),
                message="an earlier route with this path takes some of its requests",
                hint="Give the two different methods or hosts",
                see=("routes", earlier),
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
            else ("routes", first.other.index, "upstream"),
            message=message,
            hint="Declare how it does: paths: exact, or see services.<name>.paths",
            see=("routes", first.route.index),
        )


_SHOWN = 5
"""Most names of routes in one warning."""


def form_of(route: config.RouteConfig) -> tuple[Form, str]:
    """Return the form of a route's path, and the path."""
    match route.path_match:
        case config.PathMatchConfig(exact=str(path)):
            return "exact", path
        case config.PathMatchConfig(template=str(path)):
            return "template", path
        case config.PathMatchConfig(regex=str(path)):
            return "regex", path
        case config.PathMatchConfig(prefix=str(path)):
            return "prefix", path
        case _:  # pragma: no cover - the schema has refused it
            raise AssertionError("a route has exactly one form of path")
