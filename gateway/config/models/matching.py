"""PURE. Which requests a route matches, and how it changes their path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from gateway.config.findings import Finding, did_you_mean, wrong
from gateway.config.forms import (
    Flag,
    HostPattern,
    MatchedField,
    MatchedValues,
    Method,
    Path,
    Prefix,
    Regex,
    Template,
    Text,
)
from gateway.config.models.base import Model
from gateway.config.models.rewrites import CookieMapConfig, short_cookies
from gateway.config.secret import SECRET

PathForm = Literal["exact", "prefix", "template", "regex"]
PATH_FORMS: Final[tuple[PathForm, ...]] = ("exact", "prefix", "template", "regex")


class PathMatchConfig(Model):
    """The path, in exactly one of four forms."""

    exact: Path | None = None
    """This path and no other."""
    prefix: Prefix | None = None
    """This path and all below it: `/orders` covers `/orders/1`, not `/ordersx`."""
    template: Template | None = None
    """`/orders/{id}/items`: a name in braces matches one non-empty segment.

    `/files/{id}/{rest...}` also matches all paths below `/files/{id}`.
    """
    regex: Regex | None = None
    """Pattern that matches the whole canonical path."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding unless exactly one form is given."""
        forms = [getattr(self, name) for name in type(self).model_fields]
        if len(forms) - forms.count(None) != 1:
            yield Finding(
                loc=(), message="expected exactly one of exact, prefix, template, regex"
            )

    @property
    def form(self) -> tuple[PathForm, str]:
        """The form that is given, and the path in it."""
        for name in PATH_FORMS:
            path = getattr(self, name)
            if path is not None:
                return name, path
        raise AssertionError("the schema accepts exactly one form")

    @property
    def matched(self) -> tuple[PathForm, str]:
        """The form that the path is matched in, and the path: `{rest…}` is a prefix."""
        form, path = self.form
        if form == "template" and path.endswith("...}"):
            return "prefix", path.rpartition("/")[0]
        return form, path


def _short_path(value: object) -> object:
    return {"prefix": value} if isinstance(value, str) else value


def _short_paths(value: object) -> object:
    """Return a prefix, a mapping or a list of these as a tuple of mappings."""
    if isinstance(value, list | tuple):
        return tuple(map(_short_path, value))
    return value if value is None else (_short_path(value),)


Paths = Annotated[
    tuple[PathMatchConfig, ...],
    Field(min_length=1),
    BeforeValidator(
        _short_paths,
        json_schema_input_type=Prefix
        | PathMatchConfig
        | list[Prefix | PathMatchConfig],
    ),
]
Methods = Annotated[tuple[Method, ...], Field(min_length=1)]
Hosts = Annotated[tuple[HostPattern, ...], Field(min_length=1)]


class MatchConfig(Model):
    """Which requests the route matches: all keys that are set must match."""

    path: Paths | None = None
    """As `path` of the route."""
    methods: Methods | None = None
    """As `methods` of the route."""
    hosts: Hosts | None = None
    """As `hosts` of the route."""
    headers: Annotated[dict[MatchedField, MatchedValues], SECRET] = Field(
        default_factory=dict
    )
    """Field name → its value, a list of values, or `"*"` for any. A request with the
    field twice doesn't match. It selects routes only: clients choose their fields.
    """
    query: Annotated[dict[Text, MatchedValues], SECRET] = Field(default_factory=dict)
    """Query parameter → its value, a list of values, or `"*"` for any. If it occurs
    twice, both must match.
    """


class RewriteConfig(Model):
    """How the path is changed for the upstream, and mapped back in its replies.

    The rest of the path and the query stay.
    """

    strip_prefix: Prefix | None = None
    """Prefix to remove. A final slash of the path is kept."""
    replace_prefix: Prefix | None = None
    """Replaces the stripped prefix or, without `strip_prefix`, the matched one."""
    strip: Flag = False
    """Remove the path of the route or, if it stands on a group, the path of the group.
    `rewrite: strip` is short for it.
    """
    redirects: Flag = True
    """Map redirects to the service's own origin and paths back to public ones.

    This holds without a change of the path, too. See docs/proxying.md.
    """
    cookies: Annotated[
        CookieMapConfig | None,
        BeforeValidator(short_cookies, json_schema_input_type=CookieMapConfig | bool),
    ] = None
    """Map Path and Domain of the service's cookies back. `true`: the defaults. Unset:
    they stay as they are.
    """

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding if the prefix to remove is given twice."""
        if self.strip and self.strip_prefix is not None:
            yield Finding(
                loc=("strip",), message="expected at most one of strip, strip_prefix"
            )


def _short_rewrite(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value != "strip":
        raise wrong(
            "expected strip, or keys such as strip_prefix",
            did_you_mean(value, ("strip",)),
        )
    return {"strip": True}


Rewrite = Annotated[
    RewriteConfig,
    BeforeValidator(
        _short_rewrite, json_schema_input_type=RewriteConfig | Literal["strip"]
    ),
]
