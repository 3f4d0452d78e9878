"""PURE. The keys below `supertokens`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gateway.config.findings import Finding, did_you_mean, wrong
from gateway.config.forms import (
    CookieDomain,
    CoreUri,
    Dotted,
    Flag,
    HostName,
    Mail,
    NotNegative,
    OwnPath,
    Port,
    Positive,
    Prefix,
    Recipe,
    Seconds,
    Site,
    Text,
)
from gateway.config.models.base import Model


class CookieConfig(Model):
    """The session cookies. What is unset, the SDK derives from the domains."""

    domain: CookieDomain | None = None
    """Unset: the API's host only."""
    older_domain: CookieDomain | None = None
    """The domain of cookies that are still out there after a change."""
    secure: Flag | None = None
    """Sent over https only. Unset: when `api_domain` is https."""
    same_site: Literal["lax", "strict", "none"] | None = None
    """Unset: `none` if API and website differ in site or scheme, else `lax`.

    Risk: with `none`, cookies go with requests that other sites make.
    """


class KeysConfig(Model):
    """How the keys that tokens are signed with are kept fresh."""

    refresh_interval: Seconds = 300.0
    """How often the core is asked for its keys."""
    max_stale: Seconds = 4 * 3600.0
    """How long the last keys are used while the core can't be reached.

    Risk: a key that the core has given up is believed for as long, while it is away.
    """
    cooldown: Seconds = 1.0
    """The least time between two fetches caused by unknown key ids."""
    timeout: Seconds = 3.0
    """For one fetch."""

    def conflicts(self) -> Iterator[Finding]:
        """A token whose key came after the last fetch is never refused for it.

        The core shows a new key for 60 s before it signs with it.
        """
        if self.cooldown >= 60:
            yield Finding(
                loc=("cooldown",),
                message="must be less than 60 s, which is how long the core shows a"
                " new key before it uses it",
            )


class CacheConfig(Model):
    """Verdicts on tokens that were verified already."""

    size: NotNegative = 20000
    """How many; 0 remembers none."""
    max_age: Seconds = 60.0
    """Verdicts end earlier when the token does, or its key."""


class CoreConfig(Model):
    """The calls to the core."""

    timeout: Seconds = 5.0
    """For all the calls that one request needs, together."""
    max_concurrent: Positive = 64
    """Of each worker. Further calls wait for their turn."""


class SmtpConfig(Model):
    """A mail server for the recipes' mails."""

    host: HostName
    """Its name or address."""
    port: Port = 587
    """Its port."""
    username: Text | None = None
    """Unset: the server wants none."""
    password: Annotated[Text | None, Field(repr=False)] = None
    """Take it from the environment: `${SMTP_PASSWORD}`."""
    secure: Flag = False
    """TLS from the first byte (port 465), instead of STARTTLS."""
    from_email: Mail
    """The sender's address."""
    from_name: str = ""
    """The sender's name, as mail programs show it."""


def _delivery(value: object) -> object:
    if isinstance(value, Mapping):
        # Validated here, so that a mistake within isn't told once for each member of
        # the union.
        return SmtpConfig.model_validate(value)
    if value in ("none", "supertokens") or isinstance(value, SmtpConfig):
        return value
    raise wrong(
        "expected none, supertokens, or the settings of a mail server",
        did_you_mean(value, ("none", "supertokens")),
    )


def _settings(value: object) -> object:
    """Let `emailpassword:` with nothing behind it mean its defaults."""
    return {} if value is None else value


class SuperTokensConfig(Model):
    """The core, the recipes, and the session's cookies and tokens."""

    connection_uri: CoreUri = "http://localhost:3567"
    """One or more core addresses, separated by `;`."""
    api_key: Annotated[Text | None, Field(repr=False)] = None
    """The core's API key. Take it from the environment: `${SUPERTOKENS_API_KEY}`."""
    app_name: Text = "supertokens-gateway"
    """Stands in mails."""
    api_domain: Site = "http://localhost:8000"
    """Where browsers reach this gateway."""
    website_domain: Site = "http://localhost:8000"
    """Where the frontend is served."""
    api_base_path: OwnPath = "/auth"
    """The gateway answers everything below it."""
    website_base_path: Prefix = "/auth"
    """Where the frontend shows SuperTokens' forms."""
    anti_csrf: Literal["VIA_TOKEN", "VIA_CUSTOM_HEADER", "NONE"] | None = None
    """Unset: the SDK's own choice (VIA_CUSTOM_HEADER when SameSite is none).

    Risk: with NONE, only the cookies' SameSite keeps other sites from acting for users.
    """
    cookie: CookieConfig = CookieConfig()
    token_transfer_method: Literal["any", "cookie", "header"] = "any"  # noqa: S105 # a way to send one
    """`any` lets the frontend choose."""
    use_dynamic_signing_key: Flag = True
    """Keys that the core changes regularly; false: one key for ever.

    Risk: with false, a key that leaked signs valid tokens until the core is given
    another one.
    """
    recipes: Annotated[
        dict[Recipe, Annotated[dict[str, Any], BeforeValidator(_settings)]],
        Field(repr=False),
    ] = {"emailpassword": {}, "userroles": {}}  # noqa: RUF012 - pydantic copies it
    """Recipe name → its settings."""
    config_module: Dotted | None = None
    """A Python module with recipe_list, app_info and supertokens_config.

    Risk: its code runs in the gateway, and may change how sessions are verified.
    """
    email_delivery: Annotated[
        Literal["none", "supertokens"] | SmtpConfig, BeforeValidator(_delivery)
    ] = "none"
    """`supertokens` sends through SuperTokens' own service; `none` sends nothing.

    Risk: the links in these mails are credentials; `supertokens` hands them to a third
    party.
    """
    keys: KeysConfig = KeysConfig()
    cache: CacheConfig = CacheConfig()
    core: CoreConfig = CoreConfig()

    def conflicts(self) -> Iterator[Finding]:
        """Recipes come from the file or from a module, not from both."""
        if self.config_module is not None and self._given("recipes"):
            yield Finding(
                loc=("recipes",),
                message="recipes come from config_module already",
                hint="Keep one of the two",
            )
