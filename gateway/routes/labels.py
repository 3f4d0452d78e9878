"""PURE. Labels of routes: names that don't change when another route is inserted."""

from __future__ import annotations

from gateway import config
from gateway.routes.route import Route


def is_named(route: Route) -> bool:
    """Return whether the file gives the route a name."""
    return route.name != config.generated_name(route.loc, route.path)


def label(route: Route) -> str:
    """Return the route's name or, without one, what tells it from other routes.

    That is `GET,POST api.example.com/orders (exact)`, or `/orders` for a prefix with
    any method and host. A route with conditions has the names of their fields and
    parameters, too.
    """
    if is_named(route):
        return route.name
    methods = f"{','.join(sorted(route.methods))} " if route.methods else ""
    hosts = ",".join(route.hosts or ())
    form = "" if route.form == "prefix" else f" ({route.form})"
    return f"{methods}{hosts}{route.path}{form}{condition_words(route)}"


def condition_words(route: Route) -> str:
    """Return the fields and parameters that the route asks for, in words."""
    if route.condition is None:
        return ""
    words = [name.decode() for name, _ in route.condition.fields]
    words += [f"?{name}" for name, _ in route.condition.query]
    return f" if {' '.join(words)}"
