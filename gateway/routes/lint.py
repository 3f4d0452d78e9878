"""PURE. What a route table must not say, and what it probably doesn't mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway import config
from gateway.config import Address, Config, Finding
from gateway.http.path_pattern import Pattern
from gateway.routes import remarks
from gateway.routes.route import Form
from gateway.routes.table import RouteTable


def own_paths(settings: Config) -> Iterator[Finding]:
    """Yield routes whose paths the gateway answers itself: they can never match."""
    auth = settings.supertokens.api_base_path
    user = settings.gateway.user_path
    if user == auth or user.startswith(f"{auth}/"):
        yield Finding(
            loc=("gateway", "user_path"),
            message="this lies below supertokens.api_base_path, which comes first",
            see=("supertokens", "api_base_path"),
        )
    for index, given in enumerate(settings.routes):
        form, path = form_of(given)
        start = Pattern(path).literal_prefix if form == "regex" else path
        below = start.startswith(f"{auth}/") or (start == auth and form != "regex")
        if below or (form == "exact" and path == user):
            yield Finding(
                loc=("routes", index),
                message="this route can never match: the gateway itself answers here",
                hint="See supertokens.api_base_path and gateway.user_path",
            )


def ways_to_the_core(settings: Config) -> Iterator[Finding]:
    """Yield upstreams that are the core: with them, clients could make sessions."""
    cores = {
        (config.same_host(core.host), core.port)
        for core in config.core_addresses(settings.supertokens.connection_uri)
    }
    for loc, target in _targets(settings):
        if (config.same_host(target.host), target.port) in cores:
            yield Finding(
                loc=loc,
                message="this is the SuperTokens core, which clients must not reach",
                hint="Its API belongs behind the gateway: sessions could be made there",
            )


_RECIPE_OF: Mapping[str, str] = {
    "roles": "userroles",
    "permissions": "userroles",
    "email_verified": "emailverification",
    "mfa": "multifactorauth",
}
"""Which recipe puts what is required into the token, and fetches it again."""


def unmet_requirements(settings: Config) -> Iterator[Finding]:
    """Yield requirements whose claim nobody here can fetch: nobody meets them.

    A `config_module` has its own recipes, which are known only when it's started.
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
                hint = "This recipe takes a supertokens.config_module"
            yield Finding(
                loc=("routes", index, "require", key),
                message=f"this needs the recipe {recipe}, which isn't on",
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
    """Return what can be served but is probably not what was meant.

    *table* is what the routes of *settings* were compiled to.
    """
    return [
        *_doubtful_cookies(settings.supertokens),
        *_doubtful_services(settings),
        *_overlaps(settings),
        *_spellings(settings, table),
    ]


def _doubtful_cookies(given: config.SuperTokensConfig) -> Iterator[Finding]:
    place = ("supertokens", "cookie", "secure")
    api_domain = given.api_domain
    if given.cookie.same_site == "none":
        if given.anti_csrf == "NONE":
            yield Finding(
                loc=("supertokens", "anti_csrf"),
                message="other sites can act for your users: cookies go with their"
                " requests (same_site: none), and nothing else is asked for",
                hint="Leave anti_csrf out",
            )
        if given.cookie.secure is False:
            yield Finding(
                loc=place, message="browsers drop same_site: none without secure: true"
            )
    if api_domain.startswith("http:"):
        host = config.origin_host(api_domain)
        if given.cookie.secure:
            yield Finding(
                loc=place,
                message="browsers don't send secure cookies to an http api_domain",
            )
        if config.same_host(host) != "localhost":
            yield Finding(
                loc=("supertokens", "api_domain"),
                message="sessions can be read on the way: this isn't https",
            )


def _doubtful_services(settings: Config) -> Iterator[Finding]:
    host, _, port = settings.gateway.listen.rpartition(":")
    for loc, target in _targets(settings):
        everywhere = host in ("0.0.0.0", "[::]")  # noqa: S104 # compared, not bound
        here = everywhere and config.same_host(target.host) == "localhost"
        if str(target.port) == port and (
            here or config.same_host(target.host) == config.same_host(host)
        ):
            yield Finding(loc=loc, message="this is the gateway itself: a loop")
    used = {route.service for route in settings.routes}
    for name, service in settings.services.items():
        if name not in used:
            yield Finding(loc=("services", name), message="no route leads here")
        if not service.tls.verify:
            yield Finding(
                loc=("services", name, "tls", "verify"),
                message="anyone on the way can pretend to be this service",
            )


def _overlaps(settings: Config) -> Iterator[Finding]:
    """Yield routes of which an earlier one, with the same path, takes a part."""
    taken: dict[tuple[object, ...], int] = {}
    for index, given in enumerate(settings.routes):
        form, path = form_of(given)
        shape = "/".join(
            "{}" if form == "template" and segment.startswith("{") else segment
            for segment in path.split("/")
        )
        hosts = (given.match and given.match.hosts) or (None,)
        methods = (given.match and given.match.methods) or (None,)
        lost = None
        for place in ((form, shape, h, m) for h in hosts for m in methods):
            lost = taken.get(place, lost)
            taken.setdefault(place, index)
        if lost not in (None, index):
            assert lost is not None
            yield Finding(
                loc=("routes", index),
                message="an earlier route with this path takes some of its requests",
                see=("routes", lost),
            )


def _spellings(settings: Config, table: RouteTable) -> Iterator[Finding]:
    """Yield the services that may read a path past the guard of another route."""
    found: dict[str, list[remarks.Remark]] = {}
    for remark in remarks.spellings(table):
        assert remark.other is not None, "a near miss has two routes"
        found.setdefault(remark.other.service.name, []).append(remark)
    for service, guards in found.items():
        first = guards[0]
        names = list(dict.fromkeys(guard.route.name for guard in guards))
        shown = ", ".join(names[:_SHOWN]) + ", …" * (len(names) > _SHOWN)
        assert first.other is not None, "see above"
        if table.refuses_near_misses:
            message = f"what guards {shown} depends on how this service reads paths:"
            message += f" {first.path} is 404, not forwarded by {first.other.name}"
        else:
            message = f"what guards {shown} may be passed: {first.path} is forwarded"
            message += f" by {first.other.name}, and near_misses aren't refused"
        yield Finding(
            loc=("services", service)
            if service in settings.services
            else ("routes", first.other.index, "upstream"),
            message=message,
            hint="Say how it reads them: paths: exact, or see services.<name>.paths",
            see=("routes", first.route.index),
        )


_SHOWN = 5
"""Names of routes that one warning lists."""


def form_of(given: config.RouteConfig) -> tuple[Form, str]:
    """Return which form of path a route has, and the path."""
    match given.path_match:
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
