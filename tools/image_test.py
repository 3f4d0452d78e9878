"""Build the image and run it: health, requests, rights, SIGTERM (`make image-test`).

It needs root and some of Debian's packages, and says which; without them it prints why
and succeeds. The core and the demo services run on this machine, outside the container.

What it can't show: what a container engine does (its seccomp profile, limits, port
publishing and health checks), and the official base image, which no registry provides
here. The base is Debian trixie with Debian's own Python 3.13.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gateway import __version__
from gateway.config import GatewayConfig
from gateway.process.plan_pace import SupervisorPace
from tools import container
from tools.container import ROOT, STORE, Container, Image, Network

IMAGE = "localhost/supertokens-gateway"
PATIENCE_S = 60.0
"""For what takes a moment on an idle machine."""
OWN_FILE = """\
version: 1
supertokens: {{connection_uri: "{core}", api_key: "${{SUPERTOKENS_API_KEY}}"}}
services: {{whoami: {{targets: ["{whoami}"]}}}}
routes:
  - {{path: /mine, service: whoami, protected: false, rewrite: {{strip_prefix: /mine}}}}
"""
"""An operator's own file: it has no `gateway` section."""


class Failed(Exception):
    """The image isn't what it should be. The text says how."""


def main() -> int:
    """Run all steps; return the exit code."""
    if (reason := container.missing()) is not None:
        print(f"skipped: {reason}")
        return 0
    began = time.monotonic()
    try:
        build()
        with container.mounted(IMAGE) as image, container.network() as network:
            check_config(image)
            with neighbours(network) as environ:
                check_sample_file(image, network, environ)
                check_own_file(image, network, environ)
    except Failed as error:
        print(f"FAILED: {error}")
        return 1
    print(f"all passed in {time.monotonic() - began:.0f} s")
    return 0


def expect(what: str, *, that: object) -> None:
    """Print *what* if it holds.

    Raises:
        Failed: it doesn't.
    """
    if not that:
        raise Failed(what)
    print(f"ok: {what}", flush=True)


def until(what: str, holds: Callable[[], object]) -> None:
    """Wait until *holds*.

    Raises:
        Failed: it took longer than `PATIENCE_S`.
    """
    end = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {PATIENCE_S:.0f} s")
        time.sleep(0.05)


# --- the image ---


def build() -> None:
    """Build the Dockerfile as it is, on a base with the name that it asks for."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    named = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", text, re.MULTILINE)
    assert named is not None, "the Dockerfile's first argument"
    base = named[1]
    STORE.mkdir(parents=True, exist_ok=True)
    if not container.has(base):
        began = time.monotonic()
        print(f"making a base system in {STORE} …", flush=True)
        container.make_base(base)
        print(f"base system made in {time.monotonic() - began:.0f} s")
    began = time.monotonic()
    print("building the image …", flush=True)
    with (STORE / "build.log").open("w") as log:
        container.buildah(
            *("build", "--pull-never", "--format=docker", f"--tag={IMAGE}"),
            *(f"--build-arg=VERSION={__version__}", ROOT),
            log=log,
        )
    print(f"built in {time.monotonic() - began:.0f} s")


def check_config(image: Image) -> None:
    """Check what the image says about itself, and what it must not have."""
    config = image.config
    labels = config["Labels"]
    expect("its user isn't root", that=config["User"] == "10001:10001")
    expect("SIGTERM stops it", that=config["StopSignal"] == "SIGTERM")
    expect(
        "an engine asks `gateway health --ready`",
        that=config["Healthcheck"]["Test"] == ["CMD", "gateway", "health", "--ready"],
    )
    expect(
        f"its labels say version {__version__} and the licence",
        that=labels["org.opencontainers.image.version"] == __version__
        and labels["org.opencontainers.image.licenses"] == "Apache-2.0",
    )
    site = image.root / "opt/gateway/lib/python3.13/site-packages"
    expect("its environment has the gateway", that=(site / "gateway").is_dir())
    expect("and no pip", that=not (site / "pip").exists())
    expect("no sources are left", that=not (image.root / "src").exists())
    is_open = ("(", "-uid", "10001", "-o", "-perm", "-o=w", ")")
    is_file = ("(", "-type", "f", "-o", "-type", "d", ")", "-not", "-perm", "-1000")
    owned = subprocess.run(  # noqa: S603 - the Makefile's command
        ["find", image.root, "-xdev", *is_open, *is_file],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    expect("its user can write no file of it", that=not owned.stdout)


# --- what it talks to ---


@contextlib.contextmanager
def neighbours(network: Network) -> Iterator[dict[str, str]]:
    """Yield the environment of a gateway beside a core and the demo services."""
    key = secrets.token_hex(16)
    gateway = str(Path(sys.executable).with_name("gateway"))
    host = (f"--host={network.host}", "--unsafe-bind")
    programs = (
        [gateway, "core", "--database=:memory:", *host],
        [sys.executable, "-m", "gateway.dev.demo", *host],
    )
    running = [
        subprocess.Popen(  # noqa: S603 - the Makefile's command
            command,
            env={**os.environ, "CORE_API_KEY": key},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in programs
    ]
    ports = {"SUPERTOKENS_URI": 3567, "CATALOG_URL": 9001, "ORDERS_URL": 9002}
    ports |= {"WHOAMI_URL": 9003, "PAGE_URL": 9004}
    try:
        yield {
            "SUPERTOKENS_API_KEY": key,
            "GATEWAY_ORIGIN": f"http://{network.inside}:8000",
            **{name: f"http://{network.host}:{ports[name]}" for name in ports},
        }
    finally:
        for program in running:
            program.terminate()
            program.wait()


# --- the container ---


def ask(
    network: Network,
    path: str,
    port: int = 8000,
    *,
    body: str | None = None,
    fields: dict[str, str] | None = None,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Return status, header fields and body of an answer, from outside."""
    connection = http.client.HTTPConnection(network.inside, port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        method = "GET" if body is None else "POST"
        connection.request(method, path, body, fields or {})
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()


def is_status(network: Network, path: str, port: int, status: int) -> bool:
    """Return whether the answer has *status*; False also if there is none."""
    try:
        return ask(network, path, port)[0] == status
    except OSError:
        return False


@contextlib.contextmanager
def running(
    image: Image,
    network: Network,
    environ: dict[str, str],
    file: Path | None = None,
) -> Iterator[Container]:
    """Yield a container that is ready.

    Raises:
        Failed: it didn't become ready; the text has what it said.
    """
    with tempfile.TemporaryDirectory() as output:
        gateway = Container(image, network, Path(output), environ=environ, file=file)
        try:
            until(
                "it gets ready",
                lambda: gateway.has_ended or is_status(network, "/readyz", 9902, 200),
            )
            if gateway.has_ended:
                raise Failed(f"it ended at once: {gateway.err.read_text()}")
            yield gateway
        finally:
            gateway.kill()


def check_sample_file(image: Image, network: Network, environ: dict[str, str]) -> None:
    """Check rights, health, requests and the end, with the image's own route table."""
    began = time.monotonic()
    with running(image, network, environ) as gateway:
        print(f"ready in {time.monotonic() - began:.1f} s")
        check_rights(gateway)
        check_health(gateway, network)
        token = check_requests(network)
        check_end(gateway, network, token)
        lines = gateway.out.read_text().splitlines()
        statuses = [json.loads(line)["status"] for line in lines]
        expect("its log is JSON, a line a request", that={200, 401} <= {*statuses})


def check_rights(gateway: Container) -> None:
    """Check the user, the capabilities and the root of all its processes."""
    for pid in gateway.processes():
        text = Path(f"/proc/{pid}/status").read_text()
        status = dict(
            line.split(":\t", 1) for line in text.splitlines() if ":\t" in line
        )
        if not (
            {*status["Uid"].split(), *status["Gid"].split()} == {"10001"}
            and int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
            and status["NoNewPrivs"] == "1"
        ):
            raise Failed(f"process {pid} has rights: {text}")
    count = len(gateway.processes())
    expect(f"{count} processes of user 10001, without capabilities", that=count > 2)
    table = Path(f"/proc/{gateway.pid}/mountinfo").read_text().splitlines()
    root = next(line.split() for line in table if line.split()[4] == "/")
    expect("its root is mounted read-only", that="ro" in root[5].split(","))
    # Everyone may write to both, if the file system can be written at all.
    written = gateway.inside("touch", "/tmp/x")  # noqa: S108 - inside
    expect("it can write /tmp", that=written.returncode == 0)
    refused = gateway.inside("touch", "/var/tmp/x").stderr  # noqa: S108 - inside
    expect("and not /var/tmp", that="Read-only file system" in refused)


def check_health(gateway: Container, network: Network) -> None:
    """Check the probes from outside, and the image's health check inside."""
    for path in ("/livez", "/readyz", "/startupz", "/metrics"):
        expect(f"{path} is 200", that=is_status(network, path, 9902, 200))
    done = gateway.inside("gateway", "health", "--ready")
    expect(
        f"`gateway health --ready` says {done.stdout.strip()}",
        that=(done.returncode, done.stdout) == (0, "ok\n"),
    )


def check_requests(network: Network) -> str:
    """Check a public route and a protected one; return the token of a new session."""
    expect("a public route is served", that=ask(network, "/catalog")[0] == 200)
    expect("a protected one is refused", that=ask(network, "/whoami")[0] == 401)
    form = [
        {"id": "email", "value": "ann@example.com"},
        {"id": "password", "value": "correct-horse-1"},
    ]
    status, headers, body = ask(
        network,
        "/auth/signup",
        body=json.dumps({"formFields": form}),
        fields={"st-auth-mode": "header", "Content-Type": "application/json"},
    )
    user = json.loads(body)["user"]["id"] if status == 200 else None
    expect("a user signs up through /auth/signup", that=user)
    token = str(headers["st-access-token"])
    forged = {"Authorization": f"Bearer {token}", "X-User-Id": "somebody-else"}
    _, _, body = ask(network, "/whoami", fields=forged)
    expect("the service gets this user", that=json.loads(body)["user_id"] == user)
    return token


def check_end(gateway: Container, network: Network, token: str) -> None:
    """Check that SIGTERM lets a reply in progress end, and ends the gateway in time."""
    connection = http.client.HTTPConnection(network.inside, 8000, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        path = "/whoami/events?count=20&interval_ms=100"
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        reply = connection.getresponse()
        first = reply.readline()
        began = time.monotonic()
        os.kill(gateway.pid, signal.SIGTERM)
        rest = reply.read()
    expect(
        "a reply in progress at SIGTERM is sent to its end",
        that=first == b"id: 1\n" and b"tick 20 of 20" in rest,
    )
    most = GatewayConfig().drain_timeout + SupervisorPace().drain_extra_s
    code = gateway.wait(most)
    took = time.monotonic() - began
    expect(f"it exits with 0, {took:.1f} s after SIGTERM", that=code == 0)


def check_own_file(image: Image, network: Network, environ: dict[str, str]) -> None:
    """Check that a file without a `gateway` section is reachable from outside."""
    text = OWN_FILE.format(
        core=environ["SUPERTOKENS_URI"], whoami=environ["WHOAMI_URL"]
    )
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        Path(file.name).chmod(0o644)
        with running(image, network, environ, Path(file.name)) as gateway:
            expect(
                "an operator's own file is served to other machines",
                that=is_status(network, "/mine", 8000, 200),
            )
            done = gateway.inside("gateway", "check")
            expect("`gateway check` finds that file", that=done.returncode == 0)


if __name__ == "__main__":
    sys.exit(main())
