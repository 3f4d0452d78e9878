"""The image and compose.yaml: they agree with the code and with each other.

`make image-test` builds the image and runs it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gateway.cli import main
from gateway.config import GatewayConfig, LimitsConfig
from gateway.config.forms import duration
from gateway.process.stopping import longest_stop_s

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
HARDENED = ("gateway", "demo")
"""The services of compose.yaml that run this image."""


# --- the image ---


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their arguments, lines joined."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [
        (word, " ".join(rest.split()))
        for word, _, rest in (line.partition(" ") for line in lines if line)
    ]


def last(word: str) -> str:
    """Return the arguments of the last instruction *word*."""
    return [rest for name, rest in instructions() if name == word][-1]


def image_environ() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in last("ENV").split())


def options(command: str) -> dict[str, click.Option]:
    """Return a command's options by their environment variables."""
    return {
        param.envvar: param
        for param in main.commands[command].params
        if isinstance(param, click.Option) and isinstance(param.envvar, str)
    }


def test_the_image_runs_as_another_user_than_root() -> None:
    """By number, since Kubernetes refuses names under `runAsNonRoot`."""
    assert last("USER") == "10001:10001"


def test_the_image_installs_only_files_with_known_hashes() -> None:
    """Each `pip install` takes a hashed file, or the gateway's wheel alone."""
    installs = [
        call
        for word, rest in instructions()
        if word == "RUN"
        for call in rest.split("&&")
        if " install " in call and "pip" in call
    ]
    assert len(installs) == 3
    for call in installs:
        has_hashes = "--require-hashes" in call and ".txt" in call
        assert has_hashes or "--no-deps dist/*.whl" in call, call


def test_the_images_commands_exist() -> None:
    """What it runs, and what asks it for its health, with their options."""
    entry = json.loads(last("ENTRYPOINT"))
    command = json.loads(last("CMD"))
    assert (entry, command) == (["gateway"], ["serve"])
    asked = json.loads(last("HEALTHCHECK").partition(" CMD ")[2])
    assert asked[0] == "gateway"
    flags = {flag for param in main.commands[asked[1]].params for flag in param.opts}
    assert set(asked[2:]) <= flags
    assert last("STOPSIGNAL") == "SIGTERM"


def test_the_images_variables_are_read() -> None:
    """Each GATEWAY_ variable is one of an option of `serve`, with a value it takes."""
    known = options("serve")
    environ = image_environ()
    ours = {name: environ[name] for name in environ if name.startswith("GATEWAY_")}
    assert set(ours) <= set(known)
    assert ours["GATEWAY_LOG_FORMAT"] == "json"
    ports = {
        ours[name].removeprefix("0.0.0.0:")
        for name in ("GATEWAY_LISTEN", "GATEWAY_PROBES_LISTEN")
    }
    assert ports == set(last("EXPOSE").split())
    copied = [rest.split()[-1] for word, rest in instructions() if word == "COPY"]
    assert ours["GATEWAY_CONFIG"] in copied


def test_what_the_image_is_made_of_is_sent_to_the_builder() -> None:
    """.dockerignore lets through what COPY takes, and nothing else."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    taken = {
        source.removeprefix("./")
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert sent == taken
    assert "*" in lines
    for path in sent:
        assert (ROOT / path).exists(), path


# --- hashed dependencies ---


def pins(name: str) -> Iterator[tuple[Requirement, int]]:
    """Yield each pinned requirement of a file, and the number of its hashes."""
    text = (ROOT / "deploy" / name).read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement, *hashes = line.split("--hash=sha256:")
            yield Requirement(requirement.strip()), len(hashes)


REDIS = PYPROJECT["project"]["optional-dependencies"]["redis"]
"""The extra that the image has."""


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("requirements.txt", [*PYPROJECT["project"]["dependencies"], *REDIS]),
        ("requirements-build.txt", PYPROJECT["build-system"]["requires"]),
    ],
)
def test_the_hashed_versions_are_those_that_pyproject_allows(
    file: str, wanted: list[str]
) -> None:
    """Each dependency has one version, with hashes. If not, run `make lock`."""
    found: dict[str, str] = {}
    for requirement, hashes in pins(file):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        assert hashes, requirement
        found[canonicalize_name(requirement.name)] = specifier.version
    for text in wanted:
        requirement = Requirement(text)
        version = found.get(canonicalize_name(requirement.name))
        assert version is not None, f"{text}: run make lock"
        assert requirement.specifier.contains(version), f"{text}: run make lock"


# --- compose.yaml ---


def compose() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load(
        (ROOT / "compose.yaml").read_text("utf-8")
    )["services"]
    return services


def test_compose_waits_longer_than_a_stop_takes() -> None:
    """Docker kills what hasn't ended after `stop_grace_period`."""
    grace = duration(compose()["gateway"]["stop_grace_period"])
    assert isinstance(grace, float)
    assert grace > longest_stop_s(GatewayConfig())


def test_compose_allows_as_many_descriptors_as_clients_take() -> None:
    """A worker needs one for each client, and more for services and files."""
    limit = compose()["gateway"]["ulimits"]["nofile"]
    assert limit["soft"] == limit["hard"] > 2 * LimitsConfig().max_connections


@pytest.mark.parametrize("name", list(compose()))
def test_compose_bounds_every_service(name: str) -> None:
    """Memory, processes and logs; it restarts, and no program gains rights."""
    service = compose()[name]
    assert service["mem_limit"]
    assert service["pids_limit"] > 0
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", HARDENED)
def test_compose_takes_rights_from_this_image(name: str) -> None:
    """Its root is read-only, and it has no capabilities."""
    service = compose()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]


def test_compose_asks_every_service_for_its_health() -> None:
    """The gateway by the image's HEALTHCHECK, the others by one of their own."""
    for name, service in compose().items():
        assert ("healthcheck" in service) == (name != "gateway"), name
    assert last("HEALTHCHECK")


def test_compose_publishes_the_gateway_only_and_on_loopback() -> None:
    """Services trust identity fields, and probes aren't for the public."""
    published = {
        name: one["ports"] for name, one in compose().items() if "ports" in one
    }
    assert published == {"gateway": ["127.0.0.1:${GATEWAY_PORT:-8000}:8000"]}
