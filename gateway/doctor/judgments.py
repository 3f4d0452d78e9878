"""PURE. What facts about peers and origins mean for a gateway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.config import GatewayConfig, SuperTokensConfig, origin_host, same_host
from gateway.doctor.diagnosis import Diagnosis, fail, ok, warn

CERTIFICATE_DAYS: Final = 14
"""Left to a certificate when it is time to worry: most are renewed at 30."""
SKEW_DOUBTFUL_S: Final = 5.0
"""Between two clocks. A reply's Date has whole seconds."""
SKEW_BROKEN_S: Final = 60.0
"""A token counts for as much longer, or isn't valid yet."""


# --- peers ---


class Step(StrEnum):
    """Where a connection failed."""

    NAME = "name"
    CONNECT = "connect"
    TLS = "TLS"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFacts:
    """What came of an attempt to connect to one address."""

    addresses: tuple[str, ...] = ()
    """What its name resolves to; empty for Unix sockets."""
    failed: Step | None = None
    """None: it was connected."""
    why: str = ""
    """Of the failure."""
    days_left: float | None = None
    """Of its certificate; None: it has none, or one that wasn't verified."""


_TROUBLES = {
    Step.NAME: (
        "its name can't be resolved",
        "Correct the name, or this machine's resolver",
    ),
    Step.CONNECT: (
        "can't connect",
        "Start it, correct the address, or open the firewall or network policy",
    ),
    Step.TLS: (
        "TLS failed",
        "Renew its certificate, or set tls.ca_file and tls.server_name to what it has",
    ),
}


def peers(check: str, found: Mapping[str, PeerFacts]) -> Iterator[Diagnosis]:
    """Yield what *found* says about addresses that can do the same work.

    An address that can't be reached is a failure if none of them can.
    """
    worse = fail if all(facts.failed for facts in found.values()) else warn
    for at, facts in found.items():
        if facts.failed is not None:
            what, remedy = _TROUBLES[facts.failed]
            yield worse(check, f"{at}: {what}: {facts.why}", remedy)
            continue
        where = f" ({', '.join(facts.addresses)})" if facts.addresses else ""
        text = f"{at}: connected{where}"
        if facts.days_left is None:
            yield ok(check, text)
            continue
        text += f", its certificate is valid for {facts.days_left:.0f} more days"
        if facts.days_left < CERTIFICATE_DAYS:
            yield warn(check, text, "Renew it")
        else:
            yield ok(check, text)


def unverified(check: str) -> Diagnosis:
    """Return what `tls.verify: false` means."""
    return warn(
        check,
        "its certificates aren't verified: whoever is on the way can be the service",
        "Remove tls.verify: false, and name its authority with tls.ca_file",
    )


# --- the core ---


def acceptance(trouble: str, *, is_usable: bool) -> Diagnosis:
    """Return whether the core accepts the gateway.

    *trouble* is what is wrong at which host, in words that continue "the core at".
    """
    remedy = 'See "When the core refuses the gateway" in docs/operations.md'
    if is_usable and not trouble:
        return ok("core", "it accepts the API key, and speaks the gateway's protocol")
    if is_usable:
        return warn("core", f"one of several, at {trouble}", remedy)
    if trouble:
        return fail("core", f"the core at {trouble}", remedy)
    return fail(
        "core",
        "what answers isn't a SuperTokens core",
        "Correct supertokens.connection_uri, its port and its path",
    )


def signing_keys(at: str, count: int, trouble: str) -> Diagnosis:
    """Return whether the core at *at* has keys to verify tokens with."""
    if trouble:
        return fail(
            "core keys",
            f"{at}: {trouble}. Without keys, protected routes answer 503",
            "Correct supertokens.connection_uri, or what is between it and the gateway",
        )
    return ok("core keys", f"{at}: {count} signing key{'s' if count != 1 else ''}")


def clock(at: str, skew_s: float | None) -> Diagnosis:
    """Return how far the clock of the core at *at* is ahead of this machine's."""
    if skew_s is None:
        return ok("clock", f"{at}: its replies have no Date, so its clock isn't known")
    text = (
        f"{at}: its clock is {abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}"
    )
    remedy = "Synchronize both clocks (NTP): tokens are valid by the core's clock"
    if abs(skew_s) >= SKEW_BROKEN_S:
        return fail("clock", text, remedy)
    if abs(skew_s) >= SKEW_DOUBTFUL_S:
        return warn("clock", text, remedy)
    return ok("clock", f"{at}: its clock agrees with this machine's")


# --- origins ---


def issuer(
    settings: SuperTokensConfig, *, api_domain: str, issuer: str, in_container: bool
) -> Diagnosis:
    """Return whether browsers can reach the origin that tokens name as their issuer.

    *api_domain* is what the SDK runs with, from the file or from a `config_module`.
    """
    text = f"tokens are issued by {issuer}"
    is_set = "api_domain" in settings.model_fields_set
    if is_set and settings.api_domain != api_domain:
        return warn(
            "issuer",
            f"{text}, and supertokens.api_domain is {settings.api_domain}",
            "Make it the api_domain of the config_module's app_info, or remove it",
        )
    is_local = same_host(origin_host(api_domain)) == "localhost"
    if is_local and in_container:
        return warn(
            "issuer",
            f"{text}, which browsers reach on this machine only",
            "For others, set supertokens.api_domain to the origin that browsers use",
        )
    if api_domain.startswith("http:") and not is_local:
        return warn(
            "issuer",
            f"{text}: without https, others on the way can read the cookies",
            "Serve it with https, and set supertokens.api_domain to that origin",
        )
    return ok("issuer", text)


def proxies(gateway: GatewayConfig, api_domain: str) -> Diagnosis:
    """Return whether the TLS terminator is known that an https origin needs."""
    has_tls = any(listen.tls is not None for listen in gateway.listen)
    if api_domain.startswith("https:") and not gateway.trusted_proxies and not has_tls:
        return warn(
            "trusted_proxies",
            f"{api_domain} needs a TLS terminator, and none is trusted: services are"
            " told http and the terminator's address",
            "Add the terminator's network to gateway.trusted_proxies",
        )
    return ok("trusted_proxies", "as the scheme of api_domain needs")


# --- the shared store ---


def shared_store(at: str, key: str, trouble: str | None, *, refuses: bool) -> Diagnosis:
    """Return whether the store at *at* can be used, where gateways share denials.

    *refuses*: without it, requests with a session are refused.
    """
    if trouble is None:
        return ok("shared", f"{at} answers; the stream is {key}")
    return (fail if refuses else warn)(
        "shared",
        f"{at}: {trouble}",
        "Correct gateway.shared; docs/replicas.md has the rights that the user needs",
    )


# --- mail ---


@dataclass(frozen=True, slots=True, kw_only=True)
class MailFacts:
    """What came of a visit to the mail server."""

    trouble: str = ""
    """Why it can't be used; empty: it can."""
    is_encrypted: bool = False
    has_signed_in: bool = False


def mail(at: str, facts: MailFacts) -> Diagnosis:
    """Return whether the mail server at *at* can be used."""
    if facts.trouble:
        return fail(
            "mail",
            f"{at}: {facts.trouble}",
            "Correct supertokens.email_delivery, or open the way to the mail server",
        )
    if not facts.is_encrypted:
        return warn(
            "mail",
            f"{at}: it offers no TLS, so the links in mails, which are credentials, and"
            " the password can be read on the way",
            "Use a port with TLS: 587 (STARTTLS), or 465 with secure: true",
        )
    done = "signed in" if facts.has_signed_in else "connected"
    return ok("mail", f"{at}: {done}, with TLS")
