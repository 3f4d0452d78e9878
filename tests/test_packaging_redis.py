"""Redis in the chart, in the kustomize components and in compose.yaml.

All three have the same Redis: with the rights of docs/replicas.md, and out of reach for
others than the gateway. Those that start one start it in these tests, too.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # it has no types
import pytest
import yaml
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError
from redis_server import needs_redis, redis_running
from test_packaging_kubernetes import (
    ENVIRON,
    VERSIONS,
    Manifest,
    container,
    helm,
    is_part,
    only,
    rendered,
    settings_of,
)

from gateway.config.stores import store_address
from gateway.settings import load

ROOT = Path(__file__).parents[1]
KUSTOMIZE = ROOT / "deploy" / "kustomize"
PASSWORD = "0123456789abcdef"
URL = "redis://redis:6379/0"
REDIS_NAME = "supertokens-gateway-redis"
GATEWAY = {"app.kubernetes.io/name": "supertokens-gateway"}
EGRESS = "networkPolicy.egress.enabled=true"


def kustomized(folder: Path, *components: str) -> list[Manifest]:
    """Return what kustomize makes of the base with some components."""
    if (program := shutil.which("kubectl")) is None:
        pytest.skip("kubectl isn't installed")
    overlay = {
        "resources": [os.path.relpath(KUSTOMIZE / "base", folder)],
        "components": [
            os.path.relpath(KUSTOMIZE / "components" / name, folder)
            for name in components
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay), "utf-8")
    done = subprocess.run(
        [program, "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one is not None]


def component(*names: str) -> list[Manifest]:
    """Return the resources of components, without kustomize."""
    return [
        manifest
        for name in names
        for file in yaml.safe_load(
            (KUSTOMIZE / "components" / name / "kustomization.yaml").read_text("utf-8")
        )["resources"]
        for manifest in yaml.safe_load_all(
            (KUSTOMIZE / "components" / name / file).read_text("utf-8")
        )
    ]


def environ(one: Manifest) -> dict[str, Any]:
    return {each["name"]: each for each in one["env"]}


def documented_rights() -> list[str]:
    """Return the words of the user, from those about keys, in docs/replicas.md."""
    page = (ROOT / "docs" / "replicas.md").read_text("utf-8")
    words = page.partition("ACL SETUSER")[2].partition("```")[0].split()
    return words[words.index("resetkeys") :]


def compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load(
        (ROOT / "compose.yaml").read_text("utf-8")
    )["services"]
    return services


def of_kustomize(port: int) -> tuple[list[str], list[str]]:
    """Return the command of Redis and that of its probes, for *port* of loopback."""
    (one,) = only(component("redis"), "Deployment")["spec"]["template"]["spec"][
        "containers"
    ]
    words = [*one["command"], *one["args"]]
    command = [word.replace("$(REDIS_PASSWORD)", PASSWORD) for word in words]
    (probe,) = {tuple(one[f"{n}Probe"]["exec"]["command"]) for n in PROBES}
    return (
        [*command, "--bind", "127.0.0.1", "--port", str(port)],
        [word.replace("redis-cli", f"redis-cli -p {port}") for word in probe],
    )


PROBES = "startup", "readiness", "liveness"


def of_compose(port: int) -> tuple[list[str], list[str]]:
    """As `of_kustomize`."""
    one = compose()["redis"]
    (text,) = one["command"]
    kind, probe = one["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    text = f"{text} --bind 127.0.0.1 --port {port}".replace("$$", "$")
    probe = probe.replace("$$", "$").replace("redis-cli", f"redis-cli -p {port}")
    return [*one["entrypoint"], text], ["sh", "-c", probe]


@needs_redis
@pytest.mark.parametrize("commands", [of_kustomize, of_compose])
async def test_redis_starts_with_one_user(commands: Any, tmp_path: Path) -> None:
    """It has the documented rights; nobody comes in without its password."""
    async with redis_running(tmp_path) as free:
        port = free.port
    command, probe = commands(port)
    with_password = os.environ | {"REDIS_PASSWORD": PASSWORD}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, env=with_password, stdout=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(30):
            while True:
                probing = await asyncio.create_subprocess_exec(
                    *probe, env=with_password, stderr=subprocess.DEVNULL
                )
                if await probing.wait() == 0:
                    break
        async with Redis(port=port, username="gateway", password=PASSWORD) as client:
            assert await client.ping()
            await client.xadd("supertokens-gateway:denials:a", {"v": "1"})
            for refused in (
                client.keys("*"),
                client.flushall(),
                client.xadd("others", {"v": "1"}),
                client.acl_list(),
            ):
                with pytest.raises(NoPermissionError):
                    await refused
        for user, password in ((None, None), ("gateway", "x")):
            async with Redis(port=port, username=user, password=password) as client:
                with pytest.raises(AuthenticationError):
                    await client.ping()
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("commands", [of_kustomize, of_compose])
def test_the_rights_are_the_documented_ones(commands: Any) -> None:
    """Those of docs/replicas.md, which are held to be enough by its own test."""
    command, _ = commands(1)
    words = [word.strip("'") for word in " ".join(command).split()]
    rights = documented_rights()
    at = words.index("resetkeys")
    assert words[at : at + len(rights)] == rights
    assert words[at + len(rights)] == "--bind"


def test_compose_needs_a_password() -> None:
    """An empty one would let in whoever reaches the port."""
    command, _ = of_compose(1)
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "REDIS_PASSWORD": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "set it in .env" in done.stderr


def test_compose_starts_redis_on_request(tmp_path: Path) -> None:
    """The gateway waits for it then, and finds it by the variable of the docs."""
    services = compose()
    redis, gateway = services["redis"], services["gateway"]
    assert redis["profiles"] == ["redis"]
    assert gateway["depends_on"]["redis"]["required"] is False
    assert redis["networks"] == ["inside"]
    url = gateway["environment"]["REDIS_URL"]
    url = url.replace("${REDIS_PASSWORD:-}", PASSWORD)
    address = store_address(url)
    assert (address.host, address.username) == ("redis", "gateway")
    table = tmp_path / "routes.yaml"
    table.write_text('version: 1\ngateway: {shared: {redis: "${REDIS_URL}"}}\n')
    shared = load(table, {"REDIS_URL": url}).config.gateway.shared
    assert shared is not None
    assert shared.address == address


# --- Kubernetes ---


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_the_components(version: str) -> None:
    """By the schemas of its versions, without unknown fields."""
    for manifest in component("redis", "egress"):
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("redis", [f"redis.url={URL}", "redis.secret.name=r"])
def test_kubernetes_takes_the_chart_with_redis(version: str, redis: str) -> None:
    more = "networkPolicy.egress.more[0].ports[0].port=443"
    for manifest in rendered(redis, EGRESS, more):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_component_is_the_base_with_redis(tmp_path: Path) -> None:
    """Its gateway has the URL of the service, with the password of Redis's secret."""
    manifests = kustomized(tmp_path, "redis", "egress")
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
    deployments = {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]["containers"][0]
        for one in manifests
        if one["kind"] == "Deployment"
    }
    gateway, redis = deployments["supertokens-gateway"], deployments[REDIS_NAME]
    assert gateway["image"].startswith("supertokens-gateway:")
    assert ":" in redis["image"]
    given = environ(gateway)
    assert "GATEWAY_WORKERS" in given
    assert given["REDIS_PASSWORD"] == environ(redis)["REDIS_PASSWORD"]
    # Kubernetes replaces names of variables that come earlier in the list.
    assert [*given].index("REDIS_PASSWORD") < [*given].index("REDIS_URL")
    url = given["REDIS_URL"]["value"].replace("$(REDIS_PASSWORD)", PASSWORD)
    address = store_address(url)
    service = only(manifests, "Service", REDIS_NAME)
    (port,) = service["spec"]["ports"]
    assert (address.host, address.port) == (REDIS_NAME, port["port"])
    assert (address.username, address.password) == ("gateway", PASSWORD)
    (listening,) = redis["ports"]
    assert port["targetPort"] == listening["name"]


def test_only_the_gateway_reaches_redis() -> None:
    """By the labels of its pods; Redis itself reaches nobody, and has no rights."""
    manifests = component("redis")
    deployment = only(manifests, "Deployment")
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert is_part(only(manifests, "Service")["spec"]["selector"], labels)
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    policy = only(manifests, "NetworkPolicy")["spec"]
    assert is_part(policy["podSelector"]["matchLabels"], labels)
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    ((rule,),) = (policy["ingress"],)
    assert rule["from"] == [{"podSelector": {"matchLabels": GATEWAY}}]
    (one,) = template["spec"]["containers"]
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    assert template["spec"]["automountServiceAccountToken"] is False
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    memory = one["resources"]
    assert memory["limits"]["memory"] == memory["requests"]["memory"]


@pytest.mark.parametrize(
    ("setting", "variable"),
    [
        (f"redis.url={URL}", {"name": "REDIS_URL", "value": URL}),
        (
            "redis.secret.name=r",
            {
                "name": "REDIS_URL",
                "valueFrom": {"secretKeyRef": {"name": "r", "key": "url"}},
            },
        ),
    ],
)
def test_the_chart_shares_over_redis(
    setting: str, variable: Manifest, tmp_path: Path
) -> None:
    """The route table names the variable; its other keys of `shared` are kept."""
    manifests = rendered(setting, "config.gateway.shared.on_failure=refuse")
    assert environ(container(manifests))["REDIS_URL"] == variable
    given = ENVIRON | {"REDIS_URL": URL}
    shared = settings_of(manifests, tmp_path, given).config.gateway.shared
    assert shared is not None
    assert (shared.redis, shared.on_failure) == (URL, "refuse")


def test_the_chart_shares_nothing_by_default(tmp_path: Path) -> None:
    manifests = rendered()
    assert "REDIS_URL" not in environ(container(manifests))
    assert settings_of(manifests, tmp_path).config.gateway.shared is None
    policy = only(manifests, "NetworkPolicy", "my-supertokens-gateway")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert "egress" not in policy


def reached(rules: list[Manifest]) -> dict[str, list[object]]:
    """Return the label that each rule's pods have, with the ports that it names."""
    found = {}
    for rule in rules:
        (peer,) = rule["to"]
        ((label, value),) = peer["podSelector"]["matchLabels"].items()
        name = label if value == "true" else value
        found[name] = [port["port"] for port in rule.get("ports", ())]
    return found


@pytest.mark.parametrize("package", ["kustomize", "helm"])
@pytest.mark.parametrize("has_redis", [False, True])
def test_the_gateway_reaches_what_is_listed(package: str, has_redis: bool) -> None:
    """Name servers, the core and the services; Redis if there is one."""
    if package == "helm":
        redis = (f"redis.url={URL}",) if has_redis else ()
        policy = only(
            rendered(EGRESS, *redis), "NetworkPolicy", "my-supertokens-gateway"
        )
    else:
        has_redis = True
        policy = only(component("egress"), "NetworkPolicy")
        assert policy["spec"]["podSelector"]["matchLabels"] == GATEWAY
    assert "Egress" in policy["spec"]["policyTypes"]
    rules = policy["spec"]["egress"]
    assert all(rule["to"] for rule in rules), "an empty list would be everybody"
    redis_pods = "redis" if package == "helm" else REDIS_NAME
    assert reached(rules) == {
        "kube-dns": [53, 53],
        "supertokens-core": [3567],
        "behind-supertokens-gateway": [],
        **({redis_pods: [6379]} if has_redis else {}),
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("redis.url=http://redis", "/redis/url"),
        ("redis.url=redis://gateway:secret@redis:6379", "put the URL into a Secret"),
        (
            f"redis.url={URL},config.gateway.shared.redis={URL}",
            "config.gateway.shared.redis: leave it out",
        ),
        ("networkPolicy.egress.dns=", "/networkPolicy/egress/dns"),
        ("networkPolicy.egress.core.to=", "/networkPolicy/egress/core/to"),
        ("networkPolicy.egress.redis.port=0", "/networkPolicy/egress/redis/port"),
    ],
)
def test_wrong_values_of_redis_are_refused(setting: str, message: str) -> None:
    """With the name of the value; a password isn't repeated."""
    done = helm(setting)
    assert done.returncode != 0
    assert message in done.stderr
    assert "secret@" not in done.stderr
