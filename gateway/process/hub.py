"""edge. The hub: a child of the supervisor that has an event loop and no clients.

It fetches the core's signing keys for the supervisor, which hands them to new workers.
It does so in place of the workers because it meets no client: whoever takes over a
worker can't have keys of their own outlive it.

It also asks the core once after each start and reload whether the core accepts the
gateway, for all workers together, and writes to standard error if it doesn't. It
reports outages of the core and keys that are too old, which workers don't.

If `gateway.probes.listen` is set, it answers `/livez`, `/readyz` and `/startupz`, from
the `Status` that the supervisor sends each time that it changes, and from what it knows
of the core itself. So health is answered even if all workers hang. `/metrics` has what
the workers count, which the supervisor relays.

It has the buckets of rate limits, from which workers draw leases, or takes them from
those of the shared store.

It checks the targets of services (`health.active`), for all workers together, and tells
the supervisor what is down.

It shares denials with other gateways over a store, if `gateway.shared` is set.

If `gateway.admin.listen` is set, it shows operators the gateway, and acts for them.

No running worker depends on the hub: when it dies it is restarted, and workers are not
affected.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import time
from dataclasses import asdict

from gateway.admin import server as admin_server
from gateway.config import KeysConfig
from gateway.observe import Origin, has_colours, messages, write_from
from gateway.observe.meters import CERTIFICATE
from gateway.process import probes
from gateway.process.admin_messages import Describe, LogAs, Reloaded, WatchFiles
from gateway.process.health import Board, Facts, Health
from gateway.process.hub_admin import AdminListener, HubAdmin, HubFacts
from gateway.process.hub_rates import HubRates
from gateway.process.hub_shared import HubSharing
from gateway.process.hub_targets import targets_shown
from gateway.process.hub_watch import HubWatcher
from gateway.process.lease_messages import DrawLeases
from gateway.process.message_values import BadMessage
from gateway.process.messages import (
    MAX_KEY_SET,
    AskCore,
    DenyDone,
    Drain,
    FetchKeys,
    Keys,
    KeySource,
    Message,
    Ping,
    Ready,
    Report,
    Snapshot,
    Status,
)
from gateway.process.pipe import Pipe
from gateway.process.shared_messages import ShareDenials, ShareWith
from gateway.process.target_messages import CheckTargets, TargetsDown
from gateway.process.totals import Totals
from gateway.session.key_reports import KeyReports
from gateway.session.keys import KeySet, KeyStore
from gateway.supertokens.core_check import CoreCheck, CoreVerdict
from gateway.upstream.checks import TargetChecker

_LAST_PROBES_S = 0.2
"""For answers to connections that were accepted before the end: after an upgrade, the
next hub answers those that wait in the socket's queue."""
_RENDER_S = 0.25
"""How long rendered metrics are answered: many clients must not keep the hub busy."""


class Hub:
    """Reports the core's keys, and answers how the gateway is."""

    def __init__(
        self,
        listening: socket.socket | None = None,
        admin: AdminListener | None = None,
        *,
        has_access_log: bool = True,
    ) -> None:
        """*listening* is where it answers probes, *admin* operators; None: nowhere."""
        self._log_as = LogAs()
        self._listening = listening
        self._pipe = Pipe(self)
        self._admin_listener = admin
        self._admin = HubAdmin(
            self._pipe.send, self._facts, has_access_log=has_access_log
        )
        self._watcher = HubWatcher(self._pipe.send)
        self._sharing = HubSharing(self._pipe.send)
        self._rates = HubRates(self._pipe.send)
        self._changed = asyncio.Event()
        self._is_stopped = False
        self._fetches: FetchKeys | None = None
        """What is to be fetched; None: nothing new."""
        self._asks: AskCore | None = None
        """What the core is to be asked with; None: nothing new."""
        self.core_check: CoreCheck | None = None
        """What the core has said to this gateway, and when; for readiness."""
        self._store: KeyStore | None = None
        self._fetched = 0, 0
        """Fetches of keys by stores that were closed: good and failed."""
        self._reports: KeyReports | None = None
        self._board = Board()
        self._status: Status | None = None
        """None: the supervisor hasn't sent one yet."""
        self._heard_at = time.monotonic()
        """When the supervisor sent its last message."""
        self._totals = Totals()
        self._rendered: dict[str, tuple[float, bytes]] = {}
        """Media type → when the metrics were rendered last, and the result."""
        self._servers: list[asyncio.Server] = []
        self._checker = TargetChecker(
            lambda service, down: self._pipe.send(TargetsDown(service, down))
        )

    async def run(self, end: socket.socket) -> None:
        """Run until the supervisor sends `Drain` or its end of the channel closes."""
        await self._pipe.open(end)
        self._pipe.send(Ready())
        async with (
            contextlib.AsyncExitStack() as store,
            contextlib.AsyncExitStack() as check,
            contextlib.aclosing(self._checker),
        ):
            while not self._is_stopped:
                await self._changed.wait()
                self._changed.clear()
                await self._listen()
                asks, self._asks = self._asks, None
                if asks is not None:
                    await check.aclose()
                    self._ask(asks, check)
                fetches, self._fetches = self._fetches, None
                if fetches is not None:
                    self._fetched = self._all_fetches()
                    self._store = None
                    await store.aclose()
                    self._store = await self._start(fetches)
                    store.push_async_callback(self._store.close)
        self._watcher.close()
        for server in self._servers:
            server.close()
        if self._servers:
            await asyncio.sleep(_LAST_PROBES_S)
        await asyncio.gather(self._sharing.close(), self._rates.close())

    async def _listen(self) -> None:
        """Answer probes and operators from now on, if the status is known."""
        if self._status is None:
            return
        listening, self._listening = self._listening, None
        if listening is not None:
            self._servers.append(
                await probes.serve(listening, self._health, self._metrics)
            )
        admin, self._admin_listener = self._admin_listener, None
        if admin is not None:
            self._servers.append(
                await admin_server.serve(
                    admin.sock,
                    self._admin,
                    host=admin.host,
                    token_file=admin.token_file,
                )
            )

    def _facts(self) -> HubFacts:
        """Return what operators are shown."""
        assert self._status is not None, "it listens only when the status is known"
        health = self._health("/readyz", frozenset())
        return HubFacts(
            status=self._status,
            keys={}
            if self._store is None
            else {**asdict(self._store.state()), "ids": self._store.ids()},
            health=probes.to_json(health, is_verbose=True),
            targets=targets_shown(self._totals, self._checker.found()),
            log_as=self._log_as,
        )

    def _health(self, path: str, exclude: frozenset[str]) -> Health:
        """Return the answer of the probe at *path*, without the checks in *exclude*."""
        assert self._status is not None, "it listens only when the status is known"
        self._judge(self._status)
        return self._board.health(path, self._status.generation, exclude=exclude)

    def _metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their media type."""
        from gateway.process import metrics  # its library is for this process only

        assert self._status is not None, "as above"
        now = time.monotonic()
        form = metrics.form_of(accept)
        rendered_at, rendered = self._rendered.get(form, (-math.inf, b""))
        if now - rendered_at >= _RENDER_S:
            rendered = metrics.render(
                *(self._status, self._totals, form, self._all_fetches()),
                *(self._sharing.counts, self._rates.counts),
            )
            self._rendered[form] = now, rendered
        return rendered, form

    def _all_fetches(self) -> tuple[int, int]:
        """Return how many fetches of keys went well, and how many failed."""
        good, failed = self._fetched
        if self._store is not None:
            state = self._store.state()
            good += state.fetches - state.failures
            failed += state.failures
        return good, failed

    def _judge(self, status: Status) -> None:
        facts = Facts(
            status=status,
            heard_at=self._heard_at,
            core_trouble=self._core_trouble(),
            now=time.monotonic(),
            certificate_left_s=self._certificate_left_s(),
            services_down=tuple(self._checker.services_down()),
            store_trouble=self._sharing.trouble or self._rates.trouble,
        )
        self._board.update(facts, time.time())
        if self._reports is not None and status.keys_until is not None:
            self._reports.check_expiry()

    def _keys_left_s(self) -> float:
        """Return for how long all workers that accept can verify tokens."""
        if self._status is None or self._status.keys_until is None:
            return 0.0
        return self._status.keys_until - time.monotonic()

    def _certificate_left_s(self) -> float | None:
        """Return how long the first certificate is still valid; None: unknown."""
        ends = self._totals.least(CERTIFICATE).values()
        return min(ends) - time.time() if ends else None

    def _core_trouble(self) -> str | None:
        """Return what is wrong with the core; None: nothing is known.

        Without addresses, because probes are answered to everyone.
        """
        last = None if self.core_check is None else self.core_check.last
        if last is not None and last.state is CoreVerdict.REFUSING:
            return "the core refuses the gateway: standard error says why"
        if last is not None and last.state is CoreVerdict.UNREACHABLE:
            return "the core can't be reached"
        if self._store is not None and self._store.state().error is not None:
            return "the core's signing keys can't be fetched"
        return None

    def _ask(self, asks: AskCore, closing: contextlib.AsyncExitStack) -> None:
        """Begin a check of the core, which *closing* ends."""
        self.core_check = None
        if asks.hosts:
            check = CoreCheck(asks.hosts, asks.api_key, timeout_s=asks.timeout_s)
            check.start()
            closing.push_async_callback(check.close)
            self.core_check = check

    async def _start(self, fetches: FetchKeys) -> KeyStore:
        """Return a store that fetches, and whose keys are reported."""
        settings = KeysConfig(
            refresh_interval=fetches.refresh_s, timeout=fetches.timeout_s
        )
        self._reports = KeyReports(self._keys_left_s)
        store = KeyStore(fetches.source.hosts, settings, reports=self._reports)
        store.subscribe(lambda keys, _has_left: self._report(fetches.source, keys))
        await store.start()
        return store

    def _report(self, source: KeySource, keys: KeySet) -> None:
        """Report *keys*, which were fetched now; none if they are too large."""
        jwks = json.dumps(keys.jwks)
        if len(jwks) <= MAX_KEY_SET:
            self._pipe.send(Keys(source, time.monotonic(), jwks))

    def receive(self, message: Message) -> None:
        """Handle a message from the supervisor.

        Raises:
            BadMessage: it isn't a message for a hub.
        """
        self._heard_at = time.monotonic()
        match message:
            case Ping():
                self._pipe.send(message)
                if self._status is not None:
                    self._judge(self._status)
            case Status():
                self._status = message
                self._totals.keep(message.children)
                self._judge(message)
                self._changed.set()
            case Report(child, slot, Snapshot(samples)):
                self._totals.update(child, slot, samples)
            case Report():
                pass
            case FetchKeys():
                self._fetches = message
                self._changed.set()
            case DrawLeases():
                self._rates.draw(message)
            case AskCore():
                self._admin.use_core(message)
                self._asks = message
                self._changed.set()
            case Describe():
                self._admin.describe(message)
            case WatchFiles():
                self._watcher.watch(message)
            case LogAs(least):
                self._log_as = message
                write_from(least)
                self._admin.answered(message)
            case DenyDone() | Reloaded():
                self._admin.answered(message)
            case ShareWith() | ShareDenials():
                if isinstance(message, ShareWith):
                    self._rates.use(message.place)
                self._sharing.receive(message)
            case CheckTargets(check):
                if check is None:
                    self._checker.begin()
                else:
                    self._checker.add(check)
            case TargetsDown(service, targets):
                self._checker.know(service, targets)
            case Drain():
                self._stop()
            case _:
                raise BadMessage("not for a hub")

    def closed(self) -> None:
        """Stop: the supervisor has ended."""
        self._stop()

    def _stop(self) -> None:
        self._is_stopped = True
        self._changed.set()


def be_hub(
    end: socket.socket,
    listening: socket.socket | None = None,
    admin: AdminListener | None = None,
    *,
    log_format: str = "text",
) -> int:
    """Run the hub in this process; return the exit code.

    *end* is its end of the channel; it answers probes on *listening*, and operators on
    *admin*.
    """
    # Not uvloop: a few messages a minute don't justify the import.
    with messages(Origin(form=log_format, has_colours=has_colours())):
        hub = Hub(listening, admin, has_access_log=log_format != "none")
        asyncio.run(hub.run(end))
    return 0
