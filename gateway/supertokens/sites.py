"""edge. Whether browsers send the session's cookies from the website to the API.

The SDK chooses the cookies' SameSite by a comparison of its own, which takes any two
domains below an unlisted suffix (`.corp`, `.test`, `.internal`) for one site, and
`localhost` and every IP address for another. Browsers compare scheme and registrable
domain. Where the two differ, users sign in, and every call after it is a 401.

The public suffix list is the one in the package `tldextract`. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from gateway.config import Finding, SuperTokensConfig, origin_host
from gateway.http.target import is_ip
from gateway.seams import supertokens as seams

if TYPE_CHECKING:
    from tldextract import TLDExtract

_WEBSITE = ("supertokens", "website_domain")
_COOKIE_DOMAIN = ("supertokens", "cookie", "domain")
_HEADER = "or set token_transfer_method: header"


def refused(settings: SuperTokensConfig) -> Iterator[Finding]:
    """Yield what prevents every session in a browser: cookies only, and never sent."""
    if settings.token_transfer_method == "cookie":  # noqa: S105 - a way to send one
        yield from _unusable(settings)


def doubtful(settings: SuperTokensConfig) -> Iterator[Finding]:
    """Yield what prevents sessions in cookies, where header fields may be used instead.

    Also yields cookies that are third-party cookies, which many browsers block.
    """
    if settings.token_transfer_method == "any":  # noqa: S105 - a way to send one
        yield from _unusable(settings)
    if settings.token_transfer_method == "header" or _are_one_site(settings):  # noqa: S105
        return
    if _same_site(settings) == "none" and _is_secure(settings):
        yield Finding(
            loc=_WEBSITE,
            message=f"{_different(settings)}. The session's cookies are third-party"
            " cookies: Safari blocks them, and Chromium does by default",
            hint=f"Serve both below one domain with https, {_HEADER}",
        )


def site(origin: str) -> tuple[str, str]:
    """Return the site of an origin: its scheme, and its registrable domain.

    The domain is the whole host if it is an IP address, a single label or a public
    suffix itself. If no rule of the list matches, the last label is the suffix.

    Source: HTML Standard, "Sites" (schemefully same site); publicsuffix.org, "Formal
    algorithm" (the prevailing rule is `*` if no rule matches).
    """
    scheme = origin.partition("://")[0]
    return scheme, registrable_domain(origin)


def registrable_domain(origin: str) -> str:
    """Return the registrable domain of an origin, or its whole host; see `site`."""
    host = origin_host(origin)
    if is_ip(host) or "." not in host:
        return host
    parts = _extractor()(host)
    if not parts.suffix:
        return ".".join(host.split(".")[-2:])
    return f"{parts.domain}.{parts.suffix}" if parts.domain else host


@cache
def _extractor() -> TLDExtract:
    from tldextract import TLDExtract  # 0.1 s, and only different hosts need it

    return TLDExtract(
        cache_dir=None,
        suffix_list_urls=(),
        fallback_to_snapshot=True,
        include_psl_private_domains=True,
    )


def _are_one_site(settings: SuperTokensConfig) -> bool:
    api, website = settings.api_domain, settings.website_domain
    if api == website:
        return True
    if api.partition("://")[0] != website.partition("://")[0]:
        return False
    return origin_host(api) == origin_host(website) or site(api) == site(website)


def _same_site(settings: SuperTokensConfig) -> str:
    """Return the SameSite of the cookies: that of the file, else the SDK's choice."""
    if settings.cookie.same_site is not None:
        return settings.cookie.same_site
    api, website = settings.api_domain, settings.website_domain
    schemes_differ = api.partition("://")[0] != website.partition("://")[0]
    return "none" if schemes_differ or seams.site(api) != seams.site(website) else "lax"


def _is_secure(settings: SuperTokensConfig) -> bool:
    if settings.cookie.secure is not None:
        return settings.cookie.secure
    return settings.api_domain.startswith("https:")


def _different(settings: SuperTokensConfig) -> str:
    return (
        f"for browsers, {settings.website_domain} and the api_domain"
        f" {settings.api_domain} are different sites"
    )


def _unusable(settings: SuperTokensConfig) -> Iterator[Finding]:
    """Yield what keeps every browser from storing or sending the session's cookies."""
    if not _are_one_site(settings):
        same_site = _same_site(settings)
        is_https = settings.api_domain.startswith("https:")
        if same_site != "none":
            https = "" if is_https else "https and "
            yield Finding(
                loc=_WEBSITE,
                message=f"{_different(settings)}, so they don't send the session's"
                f" SameSite={same_site} cookies: every call is answered with 401",
                hint="Serve both below one domain with one scheme,"
                f" set {https}cookie: {{same_site: none}}, {_HEADER}",
            )
        elif not _is_secure(settings):
            yield Finding(
                loc=_WEBSITE,
                message=f"{_different(settings)}, and cookies between sites need https:"
                " nobody can sign in",
                hint=f"Use an https api_domain, {_HEADER}"
                if settings.cookie.secure is None
                else f"Remove cookie.secure and use an https api_domain, {_HEADER}",
            )
    domain = (settings.cookie.domain or "").removeprefix(".")
    host = origin_host(settings.api_domain)
    if domain and not f".{host}".endswith(f".{domain}"):
        yield Finding(
            loc=_COOKIE_DOMAIN,
            message=f"browsers drop these cookies: {host} isn't {domain} or below it",
            hint="Write a domain that both api_domain and the other hosts are below",
        )
