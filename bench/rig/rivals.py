"""The measured programs: their configurations, and their work for a request.

All rivals do the same work as far as they can; `does` says what a rival does. Where a
part of the comparison needs another configuration (bodies, WebSockets, workers), it is
a variant with its own port.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.rig import builds

PORTS = {
    name: 9300 + number
    for number, name in enumerate(
        (
            "upstream",
            "core",
            "gateway",
            "gateway_no_cache",
            "nginx",
            "haproxy",
            "envoy",
            "caddy",
            "auth_request",
            "auth_service",
            "nginx_unbuffered",
            "nginx_64k",
            "nginx_sockets",
            "big_upstream",
            "echo_upstream",
            "mirror_upstream",
            "haproxy_cookie",
            "envoy_cookie",
            "gateway_logged",
            "nginx_logged",
            "haproxy_logged",
            "envoy_logged",
            "caddy_logged",
        )
    )
}


SIZES = (0, 1024, 64 * 1024, 1024 * 1024)
"""The bodies at `/bytes/<n>` of the upstream, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The values that a rival's configuration may use."""

    folder: Path
    tools: Path
    """The virtual environment for rivals that aren't installed in the system."""
    python: Path
    """The `bin` folder of the environment with the gateway and FastAPI."""
    jwks: Mapping[str, object]
    public_key: Path
    """PEM."""
    user: str
    token: str
    refused: Mapping[str, str]
    """Tokens for which a verifying rival must reply 401, by the reason."""
    upstream: int = PORTS["upstream"]
    """The port that every rival forwards to."""

    def tool(self, name: str) -> str | None:
        """Return the path of an installed program, None when it is missing."""
        if (own := self.python / name).exists():
            return str(own)
        return builds.find(name, self.tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """One configuration of a proxy in front of the upstream."""

    name: str
    does: str
    program: str
    """The program that must be installed."""
    port: int
    command: Callable[[Stage, str], list[str]]
    """Writes the configuration; takes the program's path, returns the command line."""
    label: str = ""
    """The name in tables, if it isn't the program."""
    loads: tuple[str, ...] = ("same",)
    """The loads of `parts.requests` with which it is measured."""
    verifies: bool = False
    """It verifies the token, and forwards the user id in it."""
    in_cookie: bool = False
    """It takes the token only from a cookie."""
    access_log: str = ""
    """The file in the stage's folder that has a line of JSON for each request."""
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def who(self) -> str:
        """The name in tables; several rivals may have the same."""
        return self.label or self.program


def upstream(stage: Stage, program: str) -> list[str]:
    """Return the command of the upstream: nginx answering 150 bytes of JSON.

    The JSON has the fields that it received. `/bytes/<n>` is n bytes, for `SIZES`.
    """
    body = (
        '{"user":"$http_x_user_id","got":"$content_length"'
        ',"for":"$http_x_forwarded_for","pad":"' + "x" * 60 + '"}'
    )
    files = stage.folder / "files" / "bytes"
    files.mkdir(parents=True, exist_ok=True)
    for size in SIZES:
        (files / str(size)).write_bytes(bytes(size))
    return _nginx(
        stage,
        program,
        "upstream",
        f"""server {{
          listen 127.0.0.1:{PORTS["upstream"]} backlog=4096;
          location / {{ default_type application/json; return 200 '{body}'; }}
          location /bytes/ {{
            root {files.parent}; sendfile on; open_file_cache max=16;
          }}
        }}""",
    )


def _nginx(stage: Stage, program: str, name: str, servers: str) -> list[str]:
    home = stage.folder / name
    home.mkdir(exist_ok=True)
    config = home / "nginx.conf"
    # If root starts nginx, its worker's default user can't write to this folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(
        f"""{user} worker_processes 1; daemon off;
        pid {home}/pid; error_log {home}/error.log;
        worker_rlimit_nofile 65535; events {{ worker_connections 16384; }}
        http {{
          access_log off; keepalive_requests 1000000000;
          client_body_temp_path {home}; proxy_temp_path {home};
          fastcgi_temp_path {home}; uwsgi_temp_path {home}; scgi_temp_path {home};
          upstream up {{
            server 127.0.0.1:{stage.upstream};
            keepalive 1024; keepalive_requests 1000000000;
          }}
          {servers}
        }}"""
    )
    return [program, "-c", str(config), "-p", str(home)]


def _proxy_pass(name: str, more: str = "") -> Callable[[Stage, str], list[str]]:
    """Return the command of an nginx that verifies nothing; *more* are directives."""

    def command(stage: Stage, program: str) -> list[str]:
        return _nginx(
            stage,
            program,
            name,
            f"""server {{
              listen 127.0.0.1:{PORTS[name]} backlog=4096;
              client_max_body_size 0;
              location / {{
                proxy_http_version 1.1; proxy_set_header Connection "";
                proxy_set_header X-User-Id bench; proxy_pass http://up;
                {more}
              }}
            }}""",
        )

    return command


def _auth_request(stage: Stage, program: str) -> list[str]:
    return _nginx(
        stage,
        program,
        "auth_request",
        f"""upstream auth {{
          server 127.0.0.1:{PORTS["auth_service"]};
          keepalive 128; keepalive_requests 1000000000;
        }}
        server {{
          listen 127.0.0.1:{PORTS["auth_request"]} backlog=1024;
          location / {{
            auth_request /verify;
            auth_request_set $user $upstream_http_x_user_id;
            proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header X-User-Id $user; proxy_pass http://up;
          }}
          location = /verify {{
            internal; proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_pass http://auth;
          }}
        }}""",
    )


def _nginx_logged(stage: Stage, program: str) -> list[str]:
    log = _fresh(stage, "nginx_logged.access")
    fields = (
        '"time":"$time_iso8601","request_id":"$request_id","client":"$remote_addr"'
        ',"method":"$request_method","path":"$uri","status":$status'
        ',"upstream":"$upstream_addr","duration_s":$request_time'
        ',"connect_s":"$upstream_connect_time","upstream_s":"$upstream_header_time"'
        ',"bytes_in":$request_length,"bytes_out":$body_bytes_sent'
    )
    return _nginx(
        stage,
        program,
        "nginx_logged",
        f"""log_format fields escape=json '{{{fields}}}';
        server {{
          listen 127.0.0.1:{PORTS["nginx_logged"]} backlog=4096;
          access_log {log} fields buffer=64k flush=1s;
          set_real_ip_from 127.0.0.1; real_ip_header X-Forwarded-For;
          location / {{
            proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For
              "$http_x_forwarded_for, $realip_remote_addr";
            proxy_set_header X-Request-Id $request_id;
            proxy_set_header X-User-Id bench; proxy_pass http://up;
          }}
        }}""",
    )


def _fresh(stage: Stage, name: str) -> Path:
    """Return the path of a new log; the program opens it and appends to it."""
    path = stage.folder / name
    path.unlink(missing_ok=True)
    return path


_HAPROXY_BEARER = """
  http-request set-var(txn.token) http_auth_bearer
  http-request del-header Authorization
"""
_HAPROXY_COOKIE = """
  http-request set-var(txn.token) req.cook(sAccessToken)
"""
_HAPROXY_LOG = """
  log stdout format raw local0
  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
  http-request set-var(txn.peer) src
  http-request set-var(txn.path) path
  http-request set-src hdr_ip(X-Forwarded-For,-1) if { src 127.0.0.1 }
  http-request add-header X-Forwarded-For %[var(txn.peer)]
  log-format '{"time":"%[date,utime(%Y-%m-%dT%H:%M:%S)]","request_id":"%ID",\
"client":"%ci","method":"%HM","path":"%[var(txn.path),json(utf8s)]","status":%ST,\
"user_id":"%[var(txn.user)]","upstream":"%b/%s","duration_ms":%Ta,"connect_ms":%Tc,\
"upstream_ms":%Tr,"bytes_in":%U,"bytes_out":%B}'
"""


def _haproxy(
    name: str, take: str = _HAPROXY_BEARER, more: str = ""
) -> Callable[[Stage, str], list[str]]:
    """Return the command of an HAProxy that reads the token with the lines *take*."""

    def command(stage: Stage, program: str) -> list[str]:
        config = stage.folder / f"{name}.cfg"
        config.write_text(
            f"""global
  nbthread 1
  maxconn 12000
  no strict-limits
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend front
  bind 127.0.0.1:{PORTS[name]}
  {more.strip()}
  {take.strip()}
  acl valid var(txn.token),jwt_verify("RS256","{stage.public_key}") 1
  http-request deny deny_status 401 unless valid
  http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')
  http-request set-var(txn.now) date()
  acl expired var(txn.exp),sub(txn.now) -m int le 0
  http-request deny deny_status 401 if expired
  http-request set-var(txn.user) var(txn.token),jwt_payload_query('$.sub')
  http-request set-header X-User-Id %[var(txn.user)]
  default_backend back
backend back
  server one 127.0.0.1:{stage.upstream}
"""
        )
        return [program, "-f", str(config), "-db"]

    return command


def _envoy(
    name: str, *, cookie: str = "", log: str = ""
) -> Callable[[Stage, str], list[str]]:
    """Return the command of an Envoy with the token in *cookie*, and a log."""

    def command(stage: Stage, program: str) -> list[str]:
        manager = _envoy_manager(stage, cookie)
        if log:
            manager.update(_envoy_terminated(_fresh(stage, log)))
        config = envoy_config(PORTS[name], stage.upstream, manager)
        path = stage.folder / f"{name}.json"
        path.write_text(json.dumps(config))
        words = ["--concurrency", "1", "-l", "error", "--disable-hot-restart"]
        # As often as nginx and the gateway; the default is every ten seconds.
        words += ["--file-flush-interval-msec", "1000"]
        return [program, "-c", str(path), *words]

    return command


def envoy_config(
    port: object, upstream: object, manager: Mapping[str, object]
) -> dict[str, object]:
    """Return a configuration that listens on *port*, with a connection manager."""
    filters = [{"filters": [{"name": "http", "typed_config": manager}]}]
    endpoint = {"endpoint": {"address": _address(upstream)}}
    cluster = {
        "name": "up",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "up",
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }
    listener = {"address": _address(port), "filter_chains": filters}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: object) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


_ENVOY = "type.googleapis.com/envoy.extensions"


def _envoy_manager(stage: Stage, cookie: str) -> dict[str, object]:
    provider: dict[str, object] = {
        "local_jwks": {"inline_string": json.dumps(stage.jwks)},
        "claim_to_headers": [{"header_name": "x-user-id", "claim_name": "sub"}],
        "forward": False,
    }
    if cookie:
        provider["from_cookies"] = [cookie]
    jwt = {
        "@type": f"{_ENVOY}.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"core": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "core"}}],
    }
    router = f"{_ENVOY}.filters.http.router.v3.Router"
    return {
        "@type": f"{_ENVOY}.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "bench",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "jwt", "typed_config": jwt},
            {"name": "router", "typed_config": {"@type": router}},
        ],
    }


def _envoy_terminated(log: Path) -> dict[str, object]:
    fields = {
        "time": "%START_TIME%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(:PATH)%",
        "status": "%RESPONSE_CODE%",
        "route": "%ROUTE_NAME%",
        "user_id": "%REQ(X-USER-ID)%",
        "upstream": "%UPSTREAM_HOST%",
        "duration_ms": "%DURATION%",
        "upstream_ms": "%RESPONSE_DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "reason": "%RESPONSE_CODE_DETAILS%",
    }
    typed = {
        "@type": f"{_ENVOY}.access_loggers.file.v3.FileAccessLog",
        "path": str(log),
        "log_format": {"json_format": fields},
    }
    return {
        "use_remote_address": True,
        "xff_num_trusted_hops": 1,
        "access_log": [{"name": "file", "typed_config": typed}],
    }


def _caddy(name: str, *, log: str = "") -> Callable[[Stage, str], list[str]]:
    def command(stage: Stage, program: str) -> list[str]:
        config = stage.folder / f"{name}.Caddyfile"
        trusted = logged = request_id = ""
        if log:
            trusted = """servers {
    trusted_proxies static 127.0.0.1/32
  }"""
            logged = f"""log {{
    output file {_fresh(stage, log)} {{
      roll_disabled
    }}
    format json
  }}"""
            request_id = "header_up X-Request-Id {http.request.uuid}"
        config.write_text(
            f"""{{
  admin off
  auto_https off
  persist_config off
  {trusted}
}}
http://127.0.0.1:{PORTS[name]} {{
  {logged}
  reverse_proxy 127.0.0.1:{stage.upstream} {{
    header_up X-User-Id bench
    {request_id}
  }}
}}
"""
        )
        return [program, "run", "--config", str(config), "--adapter", "caddyfile"]

    return command


def gateway_config(
    stage: Stage, name: str, *, cache_size: int, trusted_proxies: Sequence[str] = ()
) -> Path:
    """Write the gateway's route table; return its path."""
    path = stage.folder / f"{name}.yaml"
    origin = "http://localhost:8000"
    path.write_text(
        f"""version: 1
gateway:
  listen: "127.0.0.1:{PORTS[name]}"
  trusted_proxies: {json.dumps(trusted_proxies)}
  limits:
    max_body_size: 8589934592
    max_connections: 20000
    per_client: {{connections: 20000}}
supertokens:
  connection_uri: http://127.0.0.1:{PORTS["core"]}
  api_domain: {origin}
  website_domain: {origin}
  cache: {{size: {cache_size}}}
services:
  up:
    targets: [{{url: "http://127.0.0.1:{stage.upstream}"}}]
    max_connections: 2048
routes:
  - {{path: /open, service: up, protected: false}}
  - {{path: /, service: up}}
"""
    )
    return path


def _gateway(
    name: str, *, cache_size: int = 20000, is_terminated: bool = False
) -> Callable[[Stage, str], list[str]]:
    def command(stage: Stage, program: str) -> list[str]:
        trusted = ("127.0.0.1/32",) if is_terminated else ()
        config = gateway_config(
            stage, name, cache_size=cache_size, trusted_proxies=trusted
        )
        log = "json" if is_terminated else "none"
        return [program, "serve", "-c", str(config), "--log-format", log]

    return command


ONE_WORKER = {"GATEWAY_WORKERS": "1"}
"""One worker, for one core; the default is a worker for each usable core."""

_PLAIN = ("same", "browser", "post")
_NGINX = Rival(
    name="nginx",
    does="proxy_pass; verifies nothing, sets a constant identity field",
    program="nginx",
    port=PORTS["nginx"],
    command=_proxy_pass("nginx"),
    loads=_PLAIN,
)
_HAPROXY = Rival(
    name="haproxy",
    does="jwt_verify RS256 and expiry on each request, identity field from the"
    " claim; no anti-CSRF, no revocation",
    program="haproxy",
    port=PORTS["haproxy"],
    command=_haproxy("haproxy"),
    verifies=True,
    loads=("same", "post"),
)
_ENVOY_JWT = Rival(
    name="envoy",
    does="jwt_authn on each request, claim_to_headers; no anti-CSRF, no revocation",
    program="envoy",
    port=PORTS["envoy"],
    command=_envoy("envoy"),
    verifies=True,
    loads=("same", "post"),
)
_CADDY = Rival(
    name="caddy",
    does="reverse_proxy; verifies nothing, sets a constant identity field",
    program="caddy",
    port=PORTS["caddy"],
    command=_caddy("caddy"),
    environ={"GOMAXPROCS": "1"},
    loads=_PLAIN,
)
_GATEWAY = Rival(
    name="gateway",
    does="session, anti-CSRF, deny-list, identity fields, credentials stripped",
    program="gateway",
    port=PORTS["gateway"],
    command=_gateway("gateway"),
    environ=ONE_WORKER,
    verifies=True,
    loads=("same", "public", "browser", "post"),
)


def _variant(
    rival: Rival,
    name: str,
    command: Callable[[Stage, str], list[str]],
    *,
    load: str,
    does: str,
    in_cookie: bool = False,
    access_log: str = "",
) -> Rival:
    """Return another way to set up *rival*, for one load; *does* is what it does, too.

    It listens on its own port, so that two rivals can't be confused.
    """
    return replace(
        rival,
        name=name,
        port=PORTS[name],
        command=command,
        does=f"{rival.does.partition('; no ')[0]}; {does}",
        loads=(load,),
        in_cookie=in_cookie,
        access_log=access_log,
    )


RIVALS = (
    _NGINX,
    _HAPROXY,
    _ENVOY_JWT,
    _CADDY,
    Rival(
        name="auth_request",
        label="auth_request",
        does="nginx auth_request to FastAPI with the SDK's verify_session:"
        " what SuperTokens' users build today",
        program="nginx",
        port=PORTS["auth_request"],
        command=_auth_request,
        verifies=True,
    ),
    _GATEWAY,
    _variant(
        _GATEWAY,
        "gateway_no_cache",
        _gateway("gateway_no_cache", cache_size=0),
        load="new_token",
        does="no verdict is remembered, so that every token is new",
    ),
    _variant(
        _HAPROXY,
        "haproxy_cookie",
        _haproxy("haproxy_cookie", _HAPROXY_COOKIE),
        load="browser",
        does="the token from req.cook(sAccessToken); the cookie goes on to the service",
        in_cookie=True,
    ),
    _variant(
        _ENVOY_JWT,
        "envoy_cookie",
        _envoy("envoy_cookie", cookie="sAccessToken"),
        load="browser",
        does="the token by from_cookies; the cookie goes on to the service",
        in_cookie=True,
    ),
    _variant(
        _NGINX,
        "nginx_logged",
        _nginx_logged,
        load="fwd",
        does="real_ip, log_format in JSON with 12 fields, buffered",
        access_log="nginx_logged.access",
    ),
    _variant(
        _HAPROXY,
        "haproxy_logged",
        _haproxy("haproxy_logged", more=_HAPROXY_LOG),
        load="fwd",
        does="set-src, log-format in JSON with 13 fields, each line a write",
        access_log="haproxy_logged.log",
    ),
    _variant(
        _ENVOY_JWT,
        "envoy_logged",
        _envoy("envoy_logged", log="envoy_logged.access"),
        load="fwd",
        does="use_remote_address, json_format with 14 fields, buffered",
        access_log="envoy_logged.access",
    ),
    _variant(
        _CADDY,
        "caddy_logged",
        _caddy("caddy_logged", log="caddy_logged.access"),
        load="fwd",
        does="trusted_proxies, Caddy's own JSON, which has all header fields",
        access_log="caddy_logged.access",
    ),
    _variant(
        _GATEWAY,
        "gateway_logged",
        _gateway("gateway_logged", is_terminated=True),
        load="fwd",
        does="trusted_proxies, access log in JSON with 20 fields, written in batches",
        access_log="gateway_logged.log",
    ),
)

BY_NAME = {rival.name: rival for rival in RIVALS}

_UNBUFFERED = "proxy_buffering off; proxy_request_buffering off;"
NGINX_UNBUFFERED = replace(
    BY_NAME["nginx"],
    name="nginx_unbuffered",
    does="proxy_pass, buffering off in both directions",
    port=PORTS["nginx_unbuffered"],
    command=_proxy_pass("nginx_unbuffered", _UNBUFFERED),
)
NGINX_64K = replace(
    BY_NAME["nginx"],
    name="nginx_64k",
    does="the same with buffers of 64 KiB in place of 4 and 16",
    port=PORTS["nginx_64k"],
    command=_proxy_pass(
        "nginx_64k",
        _UNBUFFERED
        + " proxy_buffer_size 64k; proxy_busy_buffers_size 64k; proxy_buffers 8 64k;"
        " client_body_buffer_size 64k;",
    ),
)
NGINX_SOCKETS = replace(
    BY_NAME["nginx"],
    name="nginx_sockets",
    does="proxy_pass with Upgrade; verifies nothing",
    port=PORTS["nginx_sockets"],
    command=_proxy_pass(
        "nginx_sockets",
        'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
        " proxy_read_timeout 300s;",
    ),
)


def gateway_with(workers: int) -> Rival:
    """Return the gateway with several workers."""
    return replace(
        BY_NAME["gateway"],
        name=f"gateway, {workers} worker{'s' if workers > 1 else ''}",
        environ={"GATEWAY_WORKERS": str(workers)},
    )
