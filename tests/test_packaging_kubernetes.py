"""The Helm chart and the kustomize base: Kubernetes takes them, and they agree.

Both are held to the same rules. Without Helm, only the base is tested.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # it has no types
import pytest
import yaml

from gateway import __version__
from gateway.process.stopping import longest_stop_s
from gateway.settings import Settings, load

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm"
BASE = ROOT / "deploy" / "kustomize" / "base"
ENVIRON = {"SUPERTOKENS_API_KEY": "0123456789abcdefghij"}
VERSIONS = ("1.25", "1.31", kubernetes_validate.latest_version())
"""Of Kubernetes: the oldest that the chart says it takes, one between, the newest."""
OPERATOR = "monitoring.coreos.com/v1"
"""Kinds of the Prometheus operator, which have no schema here."""
ALL_KINDS = (
    *("podMonitor.enabled=true", "prometheusRule.enabled=true"),
    "dashboard.enabled=true",
)

Manifest = dict[str, Any]


def kustomized() -> list[Manifest]:
    """Return what `kustomize build` makes of the base, but for names with hashes."""
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text("utf-8"))
    found = [
        manifest
        for name in kustomization["resources"]
        for manifest in yaml.safe_load_all((BASE / name).read_text("utf-8"))
    ]
    for one in kustomization["configMapGenerator"]:
        data = {name: (BASE / name).read_text("utf-8") for name in one["files"]}
        metadata = {"name": one["name"]}
        found.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": metadata,
                "data": data,
            }
        )
    return found


def helm(*settings: str) -> subprocess.CompletedProcess[str]:
    """Run `helm template` with values for `--set`."""
    if (program := shutil.which("helm")) is None:
        pytest.skip("helm isn't installed: go install helm.sh/helm/v3/cmd/helm@latest")
    sets = [part for each in settings for part in ("--set", each)]
    return subprocess.run(
        [program, "template", "my", CHART, "--kube-version=1.31", *sets],
        capture_output=True,
        text=True,
        check=False,
    )


def rendered(*settings: str) -> list[Manifest]:
    done = helm(*settings)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one is not None]


@pytest.fixture(params=["kustomize", "helm"])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return kustomized() if request.param == "kustomize" else rendered(*ALL_KINDS)


def only(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """Return the manifest of *kind*; *name* is its name, or how that begins (`x-`)."""
    named = {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}
    (found,) = (
        each
        for each in named
        if name in ("", each) or (name.endswith("-") and each.startswith(name))
    )
    return named[found]


def pod(manifests: list[Manifest]) -> Manifest:
    spec: Manifest = only(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(manifests: list[Manifest]) -> Manifest:
    (found,) = pod(manifests)["containers"]
    assert isinstance(found, dict)
    return found


def settings_of(
    manifests: list[Manifest], folder: Path, environ: Mapping[str, str] = ENVIRON
) -> Settings:
    """Return the settings in the route table that a pod gets."""
    volume = next(one for one in pod(manifests)["volumes"] if one["name"] == "routes")
    table = only(manifests, "ConfigMap", volume["configMap"]["name"])
    file = folder / "routes.yaml"
    file.write_text(table["data"]["routes.yaml"], "utf-8")
    return load(file, environ)


def is_part(labels: Mapping[str, str], whole: Mapping[str, str]) -> bool:
    return labels.items() <= whole.items()


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_manifest(
    manifests: list[Manifest], version: str
) -> None:
    """By the schemas of its versions, without unknown fields."""
    for manifest in manifests:
        if manifest["apiVersion"] != OPERATOR:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_a_pod_has_no_rights(manifests: list[Manifest]) -> None:
    """No root, no writable root file system, no capability, no token of the cluster."""
    spec, one = pod(manifests), container(manifests)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert only(manifests, "ServiceAccount")["automountServiceAccountToken"] is False
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert one["resources"]["limits"]["memory"]


def test_a_pod_may_stop_as_long_as_it_needs(
    manifests: list[Manifest], tmp_path: Path
) -> None:
    """The kubelet waits longer than a stop takes, during which clients still come."""
    gateway = settings_of(manifests, tmp_path).config.gateway
    assert gateway.shutdown_delay
    grace = pod(manifests)["terminationGracePeriodSeconds"]
    assert grace > longest_stop_s(gateway)


def test_the_route_table_can_be_served(
    manifests: list[Manifest], tmp_path: Path
) -> None:
    """Without a warning; the addresses are the image's."""
    settings = settings_of(manifests, tmp_path)
    assert not [one for one in settings.warnings if one.path]
    assert not {"listen", "probes"} & settings.config.gateway.model_fields_set


def test_probes_ask_the_port_of_the_probes(manifests: list[Manifest]) -> None:
    """Each the question that it is for, on the port that the image answers them."""
    one = container(manifests)
    ports = {port["name"]: port["containerPort"] for port in one["ports"]}
    assert ports == {"http": 8000, "probes": 9902}
    for probe, path in (
        ("startupProbe", "/startupz"),
        ("readinessProbe", "/readyz"),
        ("livenessProbe", "/livez"),
    ):
        assert one[probe]["httpGet"] == {"path": path, "port": "probes"}
    (published,) = only(manifests, "Service")["spec"]["ports"]
    assert published["targetPort"] == "http"


def test_selectors_find_the_pods(manifests: list[Manifest]) -> None:
    """Of the service, the budget, the policy, and the spread over zones and nodes."""
    deployment = only(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    name = deployment["metadata"]["name"]
    policy = only(manifests, "NetworkPolicy", name)
    spread = pod(manifests)["topologySpreadConstraints"]
    for selector in (
        deployment["spec"]["selector"],
        only(manifests, "PodDisruptionBudget")["spec"]["selector"],
        policy["spec"]["podSelector"],
        *(each["labelSelector"] for each in spread),
    ):
        assert selector["matchLabels"]
        assert is_part(selector["matchLabels"], labels)
    assert is_part(only(manifests, "Service")["spec"]["selector"], labels)
    assert {each["topologyKey"] for each in spread} == {
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    }
    scaled = only(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", name)
    assert "replicas" not in deployment["spec"], "the autoscaler's"


def test_only_the_gateway_reaches_the_services(manifests: list[Manifest]) -> None:
    """They trust X-User-Id. Monitoring alone reaches the probes."""
    labels = only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    behind = only(manifests, "NetworkPolicy", "behind-")["spec"]
    assert behind["podSelector"]["matchLabels"] == {
        "behind-supertokens-gateway": "true"
    }
    ((rule,),) = (behind["ingress"],)
    ((peer,),) = (rule["from"],)
    assert is_part(peer["podSelector"]["matchLabels"], labels)
    assert "namespaceSelector" not in peer
    name = only(manifests, "Deployment")["metadata"]["name"]
    own = only(manifests, "NetworkPolicy", name)["spec"]["ingress"]
    assert [rule["ports"][0]["port"] for rule in own] == ["http", "probes"]
    assert own[1]["from"][0]["namespaceSelector"]["matchLabels"]


def test_versions_are_the_gateways() -> None:
    """Chart and base name the image of this version."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["version"] == chart["appVersion"] == __version__
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text("utf-8"))
    (image,) = kustomization["images"]
    assert image["newTag"] == __version__
    assert image["name"] == container(kustomized())["image"]


# --- Helm only ---


def test_a_changed_route_table_replaces_the_pods() -> None:
    """Its checksum is an annotation of the pods."""

    def annotations(*settings: str) -> object:
        deployment = only(rendered(*settings), "Deployment")
        return deployment["spec"]["template"]["metadata"]["annotations"]

    same = annotations("service.port=81")
    assert annotations() == same != annotations("config.supertokens.app_name=x")


def test_alerts_and_dashboard_are_those_of_deploy() -> None:
    """The chart has no copies of its own."""
    manifests = rendered(*ALL_KINDS)
    alerts = (ROOT / "deploy/prometheus/alerts.yaml").read_text("utf-8")
    assert only(manifests, "PrometheusRule")["spec"] == yaml.safe_load(alerts)
    (dashboard,) = only(manifests, "ConfigMap", "my-supertokens-gateway-dashboard")[
        "data"
    ].values()
    assert dashboard.strip() == (
        (ROOT / "deploy/grafana/dashboard.json").read_text("utf-8").strip()
    )
    kinds = {one["kind"] for one in rendered()}
    assert not kinds & {"PodMonitor", "PrometheusRule"}, "they need the operator"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("workers=0", "/workers"),
        ("replicaz=1", "'replicaz' not allowed"),
        ("image.digest=latest", "/image/digest"),
        ("config.version=2", "/config/version"),
        ("podDisruptionBudget.maxUnavailable=0", "/podDisruptionBudget/maxUnavailable"),
        ("config.gateway.listen=0.0.0.0:80", "config.gateway.listen: leave it out"),
        ("config.gateway.drain_timeout=9s", "set drainTimeoutSeconds instead"),
    ],
)
def test_wrong_values_are_refused(setting: str, message: str) -> None:
    """With the name of the value."""
    done = helm(setting)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.parametrize(
    ("settings", "absent"),
    [
        (("autoscaling.enabled=false",), "HorizontalPodAutoscaler"),
        (("podDisruptionBudget.enabled=false",), "PodDisruptionBudget"),
        (("networkPolicy.enabled=false",), "NetworkPolicy"),
    ],
)
def test_parts_can_be_left_out(settings: tuple[str, ...], absent: str) -> None:
    """The rest is as before; without the autoscaler, the deployment has replicas."""
    manifests = rendered(*settings)
    assert absent not in {one["kind"] for one in manifests}
    replicas = only(manifests, "Deployment")["spec"].get("replicas")
    assert replicas == (2 if absent == "HorizontalPodAutoscaler" else None)
