"""PURE. The keys below `log`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from gateway.config.findings import Finding
from gateway.config.forms import Flag, LoggedStatus, Seconds, Share, Text
from gateway.config.models.base import Model
from gateway.config.models.matching import Paths


class LogExclusionConfig(Model):
    """Requests without a line: those that match all keys that are set."""

    path: Paths | None = None
    """Their path, as `path` of a route: `/healthz` covers the paths below it, too."""
    route: Text | None = None
    """Their route, by its name in the log: `name`, `/user` or `/auth`."""
    status: Annotated[tuple[LoggedStatus, ...], Field(min_length=1)] | None = None
    """Statuses sent to the client: `204`, or a class such as `2xx`."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding if no key is set, which would match every request."""
        if not self._keys_set("path", "route", "status"):
            yield Finding(
                loc=(),
                message="expected at least one of path, route, status",
                hint="For no access log at all, set log.format: none",
            )


class LogConfig(Model):
    """The access log, and messages about the gateway itself; see docs/operations.md."""

    format: Literal["text", "json", "ecs", "none"] = "text"
    """Form of the access log on standard output and of messages on standard error.
    `ecs` is JSON in the Elastic Common Schema. With `none` there is no access log, and
    messages are text. `--log-format` overrides it. A change needs a restart."""
    level: Literal["info", "warning", "error"] = "info"
    """Least severity of messages about the gateway on standard error. What an operator
    does over the admin listener is logged at each level."""
    exclude: tuple[LogExclusionConfig, ...] = ()
    """Requests that are left out of the access log, such as health checks.

    Risk: refused requests that match are left out, too; `status` can prevent that.
    """
    sample: Share = 1.0
    """Share of the other requests that have a line. Refused and failed requests, 5xx
    and slow ones always have one. All requests with one id have a line, or none has."""
    slow: Seconds = 1.0
    """How long a request takes at least to count as slow for `sample`."""
    user_agent: Flag = False
    """Log the first 256 characters of User-Agent."""
