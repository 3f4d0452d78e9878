"""The proxies that accept connections with TLS: the same key and certificate for all.

Each listens twice, on `Rival.port` without TLS and on `tls_port` with it, so that both
are measured in one process. The key is of P-256, the usual kind today. TLS 1.2 and 1.3
are allowed. Sessions are resumed by none of the clients here.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.rig.rivals import ONE_WORKER, PORTS, Rival, Stage, gateway_config

_SHIFT = 200


def tls_port(rival: Rival) -> int:
    """Return where *rival* accepts TLS."""
    return rival.port + _SHIFT


def certificate(folder: Path) -> tuple[Path, Path]:
    """Return a certificate for 127.0.0.1 and its key, as files that are made once."""
    cert, key = folder / "tls.crt", folder / "tls.key"
    if not cert.exists():
        renew(cert, key)
    return cert, key


def renew(cert: Path, key: Path) -> int:
    """Write a new certificate and its key, each file at once; return its number."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(IPv4Address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(private, hashes.SHA256())
    )
    secret = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for path, data in (
        (key, secret),
        (cert, made.public_bytes(serialization.Encoding.PEM)),
    ):
        new = path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_bytes(data)
        new.replace(path)
    return made.serial_number


def _nginx(stage: Stage, program: str) -> list[str]:
    cert, key = certificate(stage.folder)
    home = stage.folder / "nginx_tls"
    home.mkdir(exist_ok=True)
    port = PORTS["nginx"]
    user = "user root;" if os.geteuid() == 0 else ""
    config = home / "nginx.conf"
    config.write_text(
        f"""{user} worker_processes 1; daemon off;
        pid {home}/pid; error_log {home}/error.log;
        worker_rlimit_nofile 65535; events {{ worker_connections 16384; }}
        http {{
          access_log off; keepalive_requests 1000000000;
          client_body_temp_path {home}; proxy_temp_path {home};
          fastcgi_temp_path {home}; uwsgi_temp_path {home}; scgi_temp_path {home};
          ssl_certificate {cert}; ssl_certificate_key {key};
          ssl_protocols TLSv1.2 TLSv1.3;
          upstream up {{
            server 127.0.0.1:{stage.upstream};
            keepalive 1024; keepalive_requests 1000000000;
          }}
          server {{
            listen 127.0.0.1:{port} backlog=4096;
            listen 127.0.0.1:{port + _SHIFT} ssl backlog=4096;
            location / {{
              proxy_http_version 1.1; proxy_set_header Connection "";
              proxy_set_header X-User-Id bench; proxy_pass http://up;
            }}
          }}
        }}"""
    )
    return [program, "-c", str(config), "-p", str(home)]


def _haproxy(stage: Stage, program: str) -> list[str]:
    cert, key = certificate(stage.folder)
    both = stage.folder / "tls.pem"
    both.touch(mode=0o600)
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    port = PORTS["haproxy"]
    config = stage.folder / "haproxy_tls.cfg"
    config.write_text(
        f"""global
  nbthread 1
  maxconn 12000
  no strict-limits
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend front
  bind 127.0.0.1:{port}
  bind 127.0.0.1:{port + _SHIFT} ssl crt {both}
  http-request set-header X-User-Id bench
  default_backend back
backend back
  server one 127.0.0.1:{stage.upstream}
"""
    )
    return [program, "-f", str(config), "-db"]


def _caddy(stage: Stage, program: str) -> list[str]:
    cert, key = certificate(stage.folder)
    port = PORTS["caddy"]
    config = stage.folder / "tls.Caddyfile"
    config.write_text(
        f"""{{
  admin off
  auto_https off
  persist_config off
  servers {{
    protocols h1
  }}
}}
http://127.0.0.1:{port} {{
  reverse_proxy 127.0.0.1:{stage.upstream} {{
    header_up X-User-Id bench
  }}
}}
https://127.0.0.1:{port + _SHIFT} {{
  tls {cert} {key}
  reverse_proxy 127.0.0.1:{stage.upstream} {{
    header_up X-User-Id bench
  }}
}}
"""
    )
    return [program, "run", "--config", str(config), "--adapter", "caddyfile"]


def _gateway(stage: Stage, program: str) -> list[str]:
    cert, key = certificate(stage.folder)
    config = gateway_config(stage, "gateway", cache_size=20000)
    port = PORTS["gateway"]
    address = f'"127.0.0.1:{port}"'
    tls = f'{{certificates: [{{cert: "{cert}", key: "{key}"}}]}}'
    more = f'{{address: "127.0.0.1:{port + _SHIFT}", tls: {tls}}}'
    text = config.read_text()
    assert text.count(address) == 1, "the configuration has its address once"
    config.write_text(text.replace(address, f"[{address}, {more}]"))
    return [program, "serve", "-c", str(config), "--log-format", "none"]


def _rival(
    name: str, command: Callable[[Stage, str], list[str]], *, does: str
) -> Rival:
    return Rival(
        name=name,
        does=does,
        program=name,
        port=PORTS[name],
        command=command,
        verifies=name == "gateway",
        environ={"GOMAXPROCS": "1", **ONE_WORKER},
    )


RIVALS = (
    _rival("nginx", _nginx, does="verifies nothing"),
    _rival("haproxy", _haproxy, does="verifies nothing"),
    _rival("caddy", _caddy, does="verifies nothing"),
    _rival("gateway", _gateway, does="verifies the session"),
)
