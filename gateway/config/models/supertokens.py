"""PURE. The keys below `supertokens`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gateway.config.findings import Finding, did_you_mean, wrong
from gateway.config.forms import (
    ApiKey,
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
from gateway.config.models.rate_limits import AuthRateLimitsConfig
from gateway.config.secret import SECRET


class CookieConfig(Model):
    """The session cookies. The SDK derives unset keys from the domains."""

    domain: CookieDomain | None = None
    """Domain of the cookies. Unset: the API's host only."""
    older_domain: CookieDomain | None = None
    """The previous `domain`, while browsers may still hold its cookies."""
    secure: Flag | None = None
    """True sends cookies over https only. Unset: true if `api_domain` is https."""
    same_site: Literal["lax", "strict", "none"] | None = None
    """Unset: `none` if API and website differ in site or scheme, else `lax`.

    Risk: with `none`, browsers add the cookies to requests that other sites make.
    """


class KeysConfig(Model):
    """How the keys that verify tokens are kept up to date."""

    refresh_interval: Seconds = 300.0
    """How often the keys are fetched from the core."""
    max_stale: Seconds = 4 * 3600.0
    """How long the last keys are used while the core can't be reached.

    Risk: if the core is unreachable, a key that it has withdrawn is used for as long.
    """
    cooldown: Seconds = 1.0
    """Shortest time between two fetches that unknown key ids cause."""
    timeout: Seconds = 3.0
    """Timeout of one fetch."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding for a cooldown of 60 s or more.

        The core publishes a new key 60 s before it signs with it. With a shorter
        cooldown, no token is refused because its key is newer than the last fetch.
        """
        if self.cooldown >= 60:
            yield Finding(
                loc=("cooldown",),
                message="must be less than 60 s: the core publishes a new key 60 s"
                " before it signs with it",
            )


class CacheConfig(Model):
    """The cache of verdicts on verified tokens."""

    size: NotNegative = 20000
    """Most verdicts in the cache; 0: no cache."""
    max_age: Seconds = 60.0
    """How long a verdict is used, unless the token or its key ends earlier."""


class CoreConfig(Model):
    """Calls to the core."""

    timeout: Seconds = 5.0
    """Timeout of all calls that the session check of one request needs, together."""
    auth_timeout: Seconds = 30.0
    """Timeout of all calls that one request to `/auth/*` needs, together."""
    max_sign_in: Positive = 4
    """Most concurrent calls of each worker that make the core compute the hash of a
    password: sign-in, sign-up, a new password. Further calls wait in order.

    Risk: with more than the core has CPUs, sign-ins slow down session checks.
    """
    max_concurrent: Positive = 64
    """Most concurrent session checks of each worker, and most of its other concurrent
    calls for `/auth/*`. Further ones wait.
    """


class SmtpConfig(Model):
    """The mail server for the mails of recipes."""

    host: HostName
    """Name or address of the mail server."""
    port: Port = 587
    """Port of the mail server."""
    username: Text | None = None
    """User name at the mail server. Unset: the server requires none."""
    password: Annotated[Text | None, Field(repr=False), SECRET] = None
    """Password of this user. Take it from the environment: `${SMTP_PASSWORD}`."""
    secure: Flag = False
    """Whether TLS starts with the first byte (port 465), instead of STARTTLS."""
    from_email: Mail
    """Address of the sender."""
    from_name: str = ""
    """Name of the sender, as mail programs show it."""


def _delivery(value: object) -> object:
    if isinstance(value, Mapping):
        # Validated here: pydantic would report a mistake in it once for each member of
        # the union.
        return SmtpConfig.model_validate(value)
    if value in ("none", "supertokens") or isinstance(value, SmtpConfig):
        return value
    raise wrong(
        "expected none, supertokens, or the settings of a mail server",
        did_you_mean(value, ("none", "supertokens")),
    )


def _settings(value: object) -> object:
    """Return *value*, or no settings for `emailpassword:` without a value."""
    return {} if value is None else value


class SuperTokensConfig(Model):
    """The core, the recipes, and the session's cookies and tokens."""

    connection_uri: CoreUri = "http://localhost:3567"
    """Addresses of one or more cores, separated by `;`."""
    api_key: Annotated[ApiKey | None, Field(repr=False), SECRET] = None
    """The core's API key: printable ASCII, without a blank or line break at its ends.
    Take it from the environment: `${SUPERTOKENS_API_KEY}`.
    """
    app_name: Text = "supertokens-gateway"
    """Name of the application, shown in mails."""
    api_domain: Site = "http://localhost:8000"
    """Origin at which browsers reach this gateway."""
    website_domain: Site = "http://localhost:8000"
    """Origin of the frontend."""
    api_base_path: OwnPath = "/auth"
    """Path of SuperTokens' API. The gateway answers every path below it."""
    api_gateway_path: OwnPath | None = None
    """Path that a proxy before the gateway removes: browsers call `api_base_path` below
    it, and routes don't see it.
    """
    website_base_path: Prefix = "/auth"
    """Path at which the frontend shows SuperTokens' forms."""
    anti_csrf: Literal["VIA_TOKEN", "VIA_CUSTOM_HEADER", "NONE"] | None = None
    """Unset: the SDK chooses (VIA_CUSTOM_HEADER when SameSite is none).

    Risk: with NONE, only the cookies' SameSite keeps other sites from acting for users.
    """
    cookie: CookieConfig = CookieConfig()
    token_transfer_method: Literal["any", "cookie", "header"] = "any"  # noqa: S105 # a way to send one
    """How tokens are sent. `any`: the frontend chooses."""
    use_dynamic_signing_key: Flag = True
    """Sign tokens with keys that the core rotates; false: always with the same key.

    Risk: with false, a leaked key signs valid tokens until the core is given another
    one.
    """
    recipes: Annotated[
        dict[Recipe, Annotated[dict[str, Any], BeforeValidator(_settings)]],
        Field(repr=False),
        SECRET,
    ] = {"emailpassword": {}, "userroles": {}}  # noqa: RUF012 - pydantic copies it
    """Recipe name → its settings."""
    config_module: Dotted | None = None
    """Python module that defines recipe_list, app_info and supertokens_config.

    Risk: its code runs in the gateway and may change how sessions are verified.
    """
    email_delivery: Annotated[
        Literal["none", "supertokens"] | SmtpConfig, BeforeValidator(_delivery)
    ] = "none"
    """How mails are sent: `none` (not at all), `supertokens` (through SuperTokens' own
    service), or the settings of a mail server.

    Risk: the links in these mails are credentials; `supertokens` gives them to a third
    party.
    """
    keys: KeysConfig = KeysConfig()
    cache: CacheConfig = CacheConfig()
    core: CoreConfig = CoreConfig()
    rate_limits: AuthRateLimitsConfig = AuthRateLimitsConfig()

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding if both the file and a module define recipes."""
        if self.config_module is not None and self._keys_set("recipes"):
            yield Finding(
                loc=("recipes",),
                message="config_module already defines the recipes",
                hint="Remove recipes or config_module",
            )
