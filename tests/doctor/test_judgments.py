"""What facts about peers and origins mean, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config import GatewayConfig, SuperTokensConfig
from gateway.doctor import judgments
from gateway.doctor.diagnosis import Diagnosis, DiagnosisSeverity, fail, ok, warn, worst
from gateway.doctor.judgments import MailFacts, PeerFacts, Step

DEAD = PeerFacts(failed=Step.CONNECT, why="Connection refused")


def severities(found: Any) -> list[str]:
    return [str(each.severity) for each in found]


def test_a_diagnosis_is_one_bounded_line() -> None:
    """Text may be another server's: no control characters, and not too much of it."""
    said = fail("core", "a\x1b[31m\nb" + "c" * 9999, "do\nit")
    assert said.text.startswith("a [31m bccc")
    assert len(said.text) < 600
    assert said.remedy == "do it"


def test_the_worst_counts() -> None:
    """A failure is worse than a warning, which is worse than OK."""
    one, two, three = ok("a", "t"), warn("a", "t", "r"), fail("a", "t", "r")
    assert worst([]) is DiagnosisSeverity.OK
    assert worst([one, two]) is DiagnosisSeverity.WARN
    assert worst([three, one, two]) is DiagnosisSeverity.FAIL


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"a": PeerFacts(addresses=("10.0.0.1",))}, ["ok"]),
        ({"a": DEAD}, ["fail"]),
        ({"a": DEAD, "b": DEAD}, ["fail", "fail"]),
        ({"a": DEAD, "b": PeerFacts()}, ["warn", "ok"]),
        ({"a": PeerFacts(days_left=13.9)}, ["warn"]),
        ({"a": PeerFacts(days_left=14.0)}, ["ok"]),
        ({"a": PeerFacts(failed=Step.NAME, why="x")}, ["fail"]),
        ({"a": PeerFacts(failed=Step.TLS, why="x")}, ["fail"]),
    ],
)
def test_peers(found: dict[str, PeerFacts], expected: list[str]) -> None:
    """A dead address fails if no other one is there; an old certificate warns."""
    result = list(judgments.peers("service a", found))
    assert severities(result) == expected
    assert all(bool(each.remedy) == (each.severity != "ok") for each in result)


@pytest.mark.parametrize(
    ("trouble", "is_usable", "severity"),
    [
        ("", True, "ok"),
        ("http://b refuses", True, "warn"),
        ("http://b refuses", False, "fail"),
        ("", False, "fail"),
    ],
)
def test_acceptance(trouble: str, is_usable: bool, severity: str) -> None:
    """With one of several hosts, the gateway works, sometimes."""
    found = judgments.acceptance(trouble, is_usable=is_usable)
    assert found.severity == severity
    assert trouble in found.text


@pytest.mark.parametrize(
    ("skew_s", "severity", "text"),
    [
        (None, "ok", "isn't known"),
        (4.9, "ok", "agrees"),
        (-4.9, "ok", "agrees"),
        (5.0, "warn", "5 s ahead"),
        (-59.0, "warn", "59 s behind"),
        (60.0, "fail", "60 s ahead"),
        (-3600.0, "fail", "3600 s behind"),
    ],
)
def test_clock(skew_s: float | None, severity: str, text: str) -> None:
    """Seconds can be the Date's; a minute changes which tokens are valid."""
    found = judgments.clock("http://core:3567", skew_s)
    assert found.severity == severity
    assert text in found.text


def test_signing_keys() -> None:
    """Without keys, nothing is verified."""
    assert judgments.signing_keys("a", 2, "").severity == "ok"
    assert judgments.signing_keys("a", 0, "it answered with status 404").severity == (
        "fail"
    )


@pytest.mark.parametrize(
    ("file", "runs_with", "in_container", "severity"),
    [
        ({}, "http://localhost:8000", False, "ok"),
        ({}, "http://localhost:8000", True, "warn"),
        ({}, "http://127.0.0.1:8000", True, "warn"),
        ({}, "https://api.example.com", True, "ok"),
        ({}, "http://api.example.com", False, "warn"),
        (
            {"api_domain": "https://api.example.com"},
            "https://api.example.com",
            False,
            "ok",
        ),
        (
            {"api_domain": "https://api.example.com"},
            "https://www.example.com",
            False,
            "warn",
        ),
    ],
)
def test_issuer(
    file: dict[str, str], runs_with: str, in_container: bool, severity: str
) -> None:
    """Browsers must reach it, with https; file and `config_module` must agree."""
    found = judgments.issuer(
        SuperTokensConfig.model_validate(file),
        api_domain=runs_with,
        issuer=f"{runs_with}/auth",
        in_container=in_container,
    )
    assert found.severity == severity
    assert f"{runs_with}/auth" in found.text


TLS = {"certificates": [{"cert": "a", "key": "b"}]}


@pytest.mark.parametrize(
    ("gateway", "origin", "severity"),
    [
        ({}, "http://localhost:8000", "ok"),
        ({}, "https://api.example.com", "warn"),
        ({"trusted_proxies": ["10.0.0.0/8"]}, "https://api.example.com", "ok"),
        (
            {"listen": [{"address": "0.0.0.0:8443", "tls": TLS}]},
            "https://api.example.com",
            "ok",
        ),
    ],
)
def test_proxies(gateway: dict[str, Any], origin: str, severity: str) -> None:
    """https needs a terminator that is trusted, or the gateway's own TLS."""
    config = GatewayConfig.model_validate(gateway)
    assert judgments.proxies(config, origin).severity == severity


@pytest.mark.parametrize(
    ("facts", "severity"),
    [
        (MailFacts(trouble="Connection refused"), "fail"),
        (MailFacts(), "warn"),
        (MailFacts(is_encrypted=True), "ok"),
        (MailFacts(is_encrypted=True, has_signed_in=True), "ok"),
    ],
)
def test_mail(facts: MailFacts, severity: str) -> None:
    """Without TLS, links and the password can be read on the way."""
    found: Diagnosis = judgments.mail("smtp:587", facts)
    assert found.severity == severity


@pytest.mark.parametrize(
    ("trouble", "refuses", "severity"),
    [
        (None, True, "ok"),
        ("it doesn't answer", False, "warn"),
        ("it doesn't answer", True, "fail"),
    ],
)
def test_a_store_that_is_away_is_as_bad_as_what_follows(
    trouble: str | None, refuses: bool, severity: str
) -> None:
    """With `on_failure: refuse`, requests with a session are refused without it."""
    found = judgments.shared_store("r:6379", "k", trouble, refuses=refuses)
    assert (found.check, found.severity) == ("shared", severity)
    assert found.text.startswith("r:6379")
    assert bool(found.remedy) is (trouble is not None)
