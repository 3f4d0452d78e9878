"""PURE. The schema of `routes.yaml`: frozen models, each default written once.

A default that isn't in the file is here, with its unit and why it is safe.
Nothing here reads a file or the environment; see `settings`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_UNIT_S = {"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|kB|KB|MB|GB)?", re.IGNORECASE)
_UNIT_BYTES = {
    "b": 1,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
}


def duration(value: object) -> object:
    """Return seconds for `3s`, `250ms`, `5m`, `1h`, `2d` or a bare number of seconds.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, str):
        found = _DURATION.fullmatch(value.strip())
        if found is None:
            raise ValueError("expected a duration such as 3s, 250ms, 5m or 1h")
        return float(found[1]) * _UNIT_S[found[2]]
    return value


def size(value: object) -> object:
    """Return bytes for `10MiB`, `64KiB`, `1GB` or a bare number of bytes.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, str):
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            raise ValueError("expected a size such as 64KiB, 10MiB or 1GB")
        return int(found[1]) * _UNIT_BYTES[(found[2] or "B").lower()]
    return value


Seconds = Annotated[float, BeforeValidator(duration), Field(gt=0)]
Bytes = Annotated[int, BeforeValidator(size), Field(ge=0)]


class Model(BaseModel):
    """Base: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- gateway ----------------------------------------------------------------


class Limits(Model):
    """What one client may ask of the listener. See docs/proxying.md for reasons."""

    head_timeout: Seconds = 10.0
    """From the first byte of a request to the end of its head."""
    keep_alive: Seconds = 75.0
    """How long an idle client connection is kept."""
    body_idle_timeout: Seconds = 30.0
    """The longest gap between two pieces of a request body."""
    body_min_rate: Bytes = 256
    """Bytes a second that a request body must reach on average, after 10 s; 0: off."""
    max_target_size: Bytes = 8192
    max_field_size: Bytes = 16384
    max_head_size: Bytes = 65536
    max_fields: Annotated[int, Field(ge=1)] = 100
    max_body_size: Bytes = 100 * 1024**2
    drain_body: Bytes = 65536
    """How much of a refused request's body is read to keep the connection."""


class Gateway(Model):
    listen: str = "127.0.0.1:8000"
    """`host:port`; port 0 takes a free one. `[::1]:8000` for IPv6."""
    user_path: str = "/user"
    trusted_proxies: tuple[str, ...] = ()
    """CIDRs of peers whose X-Forwarded-* fields count. Empty: nobody's do."""
    drain_timeout: Seconds = 30.0
    """How long requests in flight may take after SIGTERM."""
    limits: Limits = Limits()


# --- supertokens ------------------------------------------------------------


class Cookie(Model):
    domain: str | None = None
    older_domain: str | None = None
    secure: bool | None = None
    same_site: Literal["lax", "strict", "none"] | None = None


class Keys(Model):
    """How the keys that tokens are signed with are kept fresh."""

    refresh_interval: Seconds = 300.0
    max_stale: Seconds = 4 * 3600.0
    """How long the last keys are used while the core can't be reached."""
    cooldown: Seconds = 1.0
    """The least time between two fetches caused by unknown key ids."""
    timeout: Seconds = 3.0


class Cache(Model):
    """Verdicts on tokens that were verified already."""

    size: Annotated[int, Field(ge=0)] = 20000
    max_age: Seconds = 60.0


class CoreClient(Model):
    timeout: Seconds = 5.0
    max_concurrent: Annotated[int, Field(ge=1)] = 64


class Smtp(Model):
    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    username: str | None = None
    password: str | None = None
    secure: bool = False
    from_email: str
    from_name: str = ""


class SuperTokens(Model):
    connection_uri: str = "http://localhost:3567"
    """One or more core addresses, separated by `;`."""
    api_key: str | None = None
    app_name: str = "supertokens-gateway"
    api_domain: str = "http://localhost:8000"
    website_domain: str = "http://localhost:8000"
    api_base_path: str = "/auth"
    website_base_path: str = "/auth"
    anti_csrf: Literal["VIA_TOKEN", "VIA_CUSTOM_HEADER", "NONE"] | None = None
    """Unset: the SDK's own choice (VIA_CUSTOM_HEADER when SameSite is none)."""
    cookie: Cookie = Cookie()
    token_transfer_method: Literal["any", "cookie", "header"] = "any"
    use_dynamic_signing_key: bool = True
    recipes: dict[str, dict[str, Any]] = {"emailpassword": {}, "userroles": {}}
    config_module: str | None = None
    """A Python module with recipe_list, app_info and supertokens_config."""
    email_delivery: Literal["none", "supertokens"] | Smtp = "none"
    """`supertokens` sends through SuperTokens' own service; `none` sends nothing."""
    keys: Keys = Keys()
    cache: Cache = Cache()
    core: CoreClient = CoreClient()


# --- cors -------------------------------------------------------------------


class Cors(Model):
    allow_origins: tuple[str, ...] | None = None
    """Exact origins; unset: the website domain."""
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Annotated[int, Field(ge=0)] = 600


# --- services and routes ----------------------------------------------------


class Timeouts(Model):
    connect: Seconds = 3.0
    response: Seconds = 60.0
    """From the end of the request to the reply's head."""
    idle: Seconds = 60.0
    """The longest gap between two pieces of the reply's body."""
    total: Seconds | None = None
    """The whole exchange. Unset: no limit, so that streams may go on."""


class TimeoutsPatch(Model):
    """Timeouts of one service or route; what is unset comes from the wider place."""

    connect: Seconds | None = None
    response: Seconds | None = None
    idle: Seconds | None = None
    total: Seconds | None = None


class Tls(Model):
    ca_file: str | None = None
    """A PEM bundle to trust instead of the system's."""
    server_name: str | None = None
    verify: bool = True


class Target(Model):
    url: str
    """`http://host:port`, `https://host`, or `unix:/path/to.sock`. No path."""


class Service(Model):
    targets: tuple[Target, ...] = Field(min_length=1)
    timeouts: TimeoutsPatch = TimeoutsPatch()
    max_connections: Annotated[int, Field(ge=1)] = 256
    """Per target."""
    tls: Tls = Tls()
    host_header: str = "upstream"
    """`upstream` (the target's own), `preserve` (the client's), or a literal."""


class AnyAll(Model):
    any: tuple[str, ...] = ()
    all: tuple[str, ...] = ()


class ClaimRule(Model):
    """A condition on one claim: exactly one of `in`, `equals` and `contains`."""

    path: str
    any_of: tuple[Any, ...] | None = Field(default=None, alias="in")
    equals: Any = None
    contains: Any = None


class Require(Model):
    roles: AnyAll = AnyAll()
    permissions: AnyAll = AnyAll()
    email_verified: bool = False
    mfa: bool = False
    tenants: tuple[str, ...] = ()
    claims: tuple[ClaimRule, ...] = ()
    max_age: Seconds | None = None
    validators: tuple[str, ...] = ()


class PathMatch(Model):
    """Exactly one of the four."""

    exact: str | None = None
    prefix: str | None = None
    template: str | None = None
    """`/orders/{id}/items`: a name stands for one non-empty segment."""
    regex: str | None = None
    """Matches the whole canonical path."""


class Match(Model):
    path: PathMatch
    methods: tuple[str, ...] | None = None
    hosts: tuple[str, ...] | None = None
    """`api.example.com`, or `*.example.com` for one label or more."""


class Rewrite(Model):
    strip_prefix: str | None = None
    replace_prefix: str | None = None
    """What stands in place of the matched (or stripped) prefix."""


class Session(Model):
    check_database: Literal["never", "on_write", "cached", "always"] = "never"
    max_age: Seconds = 5.0
    """For `cached`: how old the core's last answer may be."""


class Identity(Model):
    headers: dict[str, str] = Field(default_factory=dict)
    """Field name → template over the claims, as in `{claims.plan}`."""


class WebSocket(Model):
    enabled: bool = True
    allowed_origins: tuple[str, ...] | None = None
    """Unset: the CORS origins."""
    idle_timeout: Seconds = 300.0
    max_lifetime: Seconds | None = None
    close_on_session_end: bool = True


class RequestLimits(Model):
    max_body_size: Bytes | None = None
    """Unset: `gateway.limits.max_body_size`."""
    allow_field_names: tuple[str, ...] = ()
    """Names with `_` or `.` that are let through; all others are dropped."""


class Retry(Model):
    attempts: Annotated[int, Field(ge=0, le=5)] = 1
    """How often an idempotent request without a body is tried again."""


class Defaults(Model):
    protected: bool | Literal["optional"] = True
    timeouts: Timeouts = Timeouts()
    session: Session = Session()
    forward_credentials: bool = False
    upstream_401: Literal["pass", "403", "502"] = "403"


class Route(Model):
    name: str | None = None
    """For logs; unset: made from its place and path."""
    path: str | None = None
    """Short for `match: {path: {prefix: …}}`."""
    match: Match | None = None
    upstream: str | None = None
    """Short for a service with this one target."""
    service: str | None = None
    protected: bool | Literal["optional"] | None = None
    require: Require = Require()
    session: Session | None = None
    rewrite: Rewrite = Rewrite()
    timeouts: TimeoutsPatch = TimeoutsPatch()
    identity: Identity = Identity()
    forward_credentials: bool | None = None
    upstream_401: Literal["pass", "403", "502"] | None = None
    host_header: str | None = None
    websocket: WebSocket = WebSocket()
    request: RequestLimits = RequestLimits()
    retry: Retry = Retry()


class Config(Model):
    """The whole of `routes.yaml`."""

    version: Literal[1]
    gateway: Gateway = Gateway()
    supertokens: SuperTokens = SuperTokens()
    cors: Cors = Cors()
    defaults: Defaults = Defaults()
    services: dict[str, Service] = Field(default_factory=dict)
    routes: tuple[Route, ...] = ()
