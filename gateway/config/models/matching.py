"""PURE. Which requests a route matches, and how it changes their path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from gateway.config.findings import Finding
from gateway.config.forms import HostPattern, Method, Path, Prefix, Regex, Template
from gateway.config.models.base import Model


class PathMatchConfig(Model):
    """The path, in exactly one of four forms."""

    exact: Path | None = None
    """This path and no other."""
    prefix: Prefix | None = None
    """This path and all below it: `/orders` covers `/orders/1`, not `/ordersx`."""
    template: Template | None = None
    """`/orders/{id}/items`: a name in braces matches one non-empty segment."""
    regex: Regex | None = None
    """Pattern that matches the whole canonical path."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding unless exactly one form is given."""
        forms = [getattr(self, name) for name in type(self).model_fields]
        if len(forms) - forms.count(None) != 1:
            yield Finding(
                loc=(), message="expected exactly one of exact, prefix, template, regex"
            )


class MatchConfig(Model):
    """Which requests the route matches: all keys that are set must match."""

    path: PathMatchConfig
    methods: Annotated[tuple[Method, ...] | None, Field(min_length=1)] = None
    """Unset: all. GET includes HEAD."""
    hosts: Annotated[tuple[HostPattern, ...] | None, Field(min_length=1)] = None
    """`api.example.com`, or `*.example.com` for one label or more."""


class RewriteConfig(Model):
    """How the path is changed for the upstream. The rest of it and the query stay."""

    strip_prefix: Prefix | None = None
    """Prefix to remove. A final slash of the path is kept."""
    replace_prefix: Prefix | None = None
    """Replaces the stripped prefix or, without `strip_prefix`, the matched one."""
