"""PURE. Rate limits: how often requests may come, by client, user or another key.

`gcra` is the rule for one key, `buckets` the state of many keys in bounded memory.
`policy` has the limits of the file, compiled; `limiter` judges a request by them and
asks a `store`. `leases` is how the workers of one gateway share a limit,
and `shared_book` what a gateway keeps of the limits that it shares with others.
"""

from __future__ import annotations

from gateway.rate_limits.gcra import Gcra
from gateway.rate_limits.limiter import Asking, Limited, Limiter
from gateway.rate_limits.policy import (
    AuthLimits,
    Caller,
    RatePolicy,
    RateUse,
    RouteLimits,
    policies_of,
)
from gateway.rate_limits.store import Draw, LocalStore, RateStore, Sharing

__all__ = [
    "Asking",
    "AuthLimits",
    "Caller",
    "Draw",
    "Gcra",
    "Limited",
    "Limiter",
    "LocalStore",
    "RatePolicy",
    "RateStore",
    "RateUse",
    "RouteLimits",
    "Sharing",
    "policies_of",
]
