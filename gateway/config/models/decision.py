"""PURE. The keys below `gateway.decision`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from gateway.config.findings import Finding
from gateway.config.forms import Cidr, ListenPlace
from gateway.config.listens import ListenAddress, listen_address
from gateway.config.models.base import Model
from gateway.config.models.listens import ListenConfig

FrontEndpoint = Literal["auth-request", "forward-auth", "ext-authz"]
"""What a front speaks: nginx; Caddy and Traefik; Envoy."""


class DecisionConfig(Model):
    """Where other proxies ask whether a request may pass; see docs/fronts.md."""

    listen: ListenPlace | None = None
    """Where fronts ask over HTTP: `host:port` of its own, or `unix:/path`, which its
    user and group may use (mode 0660).

    Risk: whoever may use it can try sessions, and claim any client address, any host
    and https. Do not publish it.
    """
    trusted: tuple[Cidr, ...] = ()
    """Networks of the proxies that may ask; others get 403, or are closed by `grpc`.
    Needed unless `listen` and `grpc` are loopback addresses or sockets."""
    grpc: ListenPlace | None = None
    """Where Envoy asks over gRPC, in the form of `listen`: the service
    `envoy.service.auth.v3.Authorization`. Needs the extra `grpc`.

    Risk: as for `listen`.
    """
    endpoints: Annotated[tuple[FrontEndpoint, ...], Field(min_length=1)] = ()
    """What is answered at `listen`: `auth-request` (nginx), `forward-auth` (Caddy,
    Traefik), `ext-authz` (Envoy). Everything else is 404."""
    path: Literal["strict", "canonical"] = "strict"
    """`strict` refuses a path that differs from its canonical form, in which it was
    judged. `canonical` doesn't: the front must forward `X-Gateway-Target`.

    Risk: with `canonical`, a front that forwards the path as the client wrote it
    forwards another one than was judged.
    """
    new_tokens: Literal["deliver", "withhold"] = "deliver"
    """`withhold` is for fronts that can't give a client new tokens on an allowed
    request. The core's yes to a token then counts for `supertokens.cache.max_age`. No
    route may have `require.max_age`: claims that are fetched again come in a new token.
    """

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding if nobody could ask, or anybody on the network."""
        places = self.places()
        if not places:
            yield Finding(
                loc=(),
                message="there is no address at which fronts could ask",
                hint="Add listen with endpoints, or grpc",
            )
        if (self.listen is None) != (not self.endpoints):
            yield Finding(
                loc=() if self.endpoints == () else ("endpoints",),
                message="listen and endpoints belong together",
                hint="Add the one that is missing, such as endpoints: [forward-auth]",
            )
        if self.trusted and any(place.is_unix for _, place in places):
            yield Finding(
                loc=("trusted",),
                message="the peers of a Unix socket have no address",
                hint="Remove it: the permissions of the socket say who may ask",
            )
        for key, place in places:
            if not (self.trusted or place.is_unix or place.is_loopback):
                yield Finding(
                    loc=(key,),
                    message="without trusted, only a loopback address or a Unix socket"
                    " is allowed",
                    hint="List the proxies' networks in trusted, or listen on 127.0.0.1"
                    " or unix:/path",
                )

    def places(self) -> list[tuple[str, ListenAddress]]:
        """Return the addresses at which fronts ask, each with its key."""
        named = (("listen", self.listen), ("grpc", self.grpc))
        return [(key, listen_address(text)) for key, text in named if text is not None]


class DecisionListen(ListenConfig):
    """The address of `gateway.decision.listen`, opened as those of `gateway.listen`."""

    decision: DecisionConfig


class GrpcListen(ListenConfig):
    """The address of `gateway.decision.grpc`."""

    decision: DecisionConfig


def decision_listens(config: DecisionConfig | None) -> tuple[ListenConfig, ...]:
    """Return what is listened on for *config*: nothing, or an address for each key."""
    listens: list[ListenConfig] = []
    if config is not None and config.listen is not None:
        listens.append(DecisionListen(address=config.listen, decision=config))
    if config is not None and config.grpc is not None:
        listens.append(GrpcListen(address=config.grpc, decision=config))
    return tuple(listens)
