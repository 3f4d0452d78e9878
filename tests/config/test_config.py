"""The configuration schema: values accepted, and one finding for each mistake."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway import config
from gateway.config import Address, Config, Finding, InvalidConfig
from gateway.http import target


def parse(**sections: Any) -> Config:
    """Return the configuration of these sections, with version 1."""
    return config.parse({"version": 1, **sections})


def findings(**sections: Any) -> tuple[Finding, ...]:
    """Return all findings about these sections."""
    with pytest.raises(InvalidConfig) as caught:
        parse(**sections)
    return caught.value.findings


def finding(**sections: Any) -> Finding:
    """Return the only finding about these sections."""
    all_findings = findings(**sections)
    assert len(all_findings) == 1, all_findings
    return all_findings[0]


def route(**keys: Any) -> dict[str, Any]:
    """Return a valid route, changed by *keys*."""
    return {"path": "/a", "upstream": "http://up:80", **keys}


def path_of(form: str, value: str) -> str:
    """Return the path that the configuration keeps for a route with this path."""
    matched = parse(
        routes=[{"match": {"path": {form: value}}, "upstream": "http://up"}]
    ).routes[0]
    assert matched.match is not None
    assert matched.match.path is not None
    canonical = getattr(matched.match.path[0], form)
    assert isinstance(canonical, str)
    return canonical


def test_version_alone_is_a_configuration() -> None:
    """Every key but `version` has a default.

    By default, routes are protected, no proxy is trusted, the gateway listens on
    loopback, and credentials aren't forwarded.
    """
    settings = parse()
    assert settings.defaults.protected is True
    assert settings.gateway.trusted_proxies == ()
    assert [listen.address for listen in settings.gateway.listen] == ["127.0.0.1:8000"]
    assert settings.defaults.forward_credentials is False


# --- numbers with units ---


@pytest.mark.parametrize(
    ("text", "seconds"),
    {
        "3s": 3,
        "250ms": 0.25,
        "5m": 300,
        "1h": 3600,
        "2d": 172800,
        "1.5s": 1.5,
        " 7 s ": 7,
        "8": 8,
        9: 9,
        0.5: 0.5,
    }.items(),
)
def test_durations(text: object, seconds: float) -> None:
    """A duration is a number of seconds, or a number with a unit."""
    assert parse(gateway={"drain_timeout": text}).gateway.drain_timeout == seconds


def test_a_pidfile_is_a_whole_path() -> None:
    """The working directory of a service is seldom what its operator thinks."""
    assert parse(gateway={"pidfile": "/run/g.pid"}).gateway.pidfile == "/run/g.pid"
    assert parse().gateway.pidfile is None
    for value in ("g.pid", "./g.pid", "/run/", "", "/run/\0"):
        found = finding(gateway={"pidfile": value})
        assert found.message == (
            "expected the whole path of a file, such as /run/gateway.pid"
        )
        assert found.loc == ("gateway", "pidfile")


@pytest.mark.parametrize(
    ("listen", "probes", "is_good"),
    [
        ("127.0.0.1:8000", "127.0.0.1:8001", True),
        ("127.0.0.1:8000", "127.0.0.1:8000", False),
        ("127.0.0.1:8000", "0.0.0.0:8000", False),
        ("0.0.0.0:8000", "127.0.0.1:8000", False),
        ("[::]:8000", "127.0.0.1:8000", False),
        ("127.0.0.1:8000", "[::]:8000", False),
        ("127.0.0.1:8000", "127.0.0.2:8000", True),
        ("[::1]:8000", "127.0.0.1:8000", True),
        ("127.0.0.1:0", "127.0.0.1:0", True),
    ],
)
def test_probes_have_an_address_of_their_own(
    listen: str, probes: str, is_good: bool
) -> None:
    """An address that contains the other one, too, can't be listened on as well."""
    gateway = {"listen": listen, "probes": {"listen": probes}}
    if is_good:
        assert parse(gateway=gateway).gateway.probes.listen == probes
    else:
        found = finding(gateway=gateway)
        assert found.loc == ("gateway", "probes", "listen")
        assert found.message == "gateway.listen has this address"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("soon", "expected a duration such as 3s, 250ms, 5m or 1h"),
        ("-3s", "expected a duration such as 3s, 250ms, 5m or 1h"),
        ("9" * 5000, "expected a duration such as 3s, 250ms, 5m or 1h"),
        (0, "must be more than 0"),
        (-1, "must be more than 0"),
        ("99999d", "must be at most 3.1536e+08"),
        (float("inf"), "expected a finite number"),
        (float("nan"), "expected a finite number"),
        (True, "expected a number"),
        ([], "expected a number"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_bad_durations(value: object, message: str) -> None:
    """A duration is positive, finite, at most ten years, and no boolean."""
    assert finding(gateway={"drain_timeout": value}).message == message


@pytest.mark.parametrize(
    ("text", "size"),
    {
        "10MiB": 10 * 1024**2,
        "64KiB": 65536,
        "1GB": 10**9,
        "5 kb": 5000,
        "1gib": 1024**3,
        "7B": 7,
        "8": 8,
        9: 9,
        0: 0,
    }.items(),
)
def test_sizes(text: object, size: int) -> None:
    """A size is a number of bytes, or a number with a unit; 1 KiB is 1024 bytes."""
    limits = parse(gateway={"limits": {"max_body_size": text}}).gateway.limits
    assert limits.max_body_size == size


def test_there_is_no_budget_of_memory_unless_it_is_set() -> None:
    """The smallest is one request of the largest size."""
    assert parse().gateway.limits.memory is None
    limits = parse(gateway={"limits": {"memory": 2 * 1024**2 + 65536}}).gateway.limits
    assert limits.memory == 2162688


TOO_LITTLE = (
    "must be at least 2162688 bytes: one request may take max_head_size + 2 MiB"
)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_body_size": "big"}, "expected a size such as 64KiB, 10MiB or 1GB"),
        ({"max_body_size": -1}, "must be at least 0"),
        ({"max_body_size": 1.5}, "expected a whole number"),
        ({"max_body_size": True}, "expected a number"),
        ({"max_fields": True}, "expected a number"),
        ({"max_fields": "many"}, "expected a whole number"),
        ({"max_fields": 0}, "must be at least 1"),
        ({"max_fields": "9" * 5000}, "the number is too large"),
        ({"max_fields": []}, "expected a whole number"),
        ({"max_head_size": 8192}, "this is more than max_head_size"),
        ({"memory": "many"}, "expected a size such as 64KiB, 10MiB or 1GB"),
        ({"memory": "2MiB"}, TOO_LITTLE),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_limits(limits: dict[str, object], message: str) -> None:
    """A limit is a whole number in its range, and at most `max_head_size` for parts."""
    assert finding(gateway={"limits": limits}).message == message


def test_cooldown_is_under_a_minute() -> None:
    """The core publishes a new key 60 s before it signs with it.

    A longer cooldown would refuse tokens of a key that is already published.
    """
    wrong = finding(supertokens={"keys": {"cooldown": "1m"}})
    assert wrong.path == "supertokens.keys.cooldown"
    assert wrong.message.startswith("must be less than 60 s")


# --- paths ---


@pytest.mark.parametrize(
    ("form", "value", "canonical"),
    [
        ("exact", "/", "/"),
        ("exact", "/a/", "/a/"),
        ("exact", "/a%2Ab;v=1", "/a%2Ab;v=1"),
        ("exact", "/stra\xdfe", "/stra%C3%9Fe"),
        ("prefix", "/", "/"),
        ("prefix", "/a", "/a"),
        ("prefix", "/a/", "/a"),
        ("template", "/a/{id}", "/a/{id}"),
        ("template", "/{a}/b/{c_1}/", "/{a}/b/{c_1}/"),
        ("template", "/stra\xdfe/{id}", "/stra%C3%9Fe/{id}"),
        ("regex", "/v[0-9]+/.*", "/v[0-9]+/.*"),
    ],
)
def test_paths(form: str, value: str, canonical: str) -> None:
    """A path is kept in the canonical form in which request paths are matched."""
    assert path_of(form, value) == canonical


@pytest.mark.parametrize(
    ("form", "value", "message"),
    [
        ("exact", "a", "a path begins with /. Write / before it"),
        ("exact", "", "a path begins with /. Write / before it"),
        ("exact", "http://h/a", "a path begins with /. Remove the scheme and the"),
        ("prefix", "/a/*", "a path has no wildcards. A prefix covers"),
        ("prefix", "/a/{id}", "can't have names in braces. Use path: {"),
        ("exact", "/a/../b", "isn't in canonical form. Write /b"),
        ("exact", "/a/./b", "isn't in canonical form. Write /a/b"),
        ("exact", "/a/.", "isn't in canonical form. Write /a/"),
        ("exact", "//a", "isn't in canonical form. Write /a"),
        ("exact", "/%2e%2e/a", "no request can have this path"),
        ("exact", "/%61", "isn't in canonical form. Write /a"),
        ("exact", "/%c3%9f", "isn't in canonical form. Write /%C3%9F"),
        ("exact", "/a%2Fb", "no request can have this path"),
        ("exact", "/a b", "no request can have this path"),
        ("exact", "/a?b=1", "no request can have this path"),
        ("exact", "/a#b", "no request can have this path"),
        ("exact", "/a%00", "no request can have this path"),
        ("exact", "/..;/a", "no request can have this path"),
        ("prefix", "/a" * 65, "at most 64 segments"),
        ("template", "/a", "at least one name in braces"),
        ("template", "/a/{id}/{id}", "twice"),
        ("template", "/a-{id}", "a whole segment. Use regex"),
        ("template", "/{a}{b}", "a whole segment. Use regex"),
        ("template", "/{a}/}", "a whole segment"),
        ("template", "/{a}/../b", "isn't in canonical form"),
        ("template", "/{a}/*", "no wildcards"),
        ("template", "{a}/b", "a path begins with /"),
        ("regex", ".*", "a pattern begins with /"),
        ("regex", "^/a", "a pattern begins with /"),
        ("regex", "/a$", "leave out ^ and $"),
        ("regex", "/(a", "a group is not closed"),
        ("regex", "/a", "this pattern is plain text. Use exact"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bad_paths(form: str, value: str, message: str) -> None:
    """A path that no request can have is refused; the message tells what to write."""
    wrong = finding(
        routes=[{"match": {"path": {form: value}}, "upstream": "http://up"}]
    )
    assert wrong.path == f"routes[0].match.path.{form}"
    assert message in f"{wrong.message}. {wrong.hint}"


@given(st.text(alphabet="ab/.%2eEfF{};*\xe9 ?#", max_size=12))
def test_paths_are_canonical_or_refused(text: str) -> None:
    """An accepted path is the path that the listener parses from a request for it."""
    try:
        canonical = path_of("exact", f"/{text}")
    except InvalidConfig:
        return
    assert canonical == target.canonical_path(f"/{text}")
    assert canonical == target.canonical_path(canonical)
    parsed = target.parse(canonical.encode(), method="GET", authority=b"h")
    assert parsed.path == canonical


def test_paths_exact_is_all_of_the_stricter_values() -> None:
    """`paths: exact` sets every key to its strictest value; unset keys are None."""

    def paths(value: object) -> config.PathsConfig:
        service = {"targets": ["http://s"], "paths": value}
        return parse(services={"s": service}).services["s"].paths

    assert paths("exact").model_dump() == {
        "case": "sensitive",
        "final_slash": "significant",
        "parameters": "kept",
        "extension": "kept",
        "final_dots": "kept",
    }
    assert set(paths({}).model_dump().values()) == {None}
    assert paths({"case": "insensitive"}).final_slash is None


@pytest.mark.parametrize(
    ("settings", "path", "message", "hint"),
    [
        ({"resolve": "all"}, "resolve", "expected 'one' or 'each'", ""),
        (
            {
                "targets": ["http://127.0.0.1:1", "http://[::1]:1", "unix:/run/s"],
                "resolve": "each",
            },
            *("resolve", "no target has a name", "Write the service's name"),
        ),
        ({"resolve_interval": "5s"}, "resolve_interval", "nothing is", "resolve: each"),
        (
            {"resolve": "each", "resolve_interval": "500ms"},
            *("resolve_interval", "must be at least 1s", ""),
        ),
        ({"balance": "fastest"}, "balance", "expected least_requests, round_robin", ""),
        ({"balance": {"by": "user"}}, "balance.by", "unknown key 'by'", ""),
        (
            {"balance": {"hash": "users"}},
            *("balance.hash", "expected session, user, tenant", "Did you mean 'user'?"),
        ),
        ({"balance": {"hash": "cookie:a b"}}, "balance.hash", "isn't a field name", ""),
        ({"health": {"passive": 3}}, "health.passive", "expected a mapping", ""),
        (
            {"health": {"passive": {"failures": 0}}},
            *("health.passive.failures", "must be at least 1", ""),
        ),
        ({"retry": {"on": [500]}}, "retry.on[0]", "expected 'connect', 'reset'", ""),
        ({"retry": {"on": "503"}}, "retry.on", "expected a list", ""),
        ({"retry": {"per_try": -1}}, "retry.per_try", "must be", ""),
        ({"health": {"active": {}}}, "health.active", "path", ""),
        ({"health": {"active": {"path": "ok"}}}, "health.active.path", "begin", ""),
        (
            {"health": {"active": {"path": "/ok", "down": 0}}},
            *("health.active.down", "must be at least 1", ""),
        ),
        (
            {"health": {"active": {"path": "/ok", "interval": "often"}}},
            *("health.active.interval", "expected a duration", ""),
        ),
        ({"retry": {"budget": 0}}, "retry.budget", "must be", ""),
        ({"retry": {"budget": 1.5}}, "retry.budget", "must be at most 1", ""),
        ({"retry": {"budget": "20%"}}, "retry.budget", "expected a number", ""),
        ({"hold": "soon"}, "hold", "expected", ""),
        ({"limits": {}}, "limits", "in_flight", ""),
        ({"limits": 512}, "limits", "expected", ""),
        (
            {"limits": {"in_flight": 0}},
            *("limits.in_flight", "must be at least 1", ""),
        ),
        (
            {"limits": {"in_flight": 1, "pending": -1}},
            *("limits.pending", "must be at least 0", ""),
        ),
        (
            {"limits": {"in_flight": 1, "pendng": 1}},
            *("limits.pendng", "unknown key", "pending"),
        ),
        (
            {"targets": [{"url": "http://a", "weight": 1001}]},
            *("targets[0].weight", "must be at most 1000", ""),
        ),
    ],
)
def test_wrong_balancing(
    settings: dict[str, object], path: str, message: str, hint: str
) -> None:
    """Each mistake has one problem, at its own key."""
    wrong = finding(services={"up": {"targets": ["http://up"], **settings}})
    assert wrong.path == f"services.up.{path}"
    assert message in wrong.message
    assert hint in wrong.hint


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ("exactly", "expected exact, or keys such as", "Did you mean 'exact'?"),
        ("loose", "expected exact, or keys such as", "See docs/configuration.md"),
        ({"case": "Sensitive"}, "expected 'sensitive' or 'insensitive'", ""),
        ({"slash": "ignored"}, "unknown key 'slash'", ""),
    ],
    ids=str,
)
def test_bad_paths_of_services(value: object, message: str, hint: str) -> None:
    """The message names the accepted forms, and the hint the likely one."""
    service = {"targets": ["http://s"], "paths": value}
    wrong = finding(services={"s": service})
    assert wrong.path.startswith("services.s.paths")
    assert wrong.message.startswith(message)
    assert hint in wrong.hint


def test_own_paths_leave_room_for_routes() -> None:
    """`api_base_path: /` is refused: it would leave no path to the routes."""
    assert parse(supertokens={"api_base_path": "/auth/"}).supertokens.api_base_path == (
        "/auth"
    )
    wrong = finding(supertokens={"api_base_path": "/"})
    assert wrong.message == "the root can't be a path of the gateway's own"


# --- hosts, networks, URLs ---


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM.", "api.example.com"),
        ("*.Example.com", "*.example.com"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("[0:0:0:0:0:0:0:1]", "[::1]"),
        ("orders_1", "orders_1"),
    ],
)
def test_hosts(value: str, canonical: str) -> None:
    """A route's host is kept in the canonical form of request hosts."""
    settings = parse(
        routes=[
            route(path=None, match={"path": {"prefix": "/"}, "hosts": [value]}),
        ]
    )
    assert settings.routes[0].match is not None
    assert settings.routes[0].match.hosts == (canonical,)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "this isn't a host"),
        ("a b", "this isn't a host"),
        ("http://h", "this isn't a host"),
        ("b\xfccher.de", "Write it in its ASCII form"),
        ("h:80", "without a port"),
        ("*", "only as the first label"),
        ("a*.example.com", "only as the first label"),
        ("*.*.com", "this isn't a host"),
        ("*.127.0.0.1", "an IP address can't have a wildcard"),
        ("*.[::1]", "an IP address can't have a wildcard"),
        ("2130706433", "this isn't a host"),
        ("u@h", "this isn't a host"),
    ],
)
def test_bad_hosts(value: str, message: str) -> None:
    """A host that no request can have is refused: its route would never match."""
    match = {"path": {"prefix": "/"}, "hosts": [value]}
    wrong = finding(routes=[{"match": match, "upstream": "http://up"}])
    assert wrong.path == "routes[0].match.hosts[0]"
    assert message in f"{wrong.message}. {wrong.hint}"


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("fd00::/8", "fd00::/8"),
    ],
)
def test_trusted_proxies(value: str, canonical: str) -> None:
    """A trusted proxy is a network or a single address."""
    gateway = parse(gateway={"trusted_proxies": [value]}).gateway
    assert gateway.trusted_proxies == (canonical,)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0.0.0.0/0", "this trusts all clients"),
        ("::/0", "this trusts all clients"),
        ("10.0.0.1/8", "Write 10.0.0.0/8"),
        ("proxy.internal", "expected a network such as"),
        ("10.0.0.0/33", "expected a network such as"),
    ],
)
def test_bad_trusted_proxies(value: str, message: str) -> None:
    """A network of all addresses is refused: it would trust every client's fields."""
    wrong = finding(gateway={"trusted_proxies": [value]})
    assert message in f"{wrong.message}. {wrong.hint}"


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("0.0.0.0:0", "0.0.0.0:0"),
        ("[::]:80", "[::]:80"),
        ("localhost:1", "localhost:1"),
    ],
)
def test_listen(value: str, canonical: str) -> None:
    """`listen` is a host and a port; port 0 is accepted."""
    (listen,) = parse(gateway={"listen": value}).gateway.listen
    assert listen.address == canonical


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("127.0.0.1", "the port is missing. Add it, such as :8000"),
        ("h:", "the port is missing"),
        ("[::1]", "the port is missing"),
        (":80", "the host is missing. Write 127.0.0.1: before the port"),
        ("8000", "the host is missing. Write 127.0.0.1: before the port"),
        ("", "the port is missing"),
        ("h:99999", "a port is at most 65535"),
        ("::1:80", "an IPv6 address in brackets"),
        ("b\xfccher.de:80", "Write it in its ASCII form"),
    ],
)
def test_bad_listen(value: str, message: str) -> None:
    """Neither host nor port has a default: a missing host doesn't mean all hosts."""
    wrong = finding(gateway={"listen": value})
    assert wrong.path == "gateway.listen"
    assert message in f"{wrong.message}. {wrong.hint}"


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("https://App.example.com:443", "https://app.example.com"),
        ("http://localhost:80", "http://localhost"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_origins(value: str, canonical: str) -> None:
    """An origin is kept as browsers send it: lower case, without the default port."""
    cors = parse(cors={"allow_origins": [value]}).cors
    assert cors.allow_origins == (canonical,)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("*", "with it, browsers send no credentials"),
        ("null", "expected an origin such as"),
        ("app.example.com", "expected an origin such as"),
        ("https://app.example.com/", "Remove the final slash"),
        ("https://app.example.com/x", "with nothing after it"),
        ("https://u:p@h", "with nothing after it"),
        ("ftp://h", "expected an origin such as"),
    ],
)
def test_bad_origins(value: str, message: str) -> None:
    """Text that no browser sends as an origin is refused."""
    wrong = finding(cors={"allow_origins": [value]})
    assert message in f"{wrong.message}. {wrong.hint}"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://orders:8080", Address(scheme="http", host="orders", port=8080)),
        ("http://Orders", Address(scheme="http", host="orders", port=80)),
        ("https://orders/", Address(scheme="https", host="orders", port=443)),
        ("http://10.0.0.1:1", Address(scheme="http", host="10.0.0.1", port=1)),
        ("http://[::1]:1", Address(scheme="http", host="[::1]", port=1)),
        ("unix:/run/a.sock", Address(scheme="unix", socket_path="/run/a.sock")),
    ],
)
def test_targets(url: str, address: Address) -> None:
    """A target is an address to connect to: scheme, host and port, or a socket."""
    service = parse(services={"s": {"targets": [url]}}).services["s"]
    assert config.address(service.targets[0].url) == address
    assert config.address(str(address)) == address
    assert parse(services={"s": {"targets": [{"url": url}]}}).services["s"] == service


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("orders:8080", "Write http:// before the host"),
        ("file:///etc/passwd", "Services are reached over http:// or https://"),
        ("ftp://orders", "Services are reached over http:// or https://"),
        ("//orders", "Write http:// before the host"),
        ("http://", "It is empty"),
        ("http://u:p@orders", "no user and no password"),
        ("http://orders/api", "no path. Use rewrite.replace_prefix"),
        ("http://orders/a@b", "no path. Use rewrite.replace_prefix"),
        ("http://orders?x", "no query and no fragment"),
        ("http://orders/#x", "no query and no fragment"),
        ("http://orders:0", "no service can listen on port 0"),
        ("http://orders:99999", "this isn't a host"),
        ("http://2130706433", "this isn't a host"),
        ("http://0x7f.1", "this isn't a host"),
        ("http://127.1", "this isn't a host"),
        ("http://web-:8080", "ends in a hyphen. Check the spelling"),
        ("https://web-.example.com", "ends in a hyphen"),
        ("http://{tenant}.internal", "this isn't a host"),
        ("http://169.254.169.254", "link-local"),
        ("http://[fe80::1]", "link-local"),
        ("http://[::ffff:169.254.169.254]", "link-local"),
        ("http://0.0.0.0:80", "no service can be reached"),
        ("http://[::]:80", "no service can be reached"),
        ("http://224.0.0.1", "no service can be reached"),
        ("http://255.255.255.255", "no service can be reached"),
        ("unix:run/a.sock", "an absolute path"),
        ("unix:/a\0b", "an absolute path"),
        ("unix:/" + "a" * 200, "at most 103 bytes"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_targets(url: str, message: str) -> None:
    """A target is refused if hosts resolve it differently or no service can have it."""
    for wrong in (
        finding(services={"s": {"targets": [url]}}),
        finding(routes=[route(upstream=url)]),
    ):
        assert message in f"{wrong.message}. {wrong.hint}"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("core:3567", "expected http://host:port"),
        ("http://core:3567;", "expected http://host:port"),
        ("http://u@core", "no user and no password"),
        ("http://core?x", "no query"),
        ("http://core:x", "this isn't a host"),
    ],
)
def test_bad_cores(uri: str, message: str) -> None:
    """A core's URI is one or more URLs, separated by `;`, without user and query."""
    wrong = finding(supertokens={"connection_uri": uri})
    assert message in f"{wrong.message}. {wrong.hint}"


def test_core_addresses() -> None:
    """A core's URL may have a path; its address doesn't include it."""
    uri = "http://a:3567/x;https://b"
    assert parse(supertokens={"connection_uri": uri}).supertokens.connection_uri == uri
    assert [str(core) for core in config.core_addresses(uri)] == [
        "http://a:3567",
        "https://b:443",
    ]


# --- booleans and words ---


@pytest.mark.parametrize("value", [True, False, "optional"])
def test_protected(value: object) -> None:
    """`protected` is true, false or `optional`."""
    assert parse(routes=[route(protected=value)]).routes[0].protected == value


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("yes", "Write true, without quotes"),
        ("true", "Write true, without quotes"),
        ("no", "Write false, without quotes"),
        ("public", "Write false, without quotes"),
        ("optonal", "Did you mean 'optional'?"),
        (1, ""),
        (None, ""),
        ([], ""),
    ],
)
def test_bad_protected(value: object, hint: str) -> None:
    """Other words are refused, with the boolean that they mean; null is unset."""
    if value is None:
        assert parse(routes=[route(protected=value)]).routes[0].protected is None
        value = 0
    wrong = finding(routes=[route(protected=value)])
    assert wrong.message == "expected true, false or optional"
    assert wrong.hint == hint


@pytest.mark.parametrize(
    ("keys", "path", "message", "hint"),
    [
        ({"protectd": 1}, "protectd", "unknown key 'protectd'", "'protected'?"),
        (
            {"zzz": 1},
            "zzz",
            "unknown key 'zzz'",
            "Known keys here: name, path, methods,",
        ),
        ({"<<": {}}, "<<", "unknown key '<<'", "merge keys aren't supported"),
        (
            {"upstream_401": "pas"},
            "upstream_401",
            "expected 'pass', '403' or",
            "'pass'",
        ),
        ({"upstream_401": []}, "upstream_401", "expected 'pass', '403' or", ""),
        (
            {"websocket": {"enabled": "on"}},
            "websocket.enabled",
            "true or false",
            "true,",
        ),
        ({"websocket": {"enabled": 0}}, "websocket.enabled", "true or false", ""),
        ({"websocket": None}, "websocket", "expected a mapping", "It is empty"),
        ({"websocket": []}, "websocket", "expected a mapping", "Its keys are enabled,"),
        ({"name": "a b"}, "name", "a name has up to 100", ""),
        ({"name": []}, "name", "expected text", ""),
        ({"retry": {"attempts": 9}}, "retry.attempts", "must be at most 5", ""),
        (
            {"request": {"allow_field_names": "x"}},
            "request.allow_field_names",
            "list",
            "Put it in brackets: allow_field_names: […]",
        ),
        (
            {"request": {"allow_field_names": ["a b"]}},
            "request.allow_field_names[0]",
            "isn't a field name",
            "",
        ),
        ({"require": {"roles": {"any": [""]}}}, "require.roles.any[0]", "empty", ""),
        ({"require": {"validators": ["a-b"]}}, "require.validators[0]", "dotted", ""),
        (
            {"require": {"claims": [{"in": [1]}]}},
            "require.claims[0]",
            "'path' is",
            "Add path:",
        ),
        (
            {"require": {"claims": [{"path": "a..b", "in": [1]}]}},
            "require.claims[0].path",
            "expected a claim's name",
            "",
        ),
        (
            {"require": {"claims": [{"path": "a b", "in": [1]}]}},
            "require.claims[0].path",
            "expected a claim's name",
            "",
        ),
        (
            {"require": {"claims": [{"path": "a", "in": []}]}},
            "require.claims[0].in",
            "at least one item",
            "",
        ),
        (
            {"require": {"claims": [{"path": "a"}]}},
            "require.claims[0]",
            "exactly one of in, equals, contains and mail_domain",
            "",
        ),
        (
            {"require": {"claims": [{"path": "a", "equals": None, "contains": 1}]}},
            "require.claims[0]",
            "exactly one of in, equals, contains and mail_domain",
            "",
        ),
        ({"host_header": "a b"}, "host_header", "this isn't a host", ""),
        ({"upstream": None}, "", "exactly one of upstream and service", ""),
        ({"path": None}, "", "exactly one of path and match", ""),
        ({"match": {"path": {"exact": "/"}}}, "", "exactly one of path and match", ""),
        (
            {"path": None, "match": {"path": {"exact": "/", "prefix": "/"}}},
            "match.path",
            "exactly one of exact, prefix, template, regex",
            "",
        ),
        ({"path": None, "match": {"path": {}}}, "match.path", "exactly one of", ""),
        ({"path": None, "match": {}}, "", "exactly one of path and match", ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_routes(keys: dict[str, Any], path: str, message: str, hint: str) -> None:
    """Each mistake is one finding, at its place, with a hint if there is a remedy."""
    wrong = finding(routes=[route(**keys)])
    assert wrong.path == f"routes[0].{path}".removesuffix(".")
    assert message in wrong.message
    assert hint in wrong.hint
    assert bool(hint) == bool(wrong.hint)


def test_good_routes() -> None:
    """Valid values pass the checks of `test_bad_routes`."""
    routes = parse(
        routes=[
            route(
                require={
                    "claims": [{"path": "st-ev.v", "equals": None}],
                    "validators": ["package.module.validator"],
                },
                request={"allow_field_names": ["x_odd.name"]},
                host_header="Shop.example.com:8080",
            ),
            {"path": "/b", "upstream": "http://up", "host_header": "preserve"},
            {"path": "/c", "upstream": "http://up", "host_header": "Shop.example.com"},
        ]
    ).routes
    assert routes[0].require.claims[0].equals is None
    assert [one.host_header for one in routes] == [
        "shop.example.com:8080",
        "preserve",
        "shop.example.com",
    ]


def test_unknown_keys_of_targets() -> None:
    """An unknown key gets a suggestion also in a mapping within a list."""
    wrong = finding(services={"s": {"targets": [{"url": "http://a", "ulr": 1}]}})
    assert (wrong.path, wrong.hint) == (
        "services.s.targets[0].ulr",
        "Did you mean 'url'?",
    )
    assert finding(services={"s": {"targets": []}}).message == (
        "expected at least one item"
    )


# --- the log ----------------------------------------------------------------


def test_log_defaults() -> None:
    """Every request has a line of text, without its User-Agent."""
    log = parse().log
    assert (log.format, log.exclude, log.sample) == ("text", (), 1.0)
    assert (log.slow, log.user_agent) == (1.0, False)


@pytest.mark.parametrize(
    ("log", "path", "message"),
    [
        ({"format": "xml"}, "log.format", "expected 'text', 'json', 'ecs' or 'none'"),
        ({"sample": 0}, "log.sample", "must be more than 0"),
        ({"sample": 1.5}, "log.sample", "must be at most 1"),
        ({"slow": "soon"}, "log.slow", "expected a duration"),
        ({"exclude": [{}]}, "log.exclude[0]", "expected at least one of path, route"),
        ({"exclude": [{"path": "a"}]}, "log.exclude[0].path", "a path begins with /"),
        ({"exclude": [{"status": []}]}, "log.exclude[0].status", "at least one item"),
        (
            {"exclude": [{"status": ["ok"]}]},
            "log.exclude[0].status[0]",
            "expected a status such as 204, or a class of them such as 2xx",
        ),
        ({"exclude": [{"status": [600]}]}, "log.exclude[0].status[0]", "such as 204"),
        ({"exclude": [{"host": "a"}]}, "log.exclude[0].host", "unknown key"),
        ({"user_agent": "yes"}, "log.user_agent", "true or false"),
    ],
    ids=str,
)
def test_bad_log_settings(log: dict[str, object], path: str, message: str) -> None:
    """Each mistake has its place and says what is expected."""
    found = finding(log=log)
    assert found.path.startswith(path)
    assert message in found.message


# --- traces -----------------------------------------------------------------


def test_tracing_defaults() -> None:
    """Clients don't choose the ids of traces, and spans don't say who it is."""
    tracing = parse().tracing
    assert (tracing.inbound, tracing.user_id) == ("restart", False)


@pytest.mark.parametrize(
    ("tracing", "path", "message"),
    [
        ({"inbound": "trust"}, "tracing.inbound", "expected 'restart' or 'continue'"),
        ({"inbound": True}, "tracing.inbound", "expected 'restart' or 'continue'"),
        ({"exporter": "otlp"}, "tracing.exporter", "unknown key"),
        ({"user_id": "yes"}, "tracing.user_id", "true or false"),
        ("restart", "tracing", "expected a mapping"),
    ],
    ids=str,
)
def test_bad_tracing_settings(tracing: object, path: str, message: str) -> None:
    """Each mistake has its place and says what is expected."""
    found = finding(tracing=tracing)
    assert found.path == path
    assert message in found.message


def test_statuses_may_be_numbers() -> None:
    """`upstream_401: 403`, which is a number in YAML, means the text `403`."""
    assert parse(routes=[route(upstream_401=403)]).routes[0].upstream_401 == "403"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("get", "GET"),
        ("M-SEARCH", "M-SEARCH"),
        ("G T", None),
        ("", None),
        ("trace", None),
        ("CONNECT", None),
        ("FOO", None),
        ("G\u00cbT", None),
    ],
)
def test_methods(method: str, expected: str | None) -> None:
    """A route's method is one that is forwarded; it is kept in upper case."""
    routes = [
        {
            "match": {"path": {"prefix": "/"}, "methods": [method]},
            "upstream": "http://up",
        }
    ]
    if expected is None:
        assert finding(routes=routes).path == "routes[0].match.methods[0]"
    else:
        match = parse(routes=routes).routes[0].match
        assert match is not None
        assert match.methods == (expected,)


def test_a_method_that_is_mistyped() -> None:
    """A mistyped method is refused with a suggestion: its route would never match."""
    wrong = finding(
        routes=[
            {
                "match": {"path": {"prefix": "/"}, "methods": ["PROPFINT"]},
                "upstream": "http://up",
            }
        ]
    )
    assert wrong.message == "requests with this method are never forwarded"
    assert wrong.hint == "Did you mean 'PROPFIND'?"


@pytest.mark.parametrize(
    ("supertokens", "path", "message"),
    [
        ({"recipes": {"session": {}}}, "recipes.session", "is always on"),
        ({"recipes": {"emailpasword": {}}}, "recipes.emailpasword", "no recipe"),
        ({"recipes": {"x": {}}}, "recipes.x", "no recipe"),
        ({"recipes": []}, "recipes", "expected a mapping"),
        ({"recipes": {}, "config_module": "a.b"}, "recipes", "config_module already"),
        ({"config_module": "a/b"}, "config_module", "dotted Python name"),
        ({"email_delivery": "smtp"}, "email_delivery", "expected none, supertokens"),
        (
            {"email_delivery": {"host": "h"}},
            "email_delivery",
            "'from_email' is missing",
        ),
        (
            {"email_delivery": {"host": "h", "from_email": "x"}},
            "email_delivery.from_email",
            "a mail address",
        ),
        (
            {"email_delivery": {"host": "h", "from_email": "a@b", "prt": 1}},
            "email_delivery.prt",
            "unknown key",
        ),
        ({"anti_csrf": "none"}, "anti_csrf", "expected 'VIA_TOKEN'"),
        ({"api_domain": "http://[::1]:8000"}, "api_domain", "an IPv6 address"),
        ({"website_domain": "http://[::1]"}, "website_domain", "an IPv6 address"),
        ({"api_base_path": "/auth;v=1"}, "api_base_path", "the Path of a cookie"),
        ({"cookie": {"same_site": "Lax"}}, "cookie.same_site", "expected 'lax'"),
        ({"cookie": {"domain": "a b"}}, "cookie.domain", "this isn't a host"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_supertokens(supertokens: Any, path: str, message: str) -> None:
    """Each mistake in `supertokens` is one finding, even if a value has two forms."""
    wrong = finding(supertokens=supertokens)
    assert wrong.path == f"supertokens.{path}"
    assert message in wrong.message


ENDS = "can't begin or end with a blank or line break"
ASCII = "must be printable ASCII"


@pytest.mark.parametrize(
    ("key", "message", "hint"),
    [
        ("hunter2\n", ENDS, "ends with a line break"),
        ("hunter2\r\n", ENDS, "ends with a line break"),
        (" hunter2", ENDS, "Remove it"),
        ("hunter2\t", ENDS, "Remove it"),
        ("hunter2\xa0", ENDS, "Remove it"),
        ("hunter2\nhunter2", ASCII, "Remove line breaks"),
        ("hunter2\rhunter2", ASCII, "Remove line breaks"),
        ("hunter2\thunter2", ASCII, "tabs"),
        ("hunter2\0", ASCII, "control characters"),
        ("hunter2\x7f", ASCII, "control characters"),
        ("hünter2", ASCII, "such as é"),
        ("\u201chunter2\u201d", ASCII, "typographic quotes"),
        ("", "must not be empty", ""),
        (" ", ENDS, "Remove it"),
    ],
)
def test_bad_api_key(key: str, message: str, hint: str) -> None:
    """It is sent to the core in a header field; the message doesn't repeat the key."""
    wrong = finding(supertokens={"api_key": key})
    assert wrong.path == "supertokens.api_key"
    assert message in wrong.message
    assert hint in wrong.hint
    assert "nter2" not in str(wrong)


@pytest.mark.parametrize("key", ["a", "a b", "".join(map(chr, range(0x21, 0x7F)))])
def test_good_api_key(key: str) -> None:
    """Printable ASCII, blanks within it included."""
    assert parse(supertokens={"api_key": key}).supertokens.api_key == key


def test_good_supertokens() -> None:
    """Recipes may be empty, a mail server has defaults, and a key may be a number."""
    parsed = parse(
        supertokens={
            "recipes": {"emailpassword": None, "thirdparty": {"providers": []}},
            "email_delivery": {"host": "smtp.example.com", "from_email": "a@b.c"},
            "cookie": {"domain": ".Example.com", "secure": True},
            "api_key": 12345,
        }
    ).supertokens
    assert parsed.recipes == {"emailpassword": {}, "thirdparty": {"providers": []}}
    assert isinstance(parsed.email_delivery, config.SmtpConfig)
    assert parsed.cookie.domain == ".example.com"
    assert parsed.api_key == "12345"
    smtp = config.SmtpConfig(host="h", from_email="a@b.c")
    assert config.SuperTokensConfig(email_delivery=smtp).email_delivery is smtp


@pytest.mark.parametrize(
    "name",
    ["X-Plan", "X-User-Id", "x", "X-2", "X-Forwarded-User", "Remote-User"],
)
def test_identity_header_names(name: str) -> None:
    """The name is letters, digits and `-`, and may be a standard identity name."""
    headers = {name: "{claims.plan}"}
    assert parse(routes=[route(identity={"headers": headers})]).routes[0].identity


@pytest.mark.parametrize(
    "name",
    [
        "X_Plan",
        "X.Plan",
        "-X",
        "X-",
        "Connection",
        "content-length",
        "Host",
        "TE",
        "Transfer-Encoding",
        "Upgrade",
        "Cookie",
        "Authorization",
        "Proxy",
        "St-Access-Token",
        "Sec-Fetch-Site",
        "X-Forwarded-For",
        "X-Auth-Status",
        "X-Request-Id",
        "Via",
        "Date",
        "Accept",
        "Server",
        "Content-Foo",
        "X-Real-Ip",
        "X-Client-IP",
        "X-Scheme",
        "X-Original-URL",
        "X-Envoy-Peer",
        "X-Forwarded-Uri",
        "X-HTTP-Method-Override",
        "Proxy-Foo",
        "Front-Token",
        "CDN-Cache-Control",
    ],
)
def test_bad_identity_header_names(name: str) -> None:
    """An identity header can't be a field that HTTP, proxies or the gateway use.

    Nor can its name have characters that a service may read as another's.
    """
    wrong = finding(routes=[route(identity={"headers": {name: "{user_id}"}})])
    assert wrong.path == f"routes[0].identity.headers.{name}"
    assert wrong.at_key


@pytest.mark.parametrize(
    ("template", "ok"),
    [
        ("{user_id}", True),
        ("{claims.plan}", True),
        ("{claims.st-role.v}/{tenant_id}:{session_handle}", True),
        ("user {recipe_user_id}", True),
        ("", False),
        ("constant", False),
        ("{claims}", False),
        ("{claims.}", False),
        ("{claims.a b}", False),
        ("{claims.a..b}", False),
        ("{claims.a\u00a0b}", False),
        ("{email}", False),
        ("{user_id", False),
        ("{user_id}}", False),
        ("{{user_id}", False),
        ("{user_id}\r\nX: y", False),
        (" {user_id}", False),
        ("\xe9{user_id}", False),
    ],
)
def test_identity_templates(template: str, ok: bool) -> None:
    """A template needs a known placeholder and must be an ASCII field value."""
    sections = {"routes": [route(identity={"headers": {"X-Plan": template}})]}
    if ok:
        assert parse(**sections).routes[0].identity.headers == {"X-Plan": template}
    else:
        assert finding(**sections).path == "routes[0].identity.headers.X-Plan"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("X_Trace", None),
        ("a.b", None),
        ("X-Trace", None),
        ("a b", "this isn't a field name"),
        ("x\u00e9", "this isn't a field name"),
        ("X_User_Id", "another spelling"),
        ("content.length", "another spelling"),
        ("Host", "another spelling"),
    ],
)
def test_allowed_field_names(name: str, message: str | None) -> None:
    """A name that could be read as a field with a rule can't be allowed."""
    sections = {"routes": [route(request={"allow_field_names": [name]})]}
    if message is None:
        assert parse(**sections).routes[0].request.allow_field_names == (name,)
    else:
        wrong = finding(**sections)
        assert wrong.path == "routes[0].request.allow_field_names[0]"
        assert message in wrong.message


def test_identity_headers_differ() -> None:
    """Two identity headers whose names differ only in case are refused."""
    headers = {"X-Plan": "{user_id}", "x-plan": "{tenant_id}"}
    wrong = finding(routes=[route(identity={"headers": headers})])
    assert wrong.message == "this field is set twice: names differ in case only"


# --- rules about several keys ---


@pytest.mark.parametrize(
    ("form", "path", "rewrite", "ok"),
    [
        ("prefix", "/a/b", {"strip_prefix": "/a"}, True),
        ("prefix", "/a/b", {"strip_prefix": "/a/b/"}, True),
        ("prefix", "/a/b", {"strip_prefix": "/"}, True),
        ("prefix", "/a/b", {"strip_prefix": "/a/b/c"}, False),
        ("prefix", "/ab", {"strip_prefix": "/a"}, False),
        ("exact", "/a/b", {"strip_prefix": "/a"}, True),
        ("exact", "/a/b", {"replace_prefix": "/x"}, True),
        ("prefix", "/a", {"replace_prefix": "/x"}, True),
        ("template", "/a/{b}", {"strip_prefix": "/a"}, True),
        ("template", "/a/{b}", {"strip_prefix": "/a/b"}, False),
        ("template", "/a/{b}", {"replace_prefix": "/x"}, False),
        ("template", "/a/{b}", {"strip_prefix": "/a", "replace_prefix": "/x"}, True),
        ("regex", "/a/b.*", {"strip_prefix": "/a"}, True),
        ("regex", "/a(/.*)?", {"strip_prefix": "/a"}, True),
        ("regex", "/ab?/c", {"strip_prefix": "/a"}, False),
        ("regex", "/a/b.*", {"strip_prefix": "/a/b"}, False),
        ("regex", "/a/b.*", {"replace_prefix": "/x"}, False),
    ],
)
def test_rewrites(form: str, path: str, rewrite: dict[str, str], ok: bool) -> None:
    """`strip_prefix` must be whole segments that every path of the route begins with.

    `replace_prefix` alone needs a path without names or patterns.
    """
    keys = {"match": {"path": {form: path}}, "upstream": "http://up"}
    if ok:
        assert parse(routes=[{**keys, "rewrite": rewrite}]).routes
    else:
        wrong = finding(routes=[{**keys, "rewrite": rewrite}])
        assert wrong.path.startswith("routes[0].rewrite.")


@pytest.mark.parametrize(
    ("value", "cookies"),
    [
        (True, (True, "remove")),
        (False, None),
        ({}, (True, "remove")),
        ({"path": False, "domain": ".example.com"}, (False, ".example.com")),
        ({"domain": "keep"}, (True, "keep")),
    ],
)
def test_mapped_cookies(value: object, cookies: tuple[bool, str] | None) -> None:
    """`true` is short for the defaults; `false` and no key leave cookies alone."""
    mapped = parse(routes=[route(rewrite={"cookies": value})]).routes[0].rewrite.cookies
    assert (mapped and (mapped.path, mapped.domain)) == cookies


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("yes", "cookies"),
        ({"domain": "a;b"}, "cookies.domain"),
        ({"domain": "a:80"}, "cookies.domain"),
        ({"path": "/"}, "cookies.path"),
    ],
)
def test_bad_mapped_cookies(value: object, path: str) -> None:
    """A domain can't end the attribute that it is written in."""
    wrong = finding(routes=[route(rewrite={"cookies": value})])
    assert wrong.path == f"routes[0].rewrite.{path}"


def test_services_are_looked_up_even_when_there_are_other_mistakes() -> None:
    """An unknown service is reported together with other mistakes."""
    all_findings = findings(
        services={"orders": {"targets": ["http://o"], "zzz": 1}},
        routes=[
            {"path": "/a", "service": "ordrs"},
            {"path": "/b", "service": "page"},
            {"path": "*", "service": "orders"},
        ],
    )
    assert {(wrong.path, wrong.hint.partition("?")[0]) for wrong in all_findings} >= {
        ("routes[0].service", "Did you mean 'orders'"),
        ("routes[1].service", "Add it to services, or use upstream with a URL"),
    }
    assert {wrong.path for wrong in all_findings} == {
        "routes[0].service",
        "routes[1].service",
        "routes[2].path",
        "services.orders.zzz",
    }


@pytest.mark.parametrize(
    ("default", "own", "ok"),
    [
        (True, None, True),
        (True, False, False),
        (True, "optional", False),
        (False, None, False),
        (False, True, True),
        ("optional", None, False),
    ],
)
def test_require_needs_protection(default: object, own: object, ok: bool) -> None:
    """`require` is refused on a route that isn't `protected: true`."""
    keys = route(require={"roles": {"any": ["admin"]}})
    if own is not None:
        keys["protected"] = own
    sections = {"defaults": {"protected": default}, "routes": [keys]}
    if ok:
        assert parse(**sections).routes[0].require.roles.any == ("admin",)
    else:
        assert finding(**sections).path == "routes[0].require"


def test_route_names_are_unique() -> None:
    """Two routes can't have the same name, by which logs and metrics know them."""
    wrong = finding(routes=[route(name="a"), route(name="b"), route(name="a")])
    assert wrong.path == "routes[2].name"
    assert wrong.see == ("routes", 0, "name")


@pytest.mark.parametrize("data", [None, [], "x", {}, {"version": 2}, {"version": "1"}])
def test_not_a_configuration(data: object) -> None:
    """Data that isn't version 1 of a configuration is one finding."""
    with pytest.raises(InvalidConfig) as caught:
        config.parse(data)
    assert len(caught.value.findings) == 1


KEYS = [
    "version",
    "routes",
    "path",
    "match",
    "services",
    "targets",
    "service",
    "protected",
    "require",
    "name",
    "recipes",
    "supertokens",
    "nonsense",
]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
        ),
        max_leaves=20,
    )
)
def test_any_data_gives_findings(data: object) -> None:
    """Any data of another version gives findings and no other exception."""
    with pytest.raises(InvalidConfig) as caught:
        config.parse([data])
    assert [one.message for one in caught.value.findings] == ["expected a mapping"]
    with pytest.raises(InvalidConfig) as caught:
        config.parse({"version": 2, "routes": [data], "services": data})
    assert all(one.message for one in caught.value.findings)


VALUES: st.SearchStrategy[Any] = (
    st.none() | st.just("x") | st.just(1) | st.just({}) | st.just([]) | st.just([1])
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "version": VALUES,
            "gateway": st.dictionaries(st.sampled_from(["limits", "listen"]), VALUES),
            "services": st.dictionaries(st.sampled_from(["a", "b"]), VALUES),
            "groups": st.lists(VALUES | st.fixed_dictionaries({"routes": VALUES})),
            "routes": st.lists(
                VALUES
                | st.fixed_dictionaries({"path": VALUES, "service": st.just("a")}),
                max_size=3,
            ),
            "include": VALUES,
            "unknown": VALUES,
        },
    )
)
def test_what_is_left_of_a_file_without_its_mistakes(data: dict[str, Any]) -> None:
    """Without the values that are wrong, the rest of a file is valid, or nothing is
    left; what was good keeps its place.
    """
    try:
        config.parse(data)
    except InvalidConfig as error:
        findings = error.findings
    else:
        return
    found = config.rest_of(data, findings)
    if found is None:
        return
    rest, missing = found
    assert len(rest.routes) == len(data.get("routes") or [])
    for number, given_route in enumerate(data.get("routes") or []):
        if not any(one[:2] == ("routes", number) for one in missing.gone):
            assert rest.routes[number].service == given_route["service"]
    for finding in (*missing.found, *findings):
        assert missing.of([finding]) == []


def test_little_is_left_out() -> None:
    """A wrong value takes its own route, service or key with it, and no other."""
    data = {
        "version": 1,
        "gateway": {"listen": 1, "user_path": "/me", "trusted_proxies": ["x"]},
        "services": {"a": {"targets": []}, "b": {"targets": ["http://b"]}},
        "routes": [{"path": "x", "service": "a"}, {"path": "/b", "service": "b"}],
    }
    with pytest.raises(InvalidConfig) as caught:
        config.parse(data)
    found = config.rest_of(data, caught.value.findings)
    assert found is not None
    rest, missing = found
    assert rest.gateway.user_path == "/me"
    assert rest.services["b"].targets[0].url == "http://b"
    assert rest.routes[1].service == "b"
    assert set(missing.gone) == {
        ("gateway", "listen"),
        ("gateway", "trusted_proxies"),
        ("services", "a"),
        ("routes", 0),
    }


# --- secrets ---

SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    "sections",
    [
        {"supertokens": {"api_key": [SECRET]}},
        {"supertokens": {"api_key": {SECRET[:4]: SECRET}}},
        {"supertokens": {"connection_uri": f"http://u:{SECRET}@core"}},
        {"supertokens": {"email_delivery": SECRET}},
        {
            "supertokens": {
                "email_delivery": {"password": [SECRET], "host": SECRET + " "}
            }
        },
        {"supertokens": {"recipes": {"thirdparty": SECRET}}},
        {"routes": [{"path": "/a", "upstream": f"http://u:{SECRET}@up"}]},
        {"routes": [{"path": "/a", "service": SECRET, "protected": SECRET}]},
        {"gateway": {"listen": SECRET, "limits": {"max_fields": SECRET}}},
    ],
    ids=lambda value: next(iter(value)),
)
def test_no_value_is_repeated(sections: dict[str, Any]) -> None:
    """No message repeats a value: it may be a secret."""
    with pytest.raises(InvalidConfig) as caught:
        parse(**sections)
    assert SECRET not in str(caught.value)
    with pytest.raises(ValidationError) as raw:
        Config.model_validate({"version": 0, **sections})
    assert SECRET not in str(raw.value)


def test_secrets_are_not_shown() -> None:
    """The `repr` of a configuration shows no secret."""
    settings = parse(
        supertokens={
            "api_key": SECRET,
            "recipes": {"thirdparty": {"client_secret": SECRET}},
            "email_delivery": {"host": "h", "from_email": "a@b", "password": SECRET},
        }
    )
    assert settings.supertokens.api_key == SECRET
    assert SECRET not in repr(settings)


# --- the JSON schema ---


def test_json_schema_documents_keys() -> None:
    """The JSON schema has descriptions, and accepts `${NAME}` for a number."""
    schema = config.json_schema()
    assert json.loads(json.dumps(schema)) == schema
    definitions: Mapping[str, Any] = schema["$defs"]
    listen = definitions["GatewayConfig"]["properties"]["listen"]
    assert listen["description"].startswith("Where to listen: `host:port`,")
    assert definitions["ClaimConfig"]["properties"]["in"]["description"]
    attempts = definitions["RetryConfig"]["properties"]["attempts"]
    assert {"type": "string", "pattern": r"\$\{"} in attempts["anyOf"]
    assert definitions["RouteConfig"]["additionalProperties"] is False
    assert schema["required"] == ["version"]


def test_duration_schema_means_the_same() -> None:
    """The schema's pattern for durations and the parser accept the same text."""
    keys = config.json_schema()["$defs"]["KeysConfig"]
    pattern = keys["properties"]["timeout"]["anyOf"][1]
    for text in ("3s", "250ms", "1.5h", "7", "x", "3 s", "-1s", "3x"):
        try:
            parse(supertokens={"keys": {"timeout": text}})
        except InvalidConfig:
            assert not re.search(pattern["pattern"], text)
        else:
            assert re.search(pattern["pattern"], text)
