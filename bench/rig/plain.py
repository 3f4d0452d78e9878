"""The proxies in front of one upstream, without sessions, as their users start them."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.rig import builds
from bench.rig.innocent import free_port
from bench.rig.processes import PROXY_CORE, running
from bench.rig.rivals import ONE_WORKER, envoy_config
from bench.rig.stage import TOOLS

NAMES = ("gateway", "nginx", "haproxy", "caddy", "envoy")

_GATEWAY = str(Path(sys.executable).with_name("gateway"))
_GATEWAY_CONFIG = """
version: 1
gateway: {listen: "127.0.0.1:%(port)d"}
supertokens: {connection_uri: "http://127.0.0.1:9"}
routes:
  - {path: /public, upstream: "http://127.0.0.1:%(upstream)d", protected: false,
      websocket: {allowed_origins: ["http://a"]}}
"""
"""The route is public, so that no core is needed."""
_NGINX_CONFIG = """
%(user)s worker_processes 1; daemon off; pid %(folder)s/pid;
error_log %(folder)s/error.log;
events { worker_connections 4096; }
http {
  access_log %(folder)s/access.log; keepalive_requests 1000000000;
  client_body_temp_path %(folder)s; proxy_temp_path %(folder)s;
  fastcgi_temp_path %(folder)s; uwsgi_temp_path %(folder)s; scgi_temp_path %(folder)s;
  upstream up { server 127.0.0.1:%(upstream)d; keepalive 64; }
  map $http_upgrade $hop { default ""; websocket "Upgrade"; }
  server {
    listen 127.0.0.1:%(port)d; client_max_body_size 0;
    location / { return 404; }
    location /public {
      proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $hop; proxy_request_buffering off;
      proxy_pass http://up;
    }
  }
}
"""
_HAPROXY_CONFIG = """global
  nbthread 1
  no strict-limits
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend front
  bind 127.0.0.1:%(port)d
  http-request return status 404 unless { path_beg /public }
  default_backend back
backend back
  server one 127.0.0.1:%(upstream)d
"""
_CADDY_CONFIG = """{
  admin off
  auto_https off
  persist_config off
}
http://127.0.0.1:%(port)d {
  handle /public* {
    reverse_proxy 127.0.0.1:%(upstream)d
  }
  respond 404
}
"""
_ENVOY = "type.googleapis.com/envoy.extensions.filters"


def _envoy_config(values: Mapping[str, object]) -> str:
    manager = {
        "@type": f"{_ENVOY}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/public"}, "route": {"cluster": "up"}}
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{_ENVOY}.http.router.v3.Router"},
            }
        ],
    }
    return json.dumps(envoy_config(values["port"], values["upstream"], manager))


@contextlib.contextmanager
def started(name: str, upstream: int) -> Iterator[int | None]:
    """Run a proxy in front of *upstream* during the block; yield its port.

    Yields None if it isn't installed.

    Raises:
        DidNotStart: it ended, or didn't listen in time.
    """
    with tempfile.TemporaryDirectory() as made:
        folder, port = Path(made), free_port()
        words = command(name, folder, port, upstream)
        if words is None:
            yield None
            return
        with running(
            words,
            core=PROXY_CORE,
            port=port,
            log=folder / "log",
            environ=dict(ONE_WORKER),
        ):
            yield port


def command(name: str, folder: Path, port: int, upstream: int) -> list[str] | None:
    """Return the command that starts a proxy, None if it isn't installed.

    It listens on *port* and forwards what is below /public to *upstream*, both on
    127.0.0.1. It has one worker, or one thread. Its configuration is in *folder*.
    """
    path = folder / f"{name}.{'json' if name == 'envoy' else 'conf'}"
    user = "user root;" if os.geteuid() == 0 else ""
    values = {"port": port, "upstream": upstream, "folder": folder, "user": user}
    if name == "gateway":
        path.write_text(_GATEWAY_CONFIG % values)
        return [_GATEWAY, "serve", "-c", str(path)]
    program = builds.find(name, TOOLS)
    if program is None:
        return None
    match name:
        case "nginx":
            path.write_text(_NGINX_CONFIG % values)
            return [program, "-c", str(path), "-p", str(folder)]
        case "haproxy":
            path.write_text(_HAPROXY_CONFIG % values)
            return [program, "-f", str(path), "-db"]
        case "caddy":
            path.write_text(_CADDY_CONFIG % values)
            return [
                *(program, "run", "--config", str(path)),
                *("--adapter", "caddyfile"),
            ]
        case _:
            path.write_text(_envoy_config(values))
            return [
                *(program, "--concurrency", "1", "-l", "error"),
                *("--disable-hot-restart", "-c", str(path)),
            ]
