"""PURE. An upgrade: one gateway starts the next on its sockets, and exits after it.

The next one starts with the denials and keys of the one before. Its workers don't
accept until both agree:

    before                              next
    denials, keys, Ping  ──────────►    starts its workers
                         ◄──────────    Ready: all of them could accept
    Accept               ──────────►    accepts
    drains, exits

So a denial that the one before has sent by `Accept` is in force when the next one
accepts. Later denials pass between the two, and are acknowledged as by workers. If the
next one exits or is late before it has said Ready, nothing has changed for clients.

A gateway may start its next one while the one before it still drains: then denials pass
through it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.events import RuntimeEvent
from gateway.process.messages import Accept, Deny, Keys, Message, Ping, Ready
from gateway.process.plan_events import (
    Action,
    Announce,
    EndGateway,
    ForkGateway,
    HandOver,
    Inherited,
    Kill,
    LogLine,
    Send,
    TakeOver,
)
from gateway.process.plan_pace import SupervisorPace
from gateway.process.plan_state import ChildPlace, ChildState, Peer


def refused(reason: str) -> LogLine:
    """Return the line about an upgrade that hasn't happened because of *reason*."""
    return LogLine(
        RuntimeEvent.UPGRADE_REFUSED,
        f"not upgraded: {reason}. This gateway goes on",
        {"reason": reason},
    )


class Upgrade:
    """The upgrade of a gateway, and the gateway that it came from."""

    def __init__(self, pace: SupervisorPace, before: int | None) -> None:
        """*before* is the child's number of the gateway that has started this one."""
        self._pace = pace
        self.is_requested = False
        self.next: Peer | None = None
        """The gateway that takes over when it is ready."""
        self.before: Peer | None = None
        if before is not None:
            self.before = _peer(before, "the gateway before", 0.0)
            self.before.state = ChildState.READY
        self.is_waiting = before is not None
        """The gateway before still accepts, and this one must not."""
        self.must_have_keys = False
        """The gateway before has keys, so that this one must not accept without."""
        self._is_offered = False
        self._is_handed_over = False
        self._is_signal_due = False

    @property
    def is_under_way(self) -> bool:
        """Whether a next gateway starts, or ends before it has served."""
        return self.next is not None and not self._is_handed_over

    @property
    def peers(self) -> Iterator[Peer]:
        """The other gateways: denials pass between them and this one."""
        return (peer for peer in (self.before, self.next) if peer is not None)

    def request(self, *, is_leaving: bool) -> Iterator[LogLine]:
        """Note that an upgrade is wanted; yield why there won't be one."""
        if is_leaving:
            yield refused("this gateway stops")
        elif self.is_under_way or self.is_requested:
            yield refused("another upgrade is under way")
        else:
            self.is_requested = True

    def inherit(self, inherited: Inherited) -> Keys | None:
        """Note what the gateway before has; return the keys that can be used."""
        self.must_have_keys = inherited.must_have_keys
        return inherited.keys

    def start(
        self, number: int, now: float, denied: Iterable[Deny], keys: Keys | None
    ) -> list[Action]:
        """Start the next gateway as child *number*, with what it needs to know."""
        self.is_requested = False
        self.next = _peer(number, "the new gateway", now)
        self.next.drain_s = self._pace.upgrade_end_s
        handed: list[Message] = [*denied, *((keys,) if keys else ()), Ping()]
        return [ForkGateway(number), *(Send(number, message) for message in handed)]

    def on_tick(self, peer: Peer, now: float) -> Iterator[Action]:
        """End a next gateway that isn't ready in time; kill one that doesn't end."""
        if peer is not self.next or self._is_handed_over:
            return
        limit_s = self._pace.upgrade_s
        if peer.state is ChildState.STARTING and now > peer.since + limit_s:
            yield from self.end_next(f"it wasn't ready in {limit_s:g} s", now)
        elif peer.state is ChildState.ENDING and now > peer.since + peer.drain_s:
            yield from self.kill_next()

    def end_next(self, reason: str | None, now: float) -> Iterator[Action]:
        """Have a next gateway that doesn't serve yet exit, for *reason* if known."""
        peer = self.next
        self.is_requested = False
        if peer is None or self._is_handed_over or peer.state is ChildState.ENDING:
            return
        peer.state, peer.since = ChildState.ENDING, now
        peer.reason = peer.reason or reason
        yield EndGateway(peer.number)

    def abandon(self, now: float) -> Iterator[Action]:
        """Have a next gateway that doesn't serve yet exit: this one stops."""
        if self.is_under_way and self.next is not None:
            self.next.is_discarded = True
        yield from self.end_next("this gateway stops", now)

    def kill_next(self) -> Iterator[Action]:
        """Kill a next gateway that doesn't serve yet."""
        peer = self.next
        if peer is not None and not self._is_handed_over and not peer.is_killed:
            peer.is_killed = True
            peer.state = ChildState.ENDING
            yield Kill(peer.number)

    def offer(self) -> Iterator[Action]:
        """Yield what follows when all workers could accept; nothing twice."""
        if self.before is not None and not self._is_offered:
            self._is_offered = True
            yield Send(self.before.number, Ready())

    def hand_over(self, peer: Peer, message: Message) -> list[Action]:
        """Return what lets the next gateway accept; nothing unless it could now."""
        if not isinstance(message, Ready) or peer is not self.next:
            return []
        if peer.state is not ChildState.STARTING:
            return []  # sent before it was told to end
        peer.state = ChildState.READY
        self._is_handed_over = self._is_signal_due = True
        done = LogLine(
            RuntimeEvent.UPGRADE_DONE,
            "upgraded: the new gateway serves; this one finishes its requests",
        )
        return [HandOver(peer.number), Send(peer.number, Accept(())), done]

    def take_over(self, peer: Peer, message: Message) -> list[Action]:
        """Return what this gateway does when *message* lets it accept, else nothing."""
        if not isinstance(message, Accept) or peer is not self.before:
            return []
        if not self.is_waiting:
            return []
        self.is_waiting = False
        return [TakeOver(), Announce()]

    def is_first_signal(self) -> bool:
        """Return whether a signal to stop is the first since the upgrade.

        It may be meant for the next gateway, as Ctrl-C is: it forces nothing.
        """
        is_first, self._is_signal_due = self._is_signal_due, False
        return is_first

    def lost(self, peer: Peer, reason: str) -> list[Action]:
        """Forget a gateway that has ended, or whose channel has."""
        if peer is self.before:
            self.before = None
            return []
        self.next = None
        if self._is_handed_over or peer.is_discarded:
            return []
        return [refused(reason)]


def _peer(number: int, name: str, since: float) -> Peer:
    place = ChildPlace()
    peer = Peer(number=number, name=name, place=place, since=since, drain_s=0.0)
    place.child = peer
    return peer
