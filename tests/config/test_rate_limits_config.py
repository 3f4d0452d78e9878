"""The keys of rate limits: values accepted, and one finding for each mistake."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import config
from gateway.config import Config, Finding, InvalidConfig
from gateway.config.models.rate_limits import READY, RateLimitConfig
from gateway.config.rates import ParsedRate, parse_rate

S = 1_000_000_000


def parse(**sections: Any) -> Config:
    return config.parse({"version": 1, **sections})


def finding(**sections: Any) -> Finding:
    with pytest.raises(InvalidConfig) as caught:
        parse(**sections)
    (found,) = caught.value.findings
    return found


def route(**keys: Any) -> dict[str, Any]:
    return {"path": "/a", "upstream": "http://up:80", **keys}


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/m", ParsedRate(10, 60 * S)),
        ("1/s", ParsedRate(1, S)),
        ("999999/h", ParsedRate(999_999, 3600 * S)),
        ("7/d", ParsedRate(7, 86400 * S)),
    ],
)
def test_rates_are_read(text: str, rate: ParsedRate) -> None:
    """A number of requests in a second, minute, hour or day."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "rate", ["", "10", "0/m", "-1/m", "1/w", "1.5/s", "10 / m", "1000000/s", 10, None]
)
def test_other_rates_are_refused(rate: object) -> None:
    """The message has the form."""
    found = finding(rate_limits={"a": {"rate": rate}})
    assert found.path == "rate_limits.a.rate"


def test_the_message_names_the_form() -> None:
    """With examples to copy."""
    found = finding(rate_limits={"a": {"rate": "ten/m"}})
    assert found.message == "expected a rate such as 10/m, 100/s, 500/h or 1000/d"


@pytest.mark.parametrize(
    ("keys", "interval_ns", "burst"),
    [
        ({"rate": "10/m"}, 6 * S, 10),
        ({"rate": "10/m", "burst": 3}, 6 * S, 3),
        ({"rate": "3/s"}, 333_333_334, 3),
    ],
)
def test_intervals_are_rounded_up(
    keys: dict[str, Any], interval_ns: int, burst: int
) -> None:
    """So that the rate is never exceeded. The burst is the rate's number by default."""
    limit = RateLimitConfig.model_validate(keys)
    assert (limit.interval_ns, limit.full_burst) == (interval_ns, burst)


@pytest.mark.parametrize(
    "key", ["client", "user", "session", "tenant", "route", "email", "header:x-key"]
)
def test_keys_are_accepted(key: str) -> None:
    """Everything that a request can be counted by."""
    limits = {"a": {"rate": "1/s", "key": key}}
    assert parse(rate_limits=limits).rate_limits["a"].key == key


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("ip", ""),
        ("users", "Did you mean 'user'?"),
        ("header:", ""),
        ("header: x", ""),
        ("cookie:a", ""),
    ],
)
def test_other_keys_are_refused(key: str, hint: str) -> None:
    """The message lists the keys."""
    found = finding(rate_limits={"a": {"rate": "1/s", "key": key}})
    assert found.message.startswith("expected client, user, session, tenant, route,")
    assert hint in found.hint


def test_names_of_fields_are_in_lower_case() -> None:
    """`header:X-Key` and `header:x-key` are the same."""
    limits = {"a": {"rate": "1/s", "key": "header:X-Key"}}
    assert parse(rate_limits=limits).rate_limits["a"].key == "header:x-key"


@pytest.mark.parametrize("burst", [0, -1, 1_000_001, 1.5])
def test_bursts_have_bounds(burst: object) -> None:
    """At least 1."""
    found = finding(rate_limits={"a": {"rate": "1/s", "burst": burst}})
    assert found.path == "rate_limits.a.burst"


@pytest.mark.parametrize(
    ("value", "uses"),
    [
        ("a", [("a", 1)]),
        (["a", "b"], [("a", 1), ("b", 1)]),
        ([{"policy": "a", "cost": 2}, "b"], [("a", 2), ("b", 1)]),
        ({"policy": "a", "cost": 2}, [("a", 2)]),
        ([], []),
    ],
)
def test_limits_are_attached_by_name(
    value: object, uses: list[tuple[str, int]]
) -> None:
    """A name, keys, or a list of both."""
    limits = {"a": {"rate": "9/s"}, "b": {"rate": "9/s"}}
    parsed = parse(rate_limits=limits, routes=[route(rate_limit=value)])
    found = parsed.routes[0].rate_limit
    assert [(use.policy, use.cost) for use in found] == uses


@pytest.mark.parametrize(
    ("sections", "place"),
    [
        ({"routes": [route(rate_limit="sing-in")]}, "routes[0].rate_limit"),
        ({"routes": [route(rate_limit=["sing-in"])]}, "routes[0].rate_limit[0]"),
        (
            {"routes": [route(rate_limit=[{"policy": "sing-in"}])]},
            "routes[0].rate_limit[0].policy",
        ),
        (
            {"services": {"a": {"targets": ["http://a"], "rate_limit": "sing-in"}}},
            "services.a.rate_limit",
        ),
        (
            {"groups": [{"rate_limit": ["sing-in"], "routes": [route()]}]},
            "groups[0].rate_limit[0]",
        ),
        (
            {"supertokens": {"rate_limits": {"sign_in": ["sing-in"]}}},
            "supertokens.rate_limits.sign_in[0]",
        ),
    ],
)
def test_unknown_names_are_refused(sections: dict[str, Any], place: str) -> None:
    """Wherever they stand; the ready-made ones are known."""
    found = finding(**sections)
    assert (found.path, found.message, found.hint) == (
        place,
        "there is no rate limit of this name",
        "Did you mean 'sign-in'?",
    )


def test_a_limit_of_the_file_replaces_a_ready_made_one() -> None:
    """The others stay."""
    parsed = parse(rate_limits={"reset": {"rate": "1/h"}})
    assert parsed.all_rate_limits["reset"].rate == "1/h"
    assert parsed.all_rate_limits["sign-in"] == READY["sign-in"]


def test_calls_without_a_limit_of_their_own_are_refused() -> None:
    """Signing out can't be limited."""
    found = finding(supertokens={"rate_limits": {"sign_out": "sign-in"}})
    assert found.path == "supertokens.rate_limits.sign_out"


def test_a_mistake_in_a_limit_hides_no_other_mistake() -> None:
    """What uses it is checked with a stand-in."""
    data = {
        "version": 1,
        "rate_limits": {"a": {"rate": "x"}},
        "routes": [route(rate_limit="a")],
    }
    with pytest.raises(InvalidConfig) as caught:
        config.parse(data)
    rest = config.rest_of(data, caught.value.findings)
    assert rest is not None
    assert rest[0].rate_limits["a"].rate == "1/s"
