"""PURE. Who gets a message about leases of rate limits: the plan only relays them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from gateway.process.lease_messages import DrawLeases, LeasesDrawn
from gateway.process.plan_events import Send
from gateway.process.plan_state import Child, WorkerChild


def relayed(
    message: DrawLeases | LeasesDrawn,
    sender: Child,
    hub: Child | None,
    children: Mapping[int, Child],
) -> Iterator[Send] | None:
    """Return how *message* goes on; None: its sender may not send it.

    A worker's goes to the hub, if there is one that reads, and the hub's to the worker
    that it names, if it is still there. Whose it is, the plan says itself.
    """
    match message:
        case DrawLeases() if isinstance(sender, WorkerChild):
            return _to(hub, replace(message, child=sender.number))
        case LeasesDrawn() if sender is hub:
            worker = children.get(message.child)
            if not isinstance(worker, WorkerChild):
                worker = None
            return _to(worker, replace(message, child=0))
        case _:
            return None


def _to(receiver: Child | None, message: DrawLeases | LeasesDrawn) -> Iterator[Send]:
    if receiver is not None and not receiver.is_closed:
        yield Send(receiver.number, message)
