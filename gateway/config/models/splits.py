"""PURE. The keys of `split`: which requests of a route go to another service."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from gateway.config.findings import wrong
from gateway.config.forms import Name, Part, hash_key
from gateway.config.models.base import Model

_NONE = "none"


def _sticky(text: str) -> str:
    return text if text == _NONE else hash_key(text, _NONE)


def _override(text: str) -> str:
    if text.partition(":")[0] not in ("cookie", "header"):
        raise wrong("expected cookie:NAME or header:NAME")
    return hash_key(text)


class SplitConfig(Model):
    """A share of the requests goes to another service, such as a canary.

    Which service gets a request is decided after its session was verified. All keys of
    the route hold for both services. See docs/proxying.md.
    """

    to: Name
    """Name of the other service."""
    weight: Part
    """Its share of the requests, from 0 (none of them) to 1."""
    sticky: Annotated[str, AfterValidator(_sticky)] = "user"
    """What decides: the requests of one `user`, `session`, `tenant` or `client`
    address, or with the same `cookie:NAME` or `header:NAME`, go to one service. A
    request without it isn't split. `none`: each request for itself.
    """
    override: Annotated[str, AfterValidator(_override)] | None = None
    """`cookie:NAME` or `header:NAME` with which a client chooses for itself: `always`
    is the other service, `never` the route's own. Any other value is ignored.
    """
