"""PURE. The routes as they take effect: each with one path, and no key left to a group.

Whatever reads routes reads these; only this file knows groups, lists of paths and the
order in which a key is looked up: route, group, service, `defaults`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Final, Literal, TypeVar

from gateway.config.findings import Finding, Loc
from gateway.config.models.answers import RedirectConfig, RespondConfig
from gateway.config.models.base import Model
from gateway.config.models.config import Config
from gateway.config.models.matching import MatchConfig, PathForm, PathMatchConfig
from gateway.config.models.messages import EditsConfig
from gateway.config.models.policies import RequireConfig
from gateway.config.models.routes import GroupConfig, RouteConfig, RouteSettings
from gateway.config.models.services import ServiceConfig
from gateway.config.splits import flaws
from gateway.http.path_pattern import BadPattern, Pattern

_MAX_SEGMENTS: Final = 64
_NO_MATCH: Final = MatchConfig()
_SIGN: Final = re.compile(r"[^A-Za-z0-9/_-]")
"""A character that a pattern takes as itself only behind a backslash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveRoute:
    """One path of one route, with everything that its group and its service set."""

    loc: Loc
    """The route's place: `("routes", 2)`, or `("groups", 0, "routes", 2)`."""
    name: str
    """The route's name or, without one, its number and path."""
    form: PathForm
    path: str
    """A prefix may have names in braces, like a template."""
    methods: tuple[str, ...] | None
    hosts: tuple[str, ...] | None
    match: MatchConfig
    """Its `headers` and `query` are further conditions."""
    settings: RouteSettings
    """Each key's nearest value. `service` or `upstream` is set, not both, unless the
    gateway answers itself."""
    protected: bool | Literal["optional"]
    says_protected: bool
    """`protected` stands on the route, its group or its service."""
    requires: tuple[RequireConfig, ...]
    """What a session must meet: all of these."""
    respond: RespondConfig | None
    redirect: RedirectConfig | None
    """One of the two, or a service."""
    strip: str | None
    """The prefix that `rewrite` removes, as long as the path's first segments."""


@dataclass(frozen=True, slots=True)
class _Level:
    """A place where keys of a route may stand."""

    loc: Loc
    values: RouteSettings | ServiceConfig

    def has(self, *keys: str) -> bool:
        return not self.values.model_fields_set.isdisjoint(keys)


def effective(config: Config) -> tuple[list[EffectiveRoute], list[Finding]]:
    """Return each path of each route in the order of the file, and what is wrong."""
    routes: list[EffectiveRoute] = []
    findings: dict[tuple[Loc, str], Finding] = {}
    for loc, route, group in _all(config):
        one = _Route(config, loc, route, group)
        routes += one.paths()
        for finding in one.findings:
            findings.setdefault((finding.loc, finding.message), finding)
    return routes, list(findings.values())


def _all(
    config: Config,
) -> Iterator[tuple[Loc, RouteConfig, GroupConfig | None]]:
    for index, route in enumerate(config.routes):
        yield ("routes", index), route, None
    for number, group in enumerate(config.groups):
        for index, route in enumerate(group.routes):
            yield ("groups", number, "routes", index), route, group


def generated_name(loc: Loc, path: str) -> str:
    """Return the name of a route that has none: its number, and its path."""
    return f"{'.'.join(str(step) for step in loc if isinstance(step, int))}:{path}"


class _Route:
    """One route of the file, and the levels above it."""

    def __init__(
        self,
        config: Config,
        loc: Loc,
        route: RouteConfig,
        group: GroupConfig | None,
    ) -> None:
        self.findings: list[Finding] = []
        self._loc = loc
        self._route = route
        self._group = group
        self._levels = [_Level(loc, route)]
        """The nearest one first."""
        if group is not None:
            self._levels.append(_Level(loc[:2], group))
        self._settings = self._merged(config)
        self._protect(config.defaults.protected)
        self._check_split(config.services)
        origins = self._settings.cors.allow_origins or ()
        if "*" in origins and self._protected is not False:
            level = next(x for x in self._levels if _allows_any_origin(x.values))
            self._found(
                (*level.loc, "cors", "allow_origins"),
                f"* is for public routes, and this one reads sessions: {self._name()}",
                "List the origins, or set protected: false",
            )

    def paths(self) -> Iterator[EffectiveRoute]:
        """Yield the route once for each of its paths."""
        route = self._route
        inner = route.match or _NO_MATCH
        at = "path" if route.path is not None else "match"
        for given in route.path or inner.path or ():
            form, path = self._path(given, at)
            yield EffectiveRoute(
                loc=self._loc,
                name=route.name or generated_name(self._loc, path),
                form=form,
                path=path,
                methods=route.methods or inner.methods,
                hosts=inner.hosts or self._settings.hosts,
                match=inner,
                settings=self._settings,
                protected=self._protected,
                says_protected=self._says_protected,
                requires=self._requires,
                respond=route.respond,
                redirect=route.redirect,
                strip=self._strip(form, path),
            )

    def _found(self, loc: Loc, message: str, hint: str = "") -> None:
        self.findings.append(Finding(loc=loc, message=message, hint=hint))

    # --- levels ---------------------------------------------------------------

    def _merged(self, config: Config) -> RouteSettings:
        """Return the nearest value of each key; add the service to the levels."""
        if self._route.respond is not None or self._route.redirect is not None:
            if len(self._route.answers) > 1:
                self._found(
                    self._loc,
                    "expected exactly one of upstream, service, respond and redirect",
                )
            if self._route.split is not None:
                self._found(
                    (*self._loc, "split"),
                    "the gateway answers this route itself, so there is nothing to"
                    " split",
                    "Remove split",
                )
            return self._rewritten(
                _merge(RouteSettings, [level.values for level in self._levels]),
                {"upstream": None, "service": None, "split": None},
            )
        where = next((x for x in self._levels if x.has("upstream", "service")), None)
        values = None if where is None else where.values
        assert not isinstance(values, ServiceConfig)
        if values is None or (values.upstream is None) == (values.service is None):
            self._found(
                self._loc if where is None else where.loc,
                "expected exactly one of upstream and service",
            )
        elif values.service in config.services:
            service = config.services[values.service]
            self._levels.append(_Level(("services", values.service), service))
        merged = _merge(RouteSettings, [level.values for level in self._levels])
        own: dict[str, Any] = {
            "upstream": values and values.upstream,
            "service": values and values.service,
            "assertion": self._is_asserted(),
        }
        return self._rewritten(merged, own)

    def _is_asserted(self) -> bool:
        """Return what the route or its group says. A service has a key of this name,
        too, which holds for itself only: a split route has two services.
        """
        level = next((x for x in self._levels if x.has("assertion")), None)
        if level is None or isinstance(level.values, ServiceConfig):
            return True
        return level.values.assertion

    def _rewritten(self, merged: RouteSettings, own: dict[str, Any]) -> RouteSettings:
        """Return *merged* with the values of *own*, and the nearest rewrite."""
        rewriting = next((x for x in self._levels if _rewrites(x)), None)
        self._rewrites_at = rewriting
        if rewriting is not None:
            assert isinstance(rewriting.values, RouteSettings)
            nearest = rewriting.values.rewrite
            own["rewrite"] = merged.rewrite.model_copy(
                update={key: getattr(nearest, key) for key in _REWRITES}
            )
        return merged.model_copy(update=own)

    def _protect(self, default: bool | Literal["optional"]) -> None:
        """Set `protected` and what is required.

        Whoever opens a route drops what the levels above require. A level that itself,
        or in vain, requires something of an open route contradicts itself.
        """
        depth = len(self._levels)
        self._protected = default
        for number, level in enumerate(self._levels):
            if level.values.protected is not None:
                depth, self._protected = number, level.values.protected
                break
        self._says_protected = depth < len(self._levels)
        demanding = [
            (number, level)
            for number, level in enumerate(self._levels)
            if level.values.require.model_fields_set
        ]
        if self._protected is True:
            self._requires = tuple(level.values.require for _, level in demanding)
            return
        self._requires = ()
        for number, level in demanding:
            if number <= depth:
                self._found(
                    (*level.loc, "require"),
                    "nothing can be required here: the route needs no session"
                    if level.loc == self._loc
                    else f"a route of it needs no session: {self._name()}",
                    "Set protected: true, or remove require",
                )

    def _check_split(self, services: Mapping[str, ServiceConfig]) -> None:
        level = next((x for x in self._levels if x.has("split")), None)
        split = self._settings.split
        if split is None or level is None:
            return
        own = self._settings.service
        for finding in flaws(split, own, services, reads_session=bool(self._protected)):
            loc = (*level.loc, "split", *finding.loc)
            message = finding.message
            if level.loc != self._loc and finding.loc != ("to",):
                message += f": {self._name()}"
            self.findings.append(replace(finding, loc=loc, message=message))

    def _name(self) -> str:
        return self._route.name or ".".join(map(str, self._loc))

    # --- paths ----------------------------------------------------------------

    def _path(self, given: PathMatchConfig, at: str) -> tuple[PathForm, str]:
        """Return the form of a path, and the path with that of the group before it."""
        form, path = given.matched
        before = None if self._group is None else self._group.path
        if before is not None and before != "/":
            if form == "regex":
                inner = f"({path})" if "|" in path else path
                path = _SIGN.sub(r"\\\g<0>", before) + inner
                try:
                    Pattern(path)
                except BadPattern as exc:
                    self._found((*self._loc, at), f"behind its group's path, {exc}")
            elif form == "prefix":
                path = before + path.rstrip("/")
            else:
                path = before + path
        if form != "regex" and path.count("/") > _MAX_SEGMENTS:
            self._found(
                (*self._loc, at), f"a path has at most {_MAX_SEGMENTS} segments"
            )
        return form, path

    def _strip(self, form: PathForm, path: str) -> str | None:
        """Return the prefix that is removed from *path*, None if none is."""
        level = self._rewrites_at
        if level is None:
            return None
        rewrite = self._settings.rewrite
        loc = (*level.loc, "rewrite")
        if rewrite.strip_prefix is not None:
            if not _begins(form, path, rewrite.strip_prefix):
                self._found(
                    (*loc, "strip_prefix"),
                    "the route's paths don't all begin with this prefix",
                    "Strip whole segments from the beginning of the route's path",
                )
            return rewrite.strip_prefix
        if isinstance(level.values, GroupConfig):
            if level.values.path is None:
                self._found(loc, "this group has no path to strip", "Add its path")
            return level.values.path
        if form in ("template", "regex"):
            self._found(
                (*loc, "strip" if rewrite.strip else "replace_prefix"),
                f"a template or regex has no prefix to"
                f" {'strip' if rewrite.strip else 'replace'}",
                "Name the prefix with strip_prefix",
            )
            return None
        return path


def _allows_any_origin(values: RouteSettings | ServiceConfig) -> bool:
    return "*" in (values.cors.allow_origins or ())


_REWRITES: Final = ("strip", "strip_prefix", "replace_prefix")


def _rewrites(level: _Level) -> bool:
    """Return whether the path is rewritten at *level*."""
    if isinstance(level.values, ServiceConfig):
        return False
    rewrite = level.values.rewrite
    return rewrite.strip or bool(rewrite.strip_prefix or rewrite.replace_prefix)


M = TypeVar("M", bound=Model)


def _merge(model: type[M], levels: Sequence[Model]) -> M:
    """Return a *model* with the value of the first level that sets a key, for each key.

    Models within are merged in the same way; so are mappings, whose names may differ
    in case.
    """
    merged: dict[str, Any] = {}
    for key in model.model_fields:
        values = [
            getattr(level, key) for level in levels if key in level.model_fields_set
        ]
        if not values:
            continue
        nearest = values[0]
        if isinstance(nearest, EditsConfig):
            merged[key] = nearest.over(values[1:])
        elif isinstance(nearest, Model):
            # None, which `cookies: false` means, ends what is merged.
            models = takewhile(lambda value: isinstance(value, Model), values)
            merged[key] = _merge(type(nearest), list(models))
        elif isinstance(nearest, dict):
            by_name = {
                name.lower(): (name, item)
                for value in reversed(values)
                for name, item in value.items()
            }
            merged[key] = dict(by_name.values())
        else:
            merged[key] = nearest
    first = levels[0]
    if isinstance(first, model):
        return first.model_copy(update=merged)  # model_construct copies each default
    return model.model_construct(**merged)


def _begins(form: PathForm, path: str, prefix: str) -> bool:
    """Return whether all matching paths begin with the whole segments of *prefix*."""
    if prefix == "/":
        return True
    if form == "regex":
        return Pattern(path).begins_with(prefix)
    return path == prefix or path.startswith(f"{prefix}/")
