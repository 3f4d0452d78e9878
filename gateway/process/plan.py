"""PURE. The supervisor's decisions, apart from their execution.

`Plan.on` takes one event and returns the actions that follow from it. The plan holds
the supervisor's state: generations, back-off, which worker accepts from which socket,
the deny-list, the signing keys, drain deadlines. It owns no process, socket or clock.

These rules hold after every event, in any order of events:
- While a worker is ready, every socket is accepted from.
- Only one generation accepts.
- A denial reaches every worker, and reaches a new worker before it accepts. Its sender
  is told when all workers that may have clients have acknowledged it or have exited.
- A worker that keeps crashing is restarted after growing delays.
- A drain ends: a worker that exceeds its time is killed.
- The hub is kept running, and nothing that it does affects workers that serve.
- A new worker gets the last keys that the hub fetched of the same core for the same SDK
  settings, with the time of the fetch, before it accepts. Keys come from nobody else.
- The hub asks the core once for each generation that serves, with what the generation's
  first worker has reported before it met a client.
- A reload takes over only when its workers have keys, or the old ones have none.
- The hub has the `Status` of the present, and checks the targets of the configuration
  that serves. What it finds reaches all workers that have these checks, new ones too.
- An ejection that a worker tells of reaches all others, and new ones until it ends.
- With `gateway.shared`, no worker accepts before the hub has read the store's denials
  or has found the store away. Each denial of this gateway reaches the hub.
- After a signal to stop, workers accept for `gateway.shutdown_delay`, and are replaced.
- Of two gateways in an upgrade, one accepts. See `plan_upgrade`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

from gateway.config.diff import ConfigChange, in_words
from gateway.events import Fact, RuntimeEvent
from gateway.process import plan_drains, plan_lines
from gateway.process.admin_messages import (
    DrainWanted,
    FilesChanged,
    LogChangeWanted,
    ReloadWanted,
)
from gateway.process.lease_messages import DrawLeases, LeasesDrawn
from gateway.process.messages import (
    Accept,
    AskCore,
    Deny,
    DenyDone,
    Failed,
    Keys,
    KeySource,
    KeysUntil,
    Message,
    Notice,
    Ping,
    Ready,
    Report,
    Snapshot,
    Status,
    batches,
)
from gateway.process.plan_admin import AskedReloads
from gateway.process.plan_denials import Denials
from gateway.process.plan_events import (
    Action,
    Announce,
    Closed,
    CloseSockets,
    Event,
    Exit,
    Exited,
    FileLoaded,
    FileRefused,
    Fork,
    ForkHub,
    Inherited,
    Kill,
    Load,
    LoadedFile,
    LogLine,
    NoteReload,
    NotStarted,
    Now,
    Received,
    Send,
    Signal,
    Signalled,
    Tick,
    Unread,
)
from gateway.process.plan_hub import HubDirections
from gateway.process.plan_leases import relayed
from gateway.process.plan_logging import LoggingPlan
from gateway.process.plan_pace import SupervisorPace
from gateway.process.plan_places import name_of, shares
from gateway.process.plan_shared import StorePlan
from gateway.process.plan_state import (
    Child,
    ChildPlace,
    ChildState,
    Generation,
    Peer,
    Phase,
    WorkerChild,
)
from gateway.process.plan_status import GatewayCondition
from gateway.process.plan_targets import SharedEjections, TargetStates
from gateway.process.plan_upgrade import Upgrade
from gateway.process.plan_watch import HubWatch
from gateway.process.shared_messages import ShareDenials, StoreState
from gateway.process.target_messages import TargetEjected, TargetsDown


class Plan:
    """Turns events into actions, from the start of a supervisor to its exit."""

    def __init__(
        self,
        config: LoadedFile,
        *,
        workers: int,
        sockets: int,
        pace: SupervisorPace | None = None,
        is_upgrade: bool = False,
    ) -> None:
        """The first `Tick` forks the first worker.

        With *is_upgrade*, the first event is `Inherited`, and child 1 is the gateway
        before.
        """
        self._pace = pace or SupervisorPace()
        self._workers = workers
        self._sockets = sockets
        self._current = self._new_generation(config)
        self._current.places[0].due = -math.inf
        self._next: Generation | None = None
        """The generation that takes over when its workers are ready."""
        self._hub = ChildPlace()
        self._children: dict[int, Child] = {}
        self._upgrade = Upgrade(self._pace, 1 if is_upgrade else None)
        self._children.update((peer.number, peer) for peer in self._upgrade.peers)
        self._last_number = len(self._children)
        self._denials = Denials()
        self._store = StorePlan(config, is_upgrade=is_upgrade)
        self._logging = LoggingPlan(config)
        self._targets = TargetStates()
        self._ejections = SharedEjections()
        self._reloads = AskedReloads()
        """Those that the hub has asked for."""
        self._keys: Keys | None = None
        """The last keys of the core of the current generation."""
        self._directions = HubDirections()
        self._watch = HubWatch(config.watch)
        self._notices = plan_lines.Notices()
        self._condition = GatewayCondition()
        self._hub_status: tuple[int, Status] | None = None
        """The last `Status`, and the hub that it was sent to."""
        self._stop_at: float | None = None
        """When to stop accepting and drain, on the monotonic clock; None: no signal."""
        self._now = Now(-math.inf, 0.0)
        self._next_tick = -math.inf
        self._reload_requested = False
        self._is_loading = False
        self._is_stopping = False
        self._has_exited = False
        self._exit_code = 0
        self._actions: list[Action] = []

    @property
    def generation(self) -> int:
        """The number of the generation that accepts."""
        return self._current.config.generation

    @property
    def phase(self) -> Phase:
        """What the gateway does now."""
        if self._is_leaving:
            return Phase.STOPPING
        if self._is_loading or self._next is not None:
            return Phase.RELOADING
        if self._current.is_proven and not self._is_held:
            return Phase.RUNNING
        return Phase.STARTING

    @property
    def due(self) -> float:
        """When a `Tick` is due if nothing else happens, on the monotonic clock."""
        due = self._next_tick
        if not self._is_stopping and not self._is_loading:
            for place in self._places():
                if place.due is not None:
                    due = min(due, place.due)
        if self._stop_at is not None and not self._is_stopping:
            due = min(due, self._stop_at)
        return due

    def on(self, event: Event, now: Now) -> list[Action]:
        """Return the actions that follow from *event*, in order."""
        self._now = now
        match event:
            case Received(number, DrawLeases() | LeasesDrawn() as leases) if (
                sender := self._children.get(number)
            ) and (sends := relayed(leases, sender, self._hub.child, self._children)):
                sender.silent_ticks = 0
                return [*sends]
            case Tick():
                self._on_tick()
            case Inherited(denied):
                self._keys = self._upgrade.inherit(event)
                self._denials.keep(denied, now.epoch)
            case Received(number, message):
                if child := self._children.get(number):
                    self._on_message(child, message)
            case Closed(number, reason):
                if child := self._children.get(number):
                    self._on_closed(child, reason)
            case Unread(number):
                if number in self._children:
                    self._on_unread(self._children[number])
            case NotStarted(number, reason):
                if child := self._children.get(number):
                    self._on_not_started(child, reason)
            case Exited(number):
                if child := self._children.get(number):
                    self._on_exit(child, event)
            case Signalled(signal):
                self._on_signal(signal)
            case FileLoaded(config):
                self._on_loaded(config)
            case FileRefused(problems, watch):
                self._watch.want(watch)
                self._on_refused(problems)
                self._direct_hub()
        self._advance()
        self._update_hub()
        self._send_all(self._store.update(self._all_workers(), now.monotonic))
        actions, self._actions = self._actions, []
        return actions

    # --- events -------------------------------------------------------------------

    def _on_tick(self) -> None:
        """Ping every child; kill those that don't answer or drain too long."""
        now = self._now.monotonic
        if now < self._next_tick:
            return
        self._next_tick = now + self._pace.tick_s
        for child in tuple(self._children.values()):
            if isinstance(child, Peer):
                self._actions += self._upgrade.on_tick(child, now)
                continue
            child.silent_ticks += 1
            is_starting = child.state is ChildState.STARTING
            if child.silent_ticks > self._pace.most_silent(is_starting=is_starting):
                child.place.is_hung = True
                self._kill(child, "it didn't answer", cause="hang")
            elif plan_drains.is_overdue(child, now):
                self._kill(child, "it didn't finish in time")
            else:
                self._send(child, Ping())
        if self._store.give_up_waiting(now):
            self._announce()
            self._assign_sockets()
        self._check_next()

    def _check_next(self) -> None:
        """Let a reload take over if the old keys are over, or fail for want of keys."""
        if self._next is None:
            return
        self._assign_sockets()
        waiting = self._next
        if waiting is None or waiting.complete_at is None:
            return
        wait_s = waiting.config.keys_timeout_s + self._pace.keys_extra_s
        if self._now.monotonic > waiting.complete_at + wait_s:
            self._give_up(
                waiting, "the new workers can't fetch the core's signing keys"
            )

    def _on_message(self, child: Child, message: Message) -> None:
        child.silent_ticks = 0
        match message:
            case Ping():
                pass  # an answer; the count of silent ticks is reset above
            case Ready() | Accept() if isinstance(child, Peer):
                self._on_peer(child, message)
            case Deny() if isinstance(child, Peer):
                self._on_denial(child, message)
            case Ready() if child.state is ChildState.STARTING:
                child.state = ChildState.READY
                child.place.is_hung = False
                if isinstance(child, WorkerChild):
                    self._report(child, message)
                    self._on_ready(child.generation)
            case Ready() if child.state is ChildState.ENDING or child.is_killed:
                pass  # sent before it received Drain or was killed
            case Deny(users=()) if isinstance(child, WorkerChild):
                self._on_denial(child, message)
            case Deny() | ReloadWanted() | DrainWanted() | LogChangeWanted() if (
                child is self._hub.child and self._current.config.description
            ):
                self._on_admin(child, message)
            case FilesChanged() if child is self._hub.child and self._watch.may_ask(
                child.number
            ):
                self._reload_requested = True
            case DenyDone(number) if isinstance(child, WorkerChild | Peer):
                self._send_all(self._denials.acknowledge(number, child))
            case KeySource() if (
                isinstance(child, WorkerChild) and child.state is ChildState.STARTING
            ):
                self._on_key_source(child, message)
            case AskCore() if (
                isinstance(child, WorkerChild) and child.state is ChildState.STARTING
            ):
                if child.generation.core is None:
                    child.generation.core = message
                    self._direct_hub()
            case KeySource() | AskCore() if (
                child.state is ChildState.ENDING or child.is_killed
            ):
                pass  # as above
            case KeysUntil(until) if isinstance(child, WorkerChild):
                child.keys_until = until
                self._assign_sockets()
            case Keys() if not isinstance(child, WorkerChild):
                self._on_keys(message)
            case ShareDenials(shared) if child is self._hub.child:
                self._relay(child, Deny(shared.ends, users=shared.users))
            case StoreState(is_known) if child is self._hub.child:
                self._on_store_state(is_known=is_known)
            case TargetsDown() if child is self._hub.child:
                config = self._current.config
                self._send_all(
                    self._targets.found(message, config, self._all_workers())
                )
            case TargetEjected() if isinstance(child, WorkerChild):
                now, workers = self._now.monotonic, self._all_workers()
                self._send_all(self._ejections.add(message, child, workers, now))
            case Notice() if isinstance(child, WorkerChild):
                self._actions += self._notices.lines(message)
            case Snapshot() if isinstance(child, WorkerChild):
                self._report(child, message)
            case Failed(reason) if isinstance(child, WorkerChild):
                self._report(child, message)
                child.reason = reason
            case _ if isinstance(child, Peer):
                self._on_peer_closed(child, "it sent a message that none sends")
            case _:
                kind = "worker" if isinstance(child, WorkerChild) else "hub"
                self._kill(child, f"it sent a message that a {kind} doesn't send")

    def _on_peer(self, peer: Peer, message: Ready | Accept) -> None:
        """Go when the next gateway could accept; accept when the one before goes."""
        if not self._is_leaving and (actions := self._upgrade.hand_over(peer, message)):
            self._actions += actions
            self._stop()
            if self._hub.child is not None:  # the next gateway answers from now on
                self._start_drain(self._hub.child)
        elif actions := self._upgrade.take_over(peer, message):
            self._actions += actions
            self._hub.due = self._now.monotonic
            self._assign_sockets()

    def _on_key_source(self, worker: WorkerChild, source: KeySource) -> None:
        """Note whose keys a new worker needs; send it those that are at hand.

        Only a worker that has met no client yet is believed.
        """
        generation, keys = worker.generation, self._keys
        if generation.source is None:
            generation.source = source
            self._direct_hub()
        if (
            keys is not None
            and keys.source == source
            and generation.config.sdk == self._current.config.sdk
        ):
            self._send(worker, keys)

    def _on_keys(self, keys: Keys) -> None:
        """Keep the hub's *keys*, unless they are another core's, or older."""
        known = self._keys
        if keys.source != self._current.source:
            return
        if known is None or keys.fetched_at >= known.fetched_at:
            at = min(keys.fetched_at, self._now.monotonic)
            self._keys = replace(keys, fetched_at=at)

    def _direct_hub(self) -> None:
        """Tell the hub what has changed of what it does for the current generation."""
        hub, config = self._hub.child, self._current.config
        if hub is None:
            return
        now, denied = self._now.monotonic, self._denials.live(self._now.epoch)
        told: tuple[Iterable[Message], ...] = (
            self._watch.told(hub.number),
            self._logging.direct(hub),
            self._targets.direct(hub, config),
            self._store.direct(hub, config, denied, now),
            self._directions.direct(hub, self._current),
        )
        for message in chain.from_iterable(told):
            self._send(hub, message)

    def _report(
        self, worker: WorkerChild, message: Deny | Ready | Failed | Snapshot
    ) -> None:
        """Relay a worker's message to the hub."""
        if self._hub.child is not None:
            self._send(self._hub.child, Report(worker.number, worker.slot, message))

    def _on_admin(
        self, hub: Child, message: Deny | ReloadWanted | DrainWanted | LogChangeWanted
    ) -> None:
        """Do what an operator has asked the hub for."""
        match message:
            case Deny():
                self._on_denial(hub, message)
            case ReloadWanted(number):
                self._reload_requested |= self._reloads.ask(hub.number, number)
            case DrainWanted():
                self._leave()
            case LogChangeWanted():
                self._actions += self._logging.change(message, hub, self._all_workers())

    def _on_denial(self, source: Child, denial: Deny) -> None:
        """Keep a denial, and relay it: a worker's to the hub, all to other workers.

        The other gateway of an upgrade gets it, too, and sends its own.
        """
        if isinstance(source, WorkerChild):
            for part in batches(denial.ends.items()):
                self._report(source, part)
        self._send_all(self._store.share(denial, self._hub.child))
        self._relay(source, denial)

    def _relay(self, source: Child, denial: Deny) -> None:
        """Keep a denial, and relay it to all workers and other gateways."""
        others = [
            child
            for child in self._children.values()
            if isinstance(child, WorkerChild | Peer) and child is not source
        ]
        self._send_all(self._denials.add(source, denial, others, self._now.epoch))

    def _on_ready(self, generation: Generation) -> None:
        if not generation.is_proven:
            # The others start only now, so that a bad configuration is reported once.
            generation.is_proven = True
            for place in generation.places[1:]:
                place.due = self._now.monotonic
            if generation is self._current:
                self._condition.loaded = True, self._now.epoch
                if not self._upgrade.is_waiting:
                    self._store.start_waiting(self._now.monotonic)
                    self._hub.due = self._now.monotonic
                self._announce()
        self._assign_sockets()

    @property
    def _is_held(self) -> bool:
        """Whether workers that are ready may not accept yet."""
        return self._upgrade.is_waiting or self._store.is_awaited

    def _announce(self) -> None:
        """Report that the gateway is ready, unless it must not accept yet."""
        if not self._is_held:
            self._actions.append(Announce())

    def _on_store_state(self, *, is_known: bool) -> None:
        """Note how the shared store is; accept, if only that was awaited."""
        was_held = self._is_held
        self._store.heard(is_known=is_known, now=self._now.monotonic)
        if was_held:
            self._announce()
            self._assign_sockets()

    def _on_closed(self, child: Child, reason: str | None) -> None:
        child.is_closed = True
        child.silent_ticks = 0
        if isinstance(child, Peer):
            self._on_peer_closed(child, reason)
            return
        if reason is not None:
            self._kill(child, reason)
        self._mark_lost(child)

    def _on_peer_closed(self, peer: Peer, reason: str | None) -> None:
        """Go on without the gateway before; have a next one without channel exit."""
        if peer is self._upgrade.before:
            self._lose(peer, reason or "it ended")
        else:
            self._actions += self._upgrade.end_next(reason, self._now.monotonic)

    def _lose(self, peer: Peer, reason: str) -> None:
        """Forget another gateway; exit if it has never let this one accept."""
        if peer.number in self._children:
            self._remove(peer)
        self._actions += self._upgrade.lost(peer, reason)
        if self._upgrade.is_waiting and self._upgrade.before is None:
            self._exit_code = 1
            self._stop()

    def _on_unread(self, child: Child) -> None:
        """Kill a hub that doesn't read. A worker has until its silent ticks are up."""
        if child is self._hub.child:
            self._kill(child, "it didn't read")

    def _on_not_started(self, child: Child, reason: str) -> None:
        self._remove(child)
        if isinstance(child, Peer):
            self._lose(child, f"the new gateway can't be started: {reason}")
        elif child.state is not ChildState.ENDING:
            child.cause = "fork"
            self._replace(child, f"{child.name} can't be started: {reason}")

    def _on_exit(self, child: Child, exited: Exited) -> None:
        self._remove(child)
        ending = f"{child.name} (pid {exited.pid}) {exited.how}"
        if child.reason is not None:
            ending = f"{ending}: {child.reason}"
        if isinstance(child, Peer):
            self._lose(child, ending)
        elif child.state is ChildState.ENDING:
            if exited.code != 0 and not child.is_discarded:
                self._log_lost(child, ending, exited.pid)
        elif (
            isinstance(child, WorkerChild)
            and not child.generation.is_proven
            and exited.code >= 0
        ):
            self._give_up(child.generation, child.reason or ending)
        else:
            if self._now.monotonic - child.since >= self._pace.steady_s:
                child.place.failures = 0
            child.cause = child.cause or ("signal" if exited.code < 0 else "exit")
            self._replace(child, ending, exited.pid)

    def _on_signal(self, signal: Signal) -> None:
        match signal:
            case Signal.RELOAD:
                self._reload_requested = True
            case Signal.UPGRADE:
                self._actions += self._upgrade.request(is_leaving=self._is_leaving)
            case Signal.STOP if self._upgrade.is_first_signal():
                pass
            case Signal.STOP if self._is_leaving:
                self._stop()
                self._exit_code = 130
                self._actions += self._upgrade.kill_next()
                for child in tuple(self._children.values()):
                    if not isinstance(child, Peer):
                        self._discard(child)
            case Signal.STOP | Signal.HANG_UP:
                self._leave()

    def _on_loaded(self, config: LoadedFile) -> None:
        self._is_loading = False
        self._watch.want(config.watch)
        self._direct_hub()
        if not self._is_leaving:
            self._next = self._new_generation(config)
            self._next.places[0].due = self._now.monotonic

    def _on_refused(self, problems: Sequence[str]) -> None:
        self._is_loading = False
        if not self._is_leaving:
            self._log_not_reloaded(problems)

    # --- consequences -------------------------------------------------------------

    def _advance(self) -> None:
        """Add the actions that are due now: forks, a requested reload, the exit."""
        if self._stop_at is not None and self._now.monotonic >= self._stop_at:
            self._stop()
        if self._is_stopping:
            self._exit_when_empty()
        elif not self._is_loading:
            self._fork_due(self._current)
            if self._next is not None:
                self._fork_due(self._next)
            if self._take_due(self._hub):
                self._fork_hub()
            can_load = (
                self._current.is_proven
                and self._next is None
                and not self._is_leaving
                and not self._upgrade.is_waiting
                and self._upgrade.next is None
            )
            if self._upgrade.is_requested and can_load:
                can_load = False
                self._start_upgrade()
            if self._reload_requested and can_load:
                self._reload_requested = False
                self._is_loading = True
                self._reloads.begin()
                self._actions.append(Load())

    def _start_upgrade(self) -> None:
        number, now = self._new_number(), self._now
        denied = self._denials.live(now.epoch)
        self._actions += self._upgrade.start(number, now.monotonic, denied, self._keys)
        self._children.update((peer.number, peer) for peer in self._upgrade.peers)

    def _exit_when_empty(self) -> None:
        """When no worker is left, end the hub; when it has exited, exit."""
        if any(isinstance(child, WorkerChild) for child in self._children.values()):
            return
        if self._upgrade.is_under_way:
            return
        hub = self._hub.child
        if hub is None:
            if not self._has_exited:
                self._has_exited = True
                self._actions.append(Exit(self._exit_code))
        elif hub.state is ChildState.LOST:
            self._discard(hub)
        elif hub.state is not ChildState.ENDING:
            self._start_drain(hub)

    def _take_due(self, place: ChildPlace) -> bool:
        """Return whether a child is due in *place*, and if so clear the due time."""
        if place.due is None or place.due > self._now.monotonic:
            return False
        place.due = None
        return True

    def _fork_due(self, generation: Generation) -> None:
        config = generation.config
        for slot, place in enumerate(generation.places):
            if not self._take_due(place):
                continue
            worker = WorkerChild(
                number=self._new_number(),
                name=name_of(slot),
                place=place,
                since=self._now.monotonic,
                drain_s=config.drain_s + self._pace.drain_extra_s,
                generation=generation,
                slot=slot,
            )
            self._children[worker.number] = place.child = worker
            self._actions.append(Fork(worker.number, slot, config.generation))
            told: tuple[Iterable[Message], ...] = (
                self._store.begin(),
                self._logging.begin(),
                self._denials.live(self._now.epoch),
                self._targets.known(config),
                self._ejections.live(self._now.monotonic),
            )
            for message in chain.from_iterable(told):
                self._send(worker, message)

    def _fork_hub(self) -> None:
        hub = Child(
            number=self._new_number(),
            name="hub",
            place=self._hub,
            since=self._now.monotonic,
            drain_s=self._pace.hub_end_s,
        )
        self._children[hub.number] = self._hub.child = hub
        self._actions.append(ForkHub(hub.number))
        self._direct_hub()

    def _new_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _assign_sockets(self) -> None:
        """Assign each socket to its own worker or, if that isn't ready, to another one.

        While no worker is ready, clients wait in the sockets' queues.
        """
        if self._store.is_awaited:
            return
        if self._next is not None and self._can_take_over(self._next):
            self._switch_to(self._next)
            return
        workers = self._current.ready()
        if self._upgrade.is_waiting:
            needs_keys, now = self._upgrade.must_have_keys, self._now.monotonic
            if self._current.is_complete(now, must_have_keys=needs_keys):
                self._actions += self._upgrade.offer()
            return
        for slot, numbers in shares(self._sockets, tuple(workers)).items():
            child = workers[slot]
            if child.sockets != numbers:
                child.sockets = numbers
                self._send(child, Accept(numbers))

    def _can_take_over(self, generation: Generation) -> bool:
        """Return whether all workers of *generation* are ready and can verify tokens.

        Without keys it takes over only from workers that have none either. A single
        ready worker is enough if the current generation has none.
        """
        ready, serving = generation.ready().values(), self._current.ready().values()
        if not serving:
            return bool(ready)
        now = self._now.monotonic
        must_have_keys = any(worker.keys_until > now for worker in serving)
        return generation.is_complete(now, must_have_keys=must_have_keys)

    def _switch_to(self, generation: Generation) -> None:
        """Make *generation* accept, and the previous one drain."""
        previous = self._current
        self._current, self._next = generation, None
        before, after = previous.config.sdk, generation.config.sdk
        # Unknown if no worker has said it: each is compared when it says it.
        if before != after or generation.source not in (None, previous.source):
            self._keys = None
            self._directions.forget_fetches()
        self._direct_hub()
        self._assign_sockets()
        self._drain(previous, previous.config.websocket_drain_s)
        self._close_websockets(plan_drains.beyond_bound)
        self._notices = plan_lines.Notices()  # they may have gone, or still be true
        path = generation.config.path
        changes = in_words(generation.config.changes)
        text = f"reloaded {path}: {changes}"
        self._log(RuntimeEvent.RELOAD_DONE, text, file=path, changes=changes)
        self._end_reload(changes=generation.config.changes)
        self._condition.loaded = True, self._now.epoch
        self._actions += plan_lines.restart_needed(previous.config, generation.config)
        hub, workers = self._hub.child, self._all_workers()
        self._actions += self._logging.reloaded(generation.config, hub, workers)

    def _give_up(self, generation: Generation, reason: str) -> None:
        """Discard a configuration that can't be served; exit if it is the first."""
        if generation is self._next:
            self._next = None
            for worker in tuple(generation.workers()):
                self._discard(worker)
            self._log_not_reloaded((reason,))
        else:
            self._log(RuntimeEvent.START_REFUSED, reason)
            self._exit_code = 1
            self._stop()

    def _replace(self, child: Child, ending: str, pid: int | None = None) -> None:
        """Schedule another child in the place of one that has ended."""
        if isinstance(child, WorkerChild) and child.generation is self._next:
            self._give_up(child.generation, ending)
            return
        if self._is_stopping:  # the hub, while workers drain
            self._log_lost(child, ending, pid)
            return
        if isinstance(child, WorkerChild):
            self._condition.restarts[child.cause or "exit"] += 1
        else:
            self._condition.hub_restarts += 1
        place = child.place
        place.failures += 1
        wait_s = self._pace.delay_s(place.failures)
        place.due = self._now.monotonic + wait_s
        self._log_lost(child, ending, pid, restart_in_s=wait_s)
        self._assign_sockets()

    def _mark_lost(self, child: Child) -> None:
        """Mark a child as lost, so that other workers accept from its socket."""
        if child.state is not ChildState.ENDING:
            child.state = ChildState.LOST
            self._assign_sockets()

    def _kill(self, child: Child, reason: str, *, cause: str = "misbehaviour") -> None:
        """Kill a faulty child."""
        child.reason = child.reason or reason
        child.cause = child.cause or cause
        if not child.is_killed:
            child.is_killed = True
            self._actions.append(Kill(child.number))
            self._mark_lost(child)

    def _discard(self, child: Child) -> None:
        """Kill a child that isn't needed."""
        child.state = ChildState.ENDING
        child.is_discarded = True
        if not child.is_killed:
            child.is_killed = True
            self._actions.append(Kill(child.number))

    def _drain(self, generation: Generation, websockets_s: float = 0.0) -> None:
        """Drain the ready workers of *generation*; kill the others."""
        for worker in tuple(generation.workers()):
            if worker.state is ChildState.READY:
                self._start_drain(worker, websockets_s)
            elif worker.state is not ChildState.ENDING:
                self._discard(worker)

    def _start_drain(self, child: Child, websockets_s: float = 0.0) -> None:
        self._send(child, plan_drains.begin(child, self._now.monotonic, websockets_s))

    def _close_websockets(self, chosen: Callable[..., list[WorkerChild]]) -> None:
        """Have the workers that are *chosen* close their WebSockets."""
        for worker in chosen(self._children.values(), self._now.monotonic):
            self._start_drain(worker)

    def _leave(self) -> None:
        """Stop when the shutdown delay is over, or now if no worker can serve."""
        delay_s = self._current.config.shutdown_delay_s
        if self._is_leaving:
            return
        self._actions += self._upgrade.abandon(self._now.monotonic)
        if not self._current.ready():
            delay_s = 0.0
        self._actions.append(plan_lines.stopping(self._current.config, delay_s))
        if delay_s:
            self._stop_at = self._now.monotonic + delay_s
        else:
            self._stop()

    def _stop(self) -> None:
        """Close the sockets and drain all workers; `_advance` exits afterwards."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._actions += self._upgrade.abandon(self._now.monotonic)
        self._actions.append(CloseSockets())
        next_generation, self._next = self._next, None
        self._close_websockets(plan_drains.keeping)
        self._drain(self._current)
        if next_generation is not None:
            self._drain(next_generation)

    # --- status -------------------------------------------------------------------

    @property
    def _is_leaving(self) -> bool:
        """Whether a signal to stop has been received."""
        return self._is_stopping or self._stop_at is not None

    def _update_hub(self) -> None:
        """Send the hub the status, if it has changed or the hub is new."""
        self._condition.check_startup(self._current, self._now.monotonic)
        hub = self._hub.child
        if hub is None:
            return
        status = self._condition.status(
            self._current, self._children, is_draining=self._is_leaving
        )
        sent = hub.number, status
        if self._hub_status != sent:
            self._hub_status = sent
            self._send(hub, sent[1])

    # --- helpers ------------------------------------------------------------------

    def _new_generation(self, config: LoadedFile) -> Generation:
        return Generation(config, tuple(ChildPlace() for _ in range(self._workers)))

    def _places(self) -> Iterator[ChildPlace]:
        """Yield the places in which children are forked."""
        yield self._hub
        yield from self._current.places
        if self._next is not None:
            yield from self._next.places

    def _all_workers(self) -> list[WorkerChild]:
        """Return the workers of all generations that haven't exited."""
        children = self._children.values()
        return [child for child in children if isinstance(child, WorkerChild)]

    def _remove(self, child: Child) -> None:
        del self._children[child.number]
        self._send_all(self._denials.gone(child))
        if child.place.child is child:
            child.place.child = None

    def _send(self, child: Child, message: Message) -> None:
        if not child.is_closed:
            self._actions.append(Send(child.number, message))

    def _log(self, event: RuntimeEvent, message: str, **facts: Fact) -> None:
        self._actions.append(LogLine(event, message, facts))

    def _log_lost(
        self,
        child: Child,
        ending: str,
        pid: int | None,
        restart_in_s: float | None = None,
    ) -> None:
        self._actions.append(
            plan_lines.lost(child, ending, pid=pid, restart_in_s=restart_in_s)
        )

    def _log_not_reloaded(self, problems: Sequence[str]) -> None:
        self._condition.loaded = False, self._condition.loaded[1]
        self._actions += plan_lines.not_reloaded(tuple(problems))
        self._end_reload(problems)

    def _send_all(self, sends: Iterable[Send]) -> None:
        for send in sends:
            if (child := self._children.get(send.child)) is not None:
                self._send(child, send.message)

    def _end_reload(
        self, problems: Sequence[str] = (), changes: tuple[ConfigChange, ...] = ()
    ) -> None:
        """Note the outcome of a reload; tell the hub, if it has asked for it."""
        self._actions.append(NoteReload(tuple(problems), changes))
        if (hub := self._hub.child) is not None:
            for answer in self._reloads.end(
                hub.number, self.generation, problems, changes
            ):
                self._send(hub, answer)
