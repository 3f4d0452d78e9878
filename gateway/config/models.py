"""PURE. The keys of `routes.yaml`, each with its form, its default and its reason.

What stands under a key is its documentation: `gateway schema` shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gateway.config.findings import Finding, did_you_mean, reject, wrong
from gateway.config.forms import (
    Bytes,
    Cidr,
    ClaimPath,
    CookieDomain,
    CoreUri,
    Dotted,
    FieldName,
    Flag,
    HostHeader,
    HostName,
    HostPattern,
    IdentityHeader,
    IdentityTemplate,
    Listen,
    Mail,
    Method,
    Name,
    NotNegative,
    Origin,
    OwnPath,
    Path,
    Port,
    Positive,
    Prefix,
    Protected,
    Recipe,
    Regex,
    Seconds,
    TargetUrl,
    Template,
    Text,
    Upstream401,
    UpToFive,
)
from gateway.pattern import Pattern


class Model(BaseModel):
    """Base: unknown keys are errors, values never change, errors show no values."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        # `api_key: 12345` is text that looks like a number, not a mistake.
        coerce_numbers_to_str=True,
    )

    def conflicts(self) -> Iterator[Finding]:
        """Yield what is wrong between the keys; places are relative to the model."""
        return iter(())

    @model_validator(mode="after")
    def _no_conflicts(self) -> Self:
        reject(self.conflicts())
        return self

    def _given(self, *names: str) -> list[str]:
        """Return those of *names* that the file gives."""
        return [name for name in names if name in self.model_fields_set]


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
    """Path and query of a request."""
    max_field_size: Bytes = 16384
    """One header field, name and value."""
    max_head_size: Bytes = 65536
    """The request line and all header fields."""
    max_fields: Positive = 100
    """How many header fields a request has."""
    max_body_size: Bytes = 100 * 1024**2
    """One request body. Routes change it with `request.max_body_size`."""
    drain_body: Bytes = 65536
    """How much of a refused request's body is read to keep the connection."""
    write_idle_timeout: Seconds = 30.0
    """How long a client may take nothing of what was written to it."""
    max_connections: Positive = 10000
    """Of each worker. Further clients are cut off at once. Each takes a descriptor."""

    def conflicts(self) -> Iterator[Finding]:
        """A part of the head can't be larger than the whole."""
        for name in ("max_target_size", "max_field_size"):
            if getattr(self, name) > self.max_head_size:
                yield Finding(loc=(name,), message="is more than max_head_size")


class Gateway(Model):
    """The gateway's own side: where it listens and what it lets clients do."""

    listen: Listen = "127.0.0.1:8000"
    """`host:port`; port 0 takes a free one. `[::1]:8000` for IPv6."""
    user_path: OwnPath = "/user"
    """Where the gateway answers with the session's user."""
    trusted_proxies: tuple[Cidr, ...] = ()
    """CIDRs of peers whose X-Forwarded-* fields count. Empty: nobody's do.

    Risk: whoever connects from there can claim any client address, host and https.
    """
    drain_timeout: Seconds = 30.0
    """How long requests in flight may take after SIGTERM, or a reload."""
    near_misses: Literal["refuse", "forward"] = "refuse"
    """What becomes of a path that a service may read as that of a stricter route, as
    `/Admin` for `/admin`. See docs/security.md.

    Risk: with `forward`, whoever writes the path of a guarded route in another way
    passes its guard, at every service that reads more loosely than the route table.
    """
    limits: Limits = Limits()


# --- supertokens ------------------------------------------------------------


class Cookie(Model):
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


class Keys(Model):
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


class Cache(Model):
    """Verdicts on tokens that were verified already."""

    size: NotNegative = 20000
    """How many; 0 remembers none."""
    max_age: Seconds = 60.0
    """Verdicts end earlier when the token does, or its key."""


class CoreClient(Model):
    """The calls to the core."""

    timeout: Seconds = 5.0
    """For all the calls that one request needs, together."""
    max_concurrent: Positive = 64
    """Of each worker. Further calls wait for their turn."""


class Smtp(Model):
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
        return Smtp.model_validate(value)
    if value in ("none", "supertokens") or isinstance(value, Smtp):
        return value
    raise wrong(
        "expected none, supertokens, or the settings of a mail server",
        did_you_mean(value, ("none", "supertokens")),
    )


def _settings(value: object) -> object:
    """Let `emailpassword:` with nothing behind it mean its defaults."""
    return {} if value is None else value


class SuperTokens(Model):
    """The core, the recipes, and the session's cookies and tokens."""

    connection_uri: CoreUri = "http://localhost:3567"
    """One or more core addresses, separated by `;`."""
    api_key: Annotated[Text | None, Field(repr=False)] = None
    """The core's API key. Take it from the environment: `${SUPERTOKENS_API_KEY}`."""
    app_name: Text = "supertokens-gateway"
    """Stands in mails."""
    api_domain: Origin = "http://localhost:8000"
    """Where browsers reach this gateway."""
    website_domain: Origin = "http://localhost:8000"
    """Where the frontend is served."""
    api_base_path: OwnPath = "/auth"
    """The gateway answers everything below it."""
    website_base_path: Prefix = "/auth"
    """Where the frontend shows SuperTokens' forms."""
    anti_csrf: Literal["VIA_TOKEN", "VIA_CUSTOM_HEADER", "NONE"] | None = None
    """Unset: the SDK's own choice (VIA_CUSTOM_HEADER when SameSite is none).

    Risk: with NONE, only the cookies' SameSite keeps other sites from acting for users.
    """
    cookie: Cookie = Cookie()
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
    ] = {"emailpassword": {}, "userroles": {}}
    """Recipe name → its settings."""
    config_module: Dotted | None = None
    """A Python module with recipe_list, app_info and supertokens_config.

    Risk: its code runs in the gateway, and may change how sessions are verified.
    """
    email_delivery: Annotated[
        Literal["none", "supertokens"] | Smtp, BeforeValidator(_delivery)
    ] = "none"
    """`supertokens` sends through SuperTokens' own service; `none` sends nothing.

    Risk: the links in these mails are credentials; `supertokens` hands them to a third
    party.
    """
    keys: Keys = Keys()
    cache: Cache = Cache()
    core: CoreClient = CoreClient()

    def conflicts(self) -> Iterator[Finding]:
        """Recipes come from the file or from a module, not from both."""
        if self.config_module is not None and self._given("recipes"):
            yield Finding(
                loc=("recipes",),
                message="recipes come from config_module already",
                hint="Keep one of the two",
            )


# --- cors -------------------------------------------------------------------


class Cors(Model):
    """Which browser origins may read answers. What SuperTokens needs is added."""

    allow_origins: tuple[Origin, ...] | None = None
    """Exact origins; unset: the website domain.

    Risk: pages of these origins can act for a user who is signed in.
    """
    allow_headers: tuple[FieldName, ...] = ()
    """Request fields that frontends send, besides SuperTokens' own."""
    expose_headers: tuple[FieldName, ...] = ()
    """Reply fields that frontends read, besides SuperTokens' own."""
    max_age: NotNegative = 600
    """Seconds that browsers keep the answer to a preflight."""


# --- services and routes ----------------------------------------------------


class Timeouts(Model):
    """How long an upstream may take."""

    connect: Seconds = 3.0
    """For a new connection, TLS included."""
    response: Seconds = 60.0
    """From the end of the request to the reply's head."""
    idle: Seconds = 60.0
    """The longest gap between two pieces of the reply's body."""
    total: Seconds | None = None
    """The whole exchange. Unset: no limit, so that streams may go on."""


class TimeoutsPatch(Model):
    """Timeouts of one service or route; what is unset comes from the wider place."""

    connect: Seconds | None = None
    """For a new connection, TLS included."""
    response: Seconds | None = None
    """From the end of the request to the reply's head."""
    idle: Seconds | None = None
    """The longest gap between two pieces of the reply's body."""
    total: Seconds | None = None
    """The whole exchange."""


class Tls(Model):
    """How `https` targets are verified."""

    ca_file: Text | None = None
    """A PEM bundle to trust instead of the system's."""
    server_name: HostName | None = None
    """The name in the certificate, when it isn't the target's."""
    verify: Flag = True
    """False accepts any certificate: for development only.

    Risk: with false, whoever is on the way reads and answers for the service.
    """


class Target(Model):
    """One address of a service. A URL alone means the same."""

    url: TargetUrl
    """`http://host:port`, `https://host`, or `unix:/path/to.sock`. No path."""


def _short_target(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


class Paths(Model):
    """How a service reads paths. `paths: exact`: it sees every difference.

    What is unset may be either, as far as the gateway knows: a request whose path could
    be read as that of a stricter route is refused (`gateway.near_misses`). What is set
    to the looser value makes routes match as the service reads.

    Risk: with a value that the service doesn't keep to, a request passes the guard of
    the path that the service takes it for.
    """

    case: Literal["sensitive", "insensitive"] | None = None
    """`/Orders` is `/orders` for Express, Koa and ASP.NET, and for few others."""
    final_slash: Literal["significant", "ignored"] | None = None
    """`/orders/` is `/orders` for Express, Koa, Rails, and Spring before 6."""
    parameters: Literal["kept", "cut"] | None = None
    """`/orders;x=1` is `/orders` for Tomcat, Jetty and Spring."""
    extension: Literal["kept", "cut"] | None = None
    """`/orders.json` is `/orders` for Rails, and Spring before 5.3."""
    final_dots: Literal["kept", "cut"] | None = None
    """`/orders.` and `/orders%20` are `/orders` for IIS and the files of Windows."""


def _short_paths(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value != "exact":
        raise wrong(
            "expected exact, or the differences that the service sees",
            did_you_mean(value, ("exact",)) or "See docs/configuration.md",
        )
    return {
        "case": "sensitive",
        "final_slash": "significant",
        "parameters": "kept",
        "extension": "kept",
        "final_dots": "kept",
    }


class Service(Model):
    """An upstream, by name."""

    targets: Annotated[
        tuple[
            Annotated[
                Target,
                BeforeValidator(_short_target, json_schema_input_type=Target | str),
            ],
            ...,
        ],
        Field(min_length=1),
    ]
    """Its addresses."""
    timeouts: TimeoutsPatch = TimeoutsPatch()
    max_connections: Positive = 256
    """Per target, of each worker."""
    tls: Tls = Tls()
    paths: Annotated[
        Paths,
        BeforeValidator(_short_paths, json_schema_input_type=Paths | Literal["exact"]),
    ] = Paths()
    host_header: HostHeader = "upstream"
    """`upstream` (the target's own), `preserve` (the client's), or a literal.

    Risk: with `preserve` the service gets a name that the client chose.
    """


class AnyAll(Model):
    """At least one of `any`, and each of `all`."""

    any: tuple[Text, ...] = ()
    """One of these is enough."""
    all: tuple[Text, ...] = ()
    """Each of these is needed."""


class ClaimRule(Model):
    """A condition on one claim: exactly one of `in`, `equals` and `contains`."""

    path: ClaimPath
    """`plan`, or `st-ev.v` for a claim within a claim."""
    any_of: Annotated[tuple[Any, ...] | None, Field(alias="in", min_length=1)] = None
    """The claim is one of these."""
    equals: Any = None
    """The claim is this."""
    contains: Any = None
    """The claim is a list with this in it."""

    def conflicts(self) -> Iterator[Finding]:
        """Which condition it is must be certain."""
        if len(self._given("any_of", "equals", "contains")) != 1:
            yield Finding(
                loc=(), message="expected exactly one of in, equals and contains"
            )


class Require(Model):
    """What a session must have besides being valid."""

    roles: AnyAll = AnyAll()
    permissions: AnyAll = AnyAll()
    email_verified: Flag = False
    """The user's mail address is verified."""
    mfa: Flag = False
    """All factors that the session's user must complete are complete."""
    tenants: tuple[Text, ...] = ()
    """The session's tenant is one of these. Empty: any."""
    claims: tuple[ClaimRule, ...] = ()
    """All of them."""
    max_age: Seconds | None = None
    """Older claims are fetched again, so that a change of roles is seen."""
    validators: tuple[Dotted, ...] = ()
    """Dotted names of claim validators in Python."""


class PathMatch(Model):
    """Exactly one of the four."""

    exact: Path | None = None
    """This path and no other."""
    prefix: Prefix | None = None
    """This path and all below it: `/orders` covers `/orders/1`, not `/ordersx`."""
    template: Template | None = None
    """`/orders/{id}/items`: a name stands for one non-empty segment."""
    regex: Regex | None = None
    """Matches the whole canonical path."""

    def conflicts(self) -> Iterator[Finding]:
        """A route has one form of path."""
        given = [getattr(self, name) for name in type(self).model_fields]
        if len(given) - given.count(None) != 1:
            yield Finding(
                loc=(), message="expected exactly one of exact, prefix, template, regex"
            )


class Match(Model):
    """Which requests a route is for; all that is given must match."""

    path: PathMatch
    methods: Annotated[tuple[Method, ...] | None, Field(min_length=1)] = None
    """Unset: all. GET includes HEAD."""
    hosts: Annotated[tuple[HostPattern, ...] | None, Field(min_length=1)] = None
    """`api.example.com`, or `*.example.com` for one label or more."""


class Rewrite(Model):
    """How the path changes on its way; the rest of it and the query stay."""

    strip_prefix: Prefix | None = None
    """Taken off; a path is left with its final slash as it was."""
    replace_prefix: Prefix | None = None
    """What stands in place of the matched (or stripped) prefix."""


class Session(Model):
    """How the session is checked."""

    check_database: Literal["never", "on_write", "cached", "always"] = "never"
    """When the core is asked if the session still exists; `never` trusts the token.

    Risk: with `never`, a session that was revoked elsewhere is good until its token
    expires. With the others, a core that is away means 503.
    """
    max_age: Seconds = 5.0
    """For `cached`: how old the core's last answer may be."""


class SessionPatch(Model):
    """How one route checks the session; what is unset comes from `defaults`."""

    check_database: Literal["never", "on_write", "cached", "always"] | None = None
    """As in `defaults.session`."""
    max_age: Seconds | None = None
    """For `cached`: how old the core's last answer may be."""


class Identity(Model):
    """What the upstream is told of the user, besides the usual fields."""

    headers: dict[IdentityHeader, IdentityTemplate] = Field(default_factory=dict)
    """Field name → template over the claims, as in `{claims.plan}`."""

    def conflicts(self) -> Iterator[Finding]:
        """Field names differ in more than their case."""
        seen: set[str] = set()
        for name in self.headers:
            if name.lower() in seen:
                yield Finding(
                    loc=("headers", name),
                    message="this field stands here twice",
                )
            seen.add(name.lower())


class WebSocket(Model):
    """Upgraded connections."""

    enabled: Flag = True
    """False refuses them with 403."""
    allowed_origins: tuple[Origin, ...] | None = None
    """Unset: the CORS origins."""
    idle_timeout: Seconds = 300.0
    """The longest silence, of both sides."""
    max_lifetime: Seconds | None = None
    """Unset: no limit."""
    close_on_session_end: Flag = True
    """Closed with 4401 when the access token ends, or its session does.

    Risk: with false, a socket outlives the session that opened it.
    """


class RequestLimits(Model):
    """What a request may be on this route."""

    max_body_size: Bytes | None = None
    """Unset: `gateway.limits.max_body_size`."""
    allow_field_names: tuple[FieldName, ...] = ()
    """Names with `_` or `.` that are let through; all others are dropped.

    Risk: a service that reads `_` as `-` takes them for the field of that name.
    """


class Retry(Model):
    """What is done again when an upstream fails."""

    attempts: UpToFive = 1
    """How often a GET, HEAD or OPTIONS without a body is sent again, if the connection
    ends before the reply's head does; 0: never. See docs/proxying.md.
    """


class Defaults(Model):
    """What routes don't say themselves."""

    protected: Protected = True
    """Protected unless said otherwise: a forgotten line closes, it doesn't open.

    Risk: with false, every route that says nothing is open.
    """
    timeouts: Timeouts = Timeouts()
    session: Session = Session()
    forward_credentials: Flag = False
    """Session tokens stay here: whoever has one is the user.

    Risk: with true, every service can act as any of its callers, everywhere.
    """
    upstream_401: Upstream401 = "403"
    """An upstream's own 401 would send SuperTokens' frontends into a refresh loop."""


class Route(Model):
    """One line of the route table: which requests, who may, and where they go."""

    name: Name | None = None
    """For logs; unset: made from its place and path."""
    path: Prefix | None = None
    """Short for `match: {path: {prefix: …}}`."""
    match: Match | None = None
    upstream: TargetUrl | None = None
    """Short for a service with this one target."""
    service: str | None = None
    """A name from `services`."""
    protected: Protected | None = None
    """`true`, `false`, or `optional`: anonymous without a session. Unset: the default.

    Risk: with false, no session is read, and nothing is asked of the client.
    """
    require: Require = Require()
    session: SessionPatch = SessionPatch()
    rewrite: Rewrite = Rewrite()
    timeouts: TimeoutsPatch = TimeoutsPatch()
    identity: Identity = Identity()
    forward_credentials: Flag | None = None
    """True sends the session's cookies and tokens on to the upstream.

    Risk: whoever has them is the user, at every route.
    """
    upstream_401: Upstream401 | None = None
    """What becomes of an upstream's 401 for a request with a session."""
    host_header: HostHeader | None = None
    """Unset: the service's."""
    websocket: WebSocket = WebSocket()
    request: RequestLimits = RequestLimits()
    retry: Retry = Retry()

    def conflicts(self) -> Iterator[Finding]:
        """A route has one path, one upstream, and a rewrite that can happen."""
        if (self.path is None) == (self.match is None):
            yield Finding(loc=(), message="expected exactly one of path and match")
        if (self.upstream is None) == (self.service is None):
            yield Finding(
                loc=(), message="expected exactly one of upstream and service"
            )
        yield from self._rewrite_conflicts()

    def _rewrite_conflicts(self) -> Iterator[Finding]:
        form = self.path_match
        strip = self.rewrite.strip_prefix
        if strip is not None and form is not None and not _begins(form, strip):
            yield Finding(
                loc=("rewrite", "strip_prefix"),
                message="the route's paths don't all begin with this prefix",
                hint="Strip what stands at the beginning of its path, up to a /",
            )
        if (
            self.rewrite.replace_prefix is not None
            and strip is None
            and form is not None
            and (form.template or form.regex)
        ):
            yield Finding(
                loc=("rewrite", "replace_prefix"),
                message="a template or regex has no prefix to be replaced",
                hint="Say which with strip_prefix",
            )

    @property
    def path_match(self) -> PathMatch | None:
        """What the path is matched by, however it was written; None if it wasn't."""
        if self.match is not None:
            return self.match.path
        return None if self.path is None else PathMatch(prefix=self.path)


def _begins(form: PathMatch, prefix: str) -> bool:
    """Return whether all paths that match begin with *prefix*, up to a border."""
    if prefix == "/":
        return True
    if form.regex is not None:
        return Pattern(form.regex).begins_with(prefix)
    whole = form.exact or form.prefix or form.template or ""
    return whole == prefix or whole.startswith(f"{prefix}/")


class Config(Model):
    """The whole of `routes.yaml`."""

    version: Literal[1]
    """Of the file's format."""
    gateway: Gateway = Gateway()
    supertokens: SuperTokens = SuperTokens()
    cors: Cors = Cors()
    defaults: Defaults = Defaults()
    services: dict[Name, Service] = Field(default_factory=dict)
    """Name → an upstream that routes share."""
    routes: tuple[Route, ...] = ()
    """The route table. `gateway routes` shows the order that it is matched in."""
