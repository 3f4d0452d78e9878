"""Who is measured: how each is configured, and what it does for a request.

Everyone gets the same work where it can do it. What it can't do is said in `does`.
What differs from a part to the next (bodies, WebSockets, workers) is a variant with a
port of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import builds

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
        )
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a rival's configuration may refer to."""

    folder: Path
    tools: Path
    """The environment that holds the rivals which aren't the system's."""
    python: Path
    """The `bin` of the environment that holds the gateway and FastAPI."""
    jwks: Mapping[str, object]
    public_key: Path
    """PEM."""
    user: str
    token: str
    refused: Mapping[str, str]
    """Tokens that whoever verifies must answer with 401; the keys say why."""
    upstream: int = PORTS["upstream"]
    """The port that everyone forwards to."""

    def tool(self, name: str) -> str | None:
        """Return the path of an installed program, None when it is missing."""
        if (own := self.python / name).exists():
            return str(own)
        return builds.find(name, self.tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """One way to put a proxy before the upstream."""

    name: str
    does: str
    program: str
    """What must be installed for it."""
    port: int
    command: Callable[[Stage, str], list[str]]
    """Writes the configuration; returns the command line. Given: the program's path."""
    verifies: bool = False
    """It takes the token, checks it and forwards the user id from it."""
    environ: Mapping[str, str] = field(default_factory=dict)


def upstream(stage: Stage, program: str) -> list[str]:
    """Return the command of the upstream: nginx answering 150 bytes of JSON."""
    body = '{"user":"$http_x_user_id","pad":"' + "x" * 80 + '"}'
    return _nginx(
        stage,
        program,
        "upstream",
        f"""server {{
          listen 127.0.0.1:{PORTS["upstream"]} backlog=4096;
          location / {{ default_type application/json; return 200 '{body}'; }}
        }}""",
    )


def _nginx(stage: Stage, program: str, name: str, servers: str) -> list[str]:
    home = stage.folder / name
    home.mkdir(exist_ok=True)
    config = home / "nginx.conf"
    # Started by root, its worker would be somebody who may not write to our folder.
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


def _haproxy(stage: Stage, program: str) -> list[str]:
    config = stage.folder / "haproxy.cfg"
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
  bind 127.0.0.1:{PORTS["haproxy"]}
  http-request set-var(txn.bearer) http_auth_bearer
  acl valid var(txn.bearer),jwt_verify("RS256","{stage.public_key}") 1
  http-request deny deny_status 401 unless valid
  http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int')
  http-request set-var(txn.now) date()
  acl expired var(txn.exp),sub(txn.now) -m int le 0
  http-request deny deny_status 401 if expired
  http-request set-header X-User-Id %[var(txn.bearer),jwt_payload_query('$.sub')]
  http-request del-header Authorization
  default_backend back
backend back
  server one 127.0.0.1:{stage.upstream}
"""
    )
    return [program, "-f", str(config), "-db"]


def _envoy(stage: Stage, program: str) -> list[str]:
    config = {
        "static_resources": {
            "listeners": [
                {
                    "address": _address(PORTS["envoy"]),
                    "filter_chains": [{"filters": [_envoy_http(stage)]}],
                }
            ],
            "clusters": [
                {
                    "name": "up",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "up",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {"endpoint": {"address": _address(stage.upstream)}}
                                ]
                            }
                        ],
                    },
                }
            ],
        }
    }
    path = stage.folder / "envoy.json"
    path.write_text(json.dumps(config))
    return [
        program,
        "-c",
        str(path),
        "--concurrency",
        "1",
        "-l",
        "error",
        "--disable-hot-restart",
    ]


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


_ENVOY = "type.googleapis.com/envoy.extensions.filters"


def _envoy_http(stage: Stage) -> dict[str, object]:
    jwt = {
        "@type": f"{_ENVOY}.http.jwt_authn.v3.JwtAuthentication",
        "providers": {
            "core": {
                "local_jwks": {"inline_string": json.dumps(stage.jwks)},
                "claim_to_headers": [{"header_name": "x-user-id", "claim_name": "sub"}],
                "forward": False,
            }
        },
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "core"}}],
    }
    manager = {
        "@type": f"{_ENVOY}.network.http_connection_manager.v3.HttpConnectionManager",
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
            {
                "name": "router",
                "typed_config": {"@type": f"{_ENVOY}.http.router.v3.Router"},
            },
        ],
    }
    return {"name": "http", "typed_config": manager}


def _caddy(stage: Stage, program: str) -> list[str]:
    config = stage.folder / "Caddyfile"
    config.write_text(
        f"""{{
  admin off
  auto_https off
  persist_config off
}}
http://127.0.0.1:{PORTS["caddy"]} {{
  reverse_proxy 127.0.0.1:{stage.upstream} {{
    header_up X-User-Id bench
  }}
}}
"""
    )
    return [program, "run", "--config", str(config), "--adapter", "caddyfile"]


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
  limits: {{max_body_size: 8589934592, max_connections: 20000}}
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


def _gateway(name: str, cache_size: int) -> Callable[[Stage, str], list[str]]:
    def command(stage: Stage, program: str) -> list[str]:
        config = gateway_config(stage, name, cache_size=cache_size)
        return [program, "serve", "-c", str(config), "--log-format", "none"]

    return command


ONE_WORKER = {"GATEWAY_WORKERS": "1"}
"""For one core. By default there is a worker for each that may be used."""

RIVALS = (
    Rival(
        name="nginx",
        does="proxy_pass; verifies nothing, sets a constant identity field",
        program="nginx",
        port=PORTS["nginx"],
        command=_proxy_pass("nginx"),
    ),
    Rival(
        name="haproxy",
        does="jwt_verify RS256 and expiry on each request, identity field from the"
        " claim; no anti-CSRF, no revocation",
        program="haproxy",
        port=PORTS["haproxy"],
        command=_haproxy,
        verifies=True,
    ),
    Rival(
        name="envoy",
        does="jwt_authn on each request, claim_to_headers; no anti-CSRF, no revocation",
        program="envoy",
        port=PORTS["envoy"],
        command=_envoy,
        verifies=True,
    ),
    Rival(
        name="caddy",
        does="reverse_proxy; verifies nothing, sets a constant identity field",
        program="caddy",
        port=PORTS["caddy"],
        command=_caddy,
        environ={"GOMAXPROCS": "1"},
    ),
    Rival(
        name="auth_request",
        does="nginx auth_request to FastAPI with the SDK's verify_session:"
        " what SuperTokens' users build today",
        program="nginx",
        port=PORTS["auth_request"],
        command=_auth_request,
        verifies=True,
    ),
    Rival(
        name="gateway",
        does="session, anti-CSRF, deny-list, identity fields, credentials stripped",
        program="gateway",
        port=PORTS["gateway"],
        command=_gateway("gateway", 20000),
        environ=ONE_WORKER,
        verifies=True,
    ),
    Rival(
        name="gateway_no_cache",
        does="the same with no verdict remembered: every token is new",
        program="gateway",
        port=PORTS["gateway_no_cache"],
        command=_gateway("gateway_no_cache", 0),
        environ=ONE_WORKER,
        verifies=True,
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
