"""edge. One app of the core with its data, which it shares with no other app."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from gateway.dev.core.dashboard import Dashboard
from gateway.dev.core.email_tokens import EmailTokens
from gateway.dev.core.keys import SigningKeys
from gateway.dev.core.metadata import Metadata
from gateway.dev.core.mint import Mint
from gateway.dev.core.passwordless import Codes
from gateway.dev.core.passwords import COST, REAL_COST
from gateway.dev.core.roles import Roles
from gateway.dev.core.sessions import Sessions
from gateway.dev.core.settings import CoreSettings
from gateway.dev.core.store import Store
from gateway.dev.core.tenants import Tenants
from gateway.dev.core.users import Users


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The services of one app, which use one database."""

    store: Store
    keys: SigningKeys
    sessions: Sessions
    users: Users
    email_tokens: EmailTokens
    roles: Roles
    metadata: Metadata
    tenants: Tenants
    codes: Codes
    dashboard: Dashboard
    now_ms: Callable[[], int]
    rng: random.Random
    hashing_cost: int


def make_app(
    store: Store,
    settings: CoreSettings,
    *,
    now_ms: Callable[[], int],
    rng: random.Random,
) -> App:
    """Return the app that keeps its data in *store*. The caller closes *store*."""
    keys = SigningKeys(store, settings, now_ms=now_ms, rng=rng)
    users = Users(store, now_ms=now_ms, rng=rng)
    tenants = Tenants(store)
    return App(
        store=store,
        keys=keys,
        sessions=Sessions(
            store,
            Mint(store, keys, settings, now_ms=now_ms, rng=rng),
            tenants,
            settings,
            now_ms=now_ms,
        ),
        users=users,
        email_tokens=EmailTokens(store, users, settings, now_ms=now_ms, rng=rng),
        roles=Roles(store),
        metadata=Metadata(store),
        tenants=tenants,
        codes=Codes(store, settings, now_ms=now_ms, rng=rng),
        dashboard=Dashboard(store, now_ms=now_ms, rng=rng),
        now_ms=now_ms,
        rng=rng,
        hashing_cost=REAL_COST if settings.real_hashing else COST,
    )
