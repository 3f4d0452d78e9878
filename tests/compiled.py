"""Parts of a compiled route, from what a file would say."""

from typing import Any

from gateway.config import RetryConfig, TimeoutsConfig
from gateway.timeouts import Retry, Timeouts


def timeouts_of(**stated: float) -> Timeouts:
    """Return the timeouts of a route; what isn't *stated* has its default."""
    return Timeouts.of(TimeoutsConfig(**stated))


def retry_of(**stated: Any) -> Retry:
    """Return when a route repeats requests; what isn't *stated* has its default."""
    return Retry.of(RetryConfig(**stated))
