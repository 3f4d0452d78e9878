"""Five proxies in front of three targets, each with its own best settings for faults.

What they have in common is in `Settings`, and each gets it in its own words: the same
time for a connection and for a try, the same number of tries, the same checks, the same
number of failures before a target is left out, and for how long. All choose the target
with the fewest requests. What a proxy lacks is said where its configuration is made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rig.fault_targets import CHECK
from bench.rig.rivals import ONE_WORKER

_ENVOY = "type.googleapis.com/envoy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every proxy gets."""

    folder: Path
    port: int
    """Where it listens."""
    targets: Sequence[int]
    """Their ports."""
    connect_ms: int = 500
    try_ms: int = 1000
    """From the request to the reply's head, and between two pieces of the reply."""
    retries: int = 2
    """With three targets, each can be tried once."""
    check_s: int = 1
    """From one check to the next, and the time for one."""
    checks: int = 2
    """In a row, until a target is down or up."""
    failures: int = 3
    """Of requests in a row, until a target is left out."""
    eject_s: int = 10


def nginx(settings: Settings, program: str) -> list[str]:
    """Return the command of nginx. Its open-source build has no checks.

    - `proxy_next_upstream`: everything that says that the target is at fault; GET only,
      since `non_idempotent` isn't there.
    - `zone`: several workers would share the targets' states.
    """
    home = settings.folder / "nginx"
    home.mkdir(exist_ok=True)
    user = "user root;" if os.geteuid() == 0 else ""
    servers = " ".join(
        f"server 127.0.0.1:{port} max_fails={settings.failures}"
        f" fail_timeout={settings.eject_s}s;"
        for port in settings.targets
    )
    config = home / "nginx.conf"
    config.write_text(
        f"""{user} worker_processes 1; daemon off;
        pid {home}/pid; error_log {home}/error.log;
        events {{ worker_connections 4096; }}
        http {{
          access_log off; keepalive_requests 1000000;
          client_body_temp_path {home}; proxy_temp_path {home};
          fastcgi_temp_path {home}; uwsgi_temp_path {home}; scgi_temp_path {home};
          upstream up {{ zone up 64k; least_conn; {servers} keepalive 64; }}
          server {{
            listen 127.0.0.1:{settings.port} backlog=4096;
            location / {{
              proxy_http_version 1.1; proxy_set_header Connection "";
              proxy_pass http://up;
              proxy_connect_timeout {settings.connect_ms}ms;
              proxy_read_timeout {settings.try_ms}ms;
              proxy_next_upstream error timeout invalid_header
                http_502 http_503 http_504;
              proxy_next_upstream_tries {settings.retries + 1};
            }}
          }}
        }}"""
    )
    return [program, "-c", str(config), "-p", str(home)]


def haproxy(settings: Settings, program: str) -> list[str]:
    """Return the command of HAProxy.

    - `redispatch 1`: each retry goes to another target, at once.
    - `observe layer7 … mark-down`: requests count as well as checks. A target that is
      marked down comes back by its checks; there is no time for it.
    - `slowstart`: as long as the gateway's, which is fixed.
    """
    config = settings.folder / "haproxy.cfg"
    servers = "\n".join(
        f"  server t{number} 127.0.0.1:{port}"
        for number, port in enumerate(settings.targets)
    )
    config.write_text(
        f"""global
  nbthread 1
  maxconn 4000
  no strict-limits
defaults
  mode http
  timeout connect {settings.connect_ms}ms
  timeout client 60s
  timeout server {settings.try_ms}ms
  timeout check {settings.check_s}s
  http-reuse always
frontend front
  bind 127.0.0.1:{settings.port}
  default_backend back
backend back
  balance leastconn
  option redispatch 1
  retries {settings.retries}
  retry-on conn-failure empty-response junk-response response-timeout 502 503 504
  option httpchk GET {CHECK}
  default-server check inter {settings.check_s}s fall {settings.checks} \
rise {settings.checks} observe layer7 error-limit {settings.failures} \
on-error mark-down slowstart 10s
{servers}
"""
    )
    return [program, "-f", str(config), "-db"]


def caddy(settings: Settings, program: str) -> list[str]:
    """Return the command of Caddy.

    - `lb_retry_match`: by default, Caddy repeats a GET whose connection failed, but not
      one with a bad status. All requests here are GETs.
    - `lb_try_interval`: the pause before a retry, 250 ms by default.
    - `unhealthy_status`: failures besides those of connections. `unhealthy_latency`
      isn't set: a pause of the machine would take all targets out for `fail_duration`.
    """
    config = settings.folder / "Caddyfile"
    targets = " ".join(f"127.0.0.1:{port}" for port in settings.targets)
    config.write_text(
        f"""{{
  admin off
  auto_https off
  persist_config off
}}
http://:{settings.port} {{
  bind 127.0.0.1
  reverse_proxy {targets} {{
    lb_policy least_conn
    lb_retries {settings.retries}
    lb_try_interval 1ms
    lb_retry_match {{
      expression `{{rp.is_transport_error}} || {{rp.status_code}} in [502, 503, 504]`
    }}
    health_uri {CHECK}
    health_interval {settings.check_s}s
    health_timeout {settings.check_s}s
    health_fails {settings.checks}
    health_passes {settings.checks}
    fail_duration {settings.eject_s}s
    max_fails {settings.failures}
    unhealthy_status 502 503 504
    transport http {{
      dial_timeout {settings.connect_ms}ms
      response_header_timeout {settings.try_ms}ms
      read_timeout {settings.try_ms}ms
    }}
  }}
}}
"""
    )
    return [program, "run", "--config", str(config), "--adapter", "caddyfile"]


def envoy(settings: Settings, program: str) -> list[str]:
    """Return the command of Envoy.

    - `outlier_detection`: every ejection is carried out (the default for gateway
      errors is none), and failures without a reply are counted by themselves.
    - `choice_count`: of two targets, by default, which may be the same one.
    - `previous_hosts`: a retry goes to another target; without it, to any.
    - `retry_back_off`: 25 ms by default, up to ten times as much.
    - `retry_budget`: as the gateway's. By default, three retries at a time.
    """
    config = settings.folder / "envoy.json"
    config.write_text(json.dumps(_envoy(settings)))
    words = ["--concurrency", "1", "-l", "error", "--disable-hot-restart"]
    return [program, "-c", str(config), *words]


def _envoy(settings: Settings) -> dict[str, object]:
    check = {
        "timeout": f"{settings.check_s}s",
        "interval": f"{settings.check_s}s",
        "unhealthy_threshold": settings.checks,
        "healthy_threshold": settings.checks,
        "http_health_check": {"path": CHECK},
    }
    outliers = {
        "consecutive_5xx": settings.failures,
        "consecutive_gateway_failure": settings.failures,
        "enforcing_consecutive_gateway_failure": 100,
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": settings.failures,
        "base_ejection_time": f"{settings.eject_s}s",
        "interval": "1s",
        "max_ejection_percent": 50,
    }
    budget = {"budget_percent": {"value": 20}, "min_retry_concurrency": 100}
    cluster = {
        "name": "up",
        "type": "STATIC",
        "connect_timeout": f"{settings.connect_ms / 1000}s",
        "lb_policy": "LEAST_REQUEST",
        "least_request_lb_config": {"choice_count": 10},
        "health_checks": [check],
        "outlier_detection": outliers,
        "circuit_breakers": {"thresholds": [{"retry_budget": budget}]},
        "load_assignment": {
            "cluster_name": "up",
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": _address(port)}}
                        for port in settings.targets
                    ]
                }
            ],
        },
    }
    retry = {
        "retry_on": "connect-failure,refused-stream,reset,gateway-error",
        "num_retries": settings.retries,
        "per_try_timeout": f"{settings.try_ms / 1000}s",
        "retry_host_predicate": [
            {
                "name": "previous_hosts",
                "typed_config": {
                    "@type": f"{_ENVOY}.extensions.retry.host.previous_hosts.v3"
                    ".PreviousHostsPredicate"
                },
            }
        ],
        "host_selection_retry_max_attempts": 5,
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.01s"},
    }
    route = {"cluster": "up", "retry_policy": retry, "timeout": "5s"}
    manager = {
        "@type": f"{_ENVOY}.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": route}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {
                    "@type": f"{_ENVOY}.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    listener = {
        "address": _address(settings.port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def gateway(settings: Settings, program: str) -> list[str]:
    """Return the command of the gateway.

    - `per_try`, `response`, `idle`: the last try has the same time as the others.
    - `passive` is on by default, with these values.
    """
    config = settings.folder / "gateway.yaml"
    targets = json.dumps([f"http://127.0.0.1:{port}" for port in settings.targets])
    config.write_text(
        f"""version: 1
gateway:
  listen: "127.0.0.1:{settings.port}"
  limits: {{per_client: {{connections: 4000}}}}
supertokens: {{connection_uri: "http://127.0.0.1:9"}}
services:
  up:
    targets: {targets}
    timeouts:
      connect: {settings.connect_ms}ms
      response: {settings.try_ms}ms
      idle: {settings.try_ms}ms
    retry:
      attempts: {settings.retries}
      on: [connect, reset, 502, 503, 504]
      per_try: {settings.try_ms}ms
    health:
      active:
        path: {CHECK}
        interval: {settings.check_s}s
        timeout: {settings.check_s}s
        up: {settings.checks}
        down: {settings.checks}
      passive: {{failures: {settings.failures}, eject: {settings.eject_s}s}}
routes:
  - {{path: /, service: up, protected: false}}
"""
    )
    return [program, "serve", "-c", str(config), "--log-format", "none"]


RIVALS: Mapping[str, Callable[[Settings, str], list[str]]] = {
    "gateway": gateway,
    "nginx": nginx,
    "caddy": caddy,
    "envoy": envoy,
    "haproxy": haproxy,
}
ENVIRON: Mapping[str, str] = {"GOMAXPROCS": "1", **ONE_WORKER}
"""Each has one CPU core."""
