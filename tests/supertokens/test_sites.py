"""Pairs of domains between which browsers don't send the session's cookies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.config import SuperTokensConfig
from gateway.supertokens import check_domains, check_library, doubtful_domains, sites

# What Chromium 156 does: website, API, and whether a fetch with credentials from one to
# the other sends a SameSite=Lax cookie of the other.
SENT = [
    ("https://app.example.com", "https://api.example.com", True),
    ("https://app.example.com", "https://example.com:8443", True),
    ("https://app.shop.corp", "https://api.shop.corp", True),
    ("https://a.x.internal", "https://b.x.internal", True),
    ("http://localhost:3000", "http://localhost:8000", True),
    ("http://127.0.0.1:3000", "http://127.0.0.1:8000", True),
    ("https://app.other.com", "https://api.example.com", False),
    ("http://app.example.com", "https://api.example.com", False),
    ("https://app.portal.corp", "https://api.shop.corp", False),
    ("https://app.test", "https://api.test", False),
    ("http://localhost:3000", "http://127.0.0.1:8000", False),
    ("http://localhost:3000", "https://localhost:8000", False),
    ("http://127.0.0.1", "http://127.0.0.2", False),
    ("http://app.localhost", "http://api.localhost", False),
    ("http://localhost", "http://api.localhost", False),
    ("https://app.github.io", "https://api.github.io", False),
]


def settings(website: str, api: str, **keys: Any) -> SuperTokensConfig:
    return SuperTokensConfig.model_validate(
        {"website_domain": website, "api_domain": api, **keys}
    )


@pytest.fixture(autouse=True)
def _library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of the package is used: a look-up that would fetch one fails."""
    check_library()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the public suffix list must not be fetched")

    monkeypatch.setattr("requests.Session.get", refuse)


@pytest.mark.parametrize(("website", "api", "is_sent"), SENT)
def test_sites_are_those_of_browsers(website: str, api: str, is_sent: bool) -> None:
    """Two origins are one site exactly if a browser sends Lax cookies between them."""
    assert (sites.site(website) == sites.site(api)) == is_sent


# Each of these makes the SDK read the public suffix list several times.
@pytest.mark.parametrize(
    ("website", "api", "is_sent"), [SENT[i] for i in (0, 4, 6, 8, 10)]
)
def test_cookies_that_browsers_never_send_are_refused_or_doubtful(
    website: str, api: str, is_sent: bool
) -> None:
    """Every pair that is not one site has a finding, and no other pair has one.

    It is an error with `cookie`, where no session can work, and a warning with `any`,
    where a frontend may use header fields. With `header` there is nothing to find.
    """
    found = {
        transfer: (check_domains(pair), doubtful_domains(pair))
        for transfer in ("cookie", "any", "header")
        for pair in (settings(website, api, token_transfer_method=transfer),)
    }
    assert found["header"] == ((), ())
    assert found["any"][0] == ()
    assert len(found["any"][1]) == (0 if is_sent else 1)
    third_party = [f for f in found["any"][1] if "third-party" in f.message]
    # SameSite=None and Secure: some browsers send them, if users allow it.
    assert found["cookie"][1] == tuple(third_party)
    assert len(found["cookie"][0]) == (0 if is_sent or third_party else 1)


CASES = [
    # website, API, cookie, what is found, the remedy
    (
        "https://app.portal.corp",
        "https://api.shop.corp",
        {},
        "SameSite=lax cookies: every call is answered with 401",
        "set cookie: {same_site: none}, or set token_transfer_method: header",
    ),
    (
        "http://localhost:3000",
        "http://127.0.0.1:8000",
        {},
        "SameSite=lax cookies",
        "set https and cookie: {same_site: none}, or",
    ),
    (
        "https://app.other.com",
        "http://api.example.com",
        {},
        "nobody can sign in",
        "Use an https api_domain, or set token_transfer_method: header",
    ),
    (
        "https://app.other.com",
        "https://api.example.com",
        {"same_site": "none", "secure": False},
        "nobody can sign in",
        "Remove cookie.secure",
    ),
    (
        "https://app.other.com",
        "https://api.example.com",
        {"same_site": "strict"},
        "SameSite=strict cookies",
        "set cookie: {same_site: none}",
    ),
    (
        "https://app.example.com",
        "https://api.example.com",
        {"domain": ".example.org"},
        "browsers drop these cookies: api.example.com isn't example.org",
        "Write a domain",
    ),
]


@pytest.mark.parametrize(("website", "api", "cookie", "message", "hint"), CASES)
def test_each_unusable_pair_has_its_remedy(
    website: str, api: str, cookie: dict[str, Any], message: str, hint: str
) -> None:
    """The finding says what browsers do, and what to change."""
    for transfer, find in (("cookie", check_domains), ("any", doubtful_domains)):
        pair = settings(website, api, cookie=cookie, token_transfer_method=transfer)
        (finding,) = find(pair)
        assert message in finding.message
        assert hint in finding.hint


def test_third_party_cookies_are_doubtful() -> None:
    """SameSite=None with https is a third-party cookie, which browsers may block."""
    pair = settings("https://app.other.com", "https://api.example.com")
    (finding,) = doubtful_domains(pair)
    assert "Chromium does by default" in finding.message
    assert finding.path == "supertokens.website_domain"


def test_cookies_of_a_parent_domain_are_fine() -> None:
    """`cookie.domain` may be the API's host or any domain above it."""
    for domain in ("api.example.com", ".api.example.com", "example.com"):
        pair = settings(
            "https://app.example.com",
            "https://api.example.com",
            cookie={"domain": domain},
            token_transfer_method="cookie",
        )
        assert check_domains(pair) == doubtful_domains(pair) == ()


@pytest.mark.parametrize(
    ("transfer", "code", "shown"),
    [
        ("cookie", 1, "supertokens.website_domain: for browsers, https://app.portal"),
        ("any", 0, "warning: "),
        ("header", 0, ""),
    ],
)
def test_check_reports_a_pair(
    tmp_path: Path, transfer: str, code: int, shown: str
) -> None:
    """`gateway check` refuses the pair, warns of it, or says nothing."""
    file = tmp_path / "routes.yaml"
    file.write_text(
        "version: 1\nsupertokens:\n"
        "  website_domain: https://app.portal.corp\n"
        "  api_domain: https://api.shop.corp\n"
        f"  token_transfer_method: {transfer}\n"
        'routes: [{path: /, upstream: "http://app:8080"}]\n'
    )
    result = CliRunner().invoke(main, ["check", "-c", str(file)])
    assert result.exit_code == code
    assert shown in result.stderr
    assert ("different sites" in result.stderr) == bool(shown)
