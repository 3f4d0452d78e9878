"""edge. The extra `grpc`: whether it is installed, and what needs it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gateway.config import DecisionConfig, Finding
from gateway.downstream.listener import Listener
from gateway.proxy import Proxy

if TYPE_CHECKING:
    from gateway.fronts.grpc_front import GrpcFront


def check(decision: DecisionConfig | None) -> Iterator[Finding]:
    """Yield a finding if *decision* needs what this machine doesn't have."""
    if decision is None or decision.grpc is None:
        return
    for package, module in (("h2", "h2"), ("protobuf", "google.protobuf")):
        if not _is_installed(module):
            yield Finding(
                loc=("gateway", "decision", "grpc"),
                message=f"the package {package} isn't installed",
                hint="Install it: pip install 'supertokens-gateway[grpc]'",
            )
            return


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in is missing
        return False


def grpc_front(
    decision: DecisionConfig | None, proxy: Proxy, listener: Listener
) -> GrpcFront | None:
    """Return what answers at `gateway.decision.grpc`; None: nothing listens there.

    *listener* counts the connections.
    """
    if decision is None or decision.grpc is None:
        return None
    from gateway.fronts.grpc_front import GrpcFront

    return GrpcFront(decision, proxy, listener)
