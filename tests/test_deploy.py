"""The files in deploy/, as far as a test can check them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.process.metric_series import SERIES

DEPLOY = Path(__file__).parents[1] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
NAMES = {
    f"{'' if name.startswith('process_') else 'gateway_'}{name}"
    + ("_total" if shape[0] == "counter" else "")
    for name, shape in SERIES.items()
}


def test_alerts_use_series_that_exist() -> None:
    """Each alert has a severity and a summary, and names series of `/metrics` only."""
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]:
        used = series_of(rule["expr"])
        assert used, rule["alert"]
        assert used <= NAMES, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_each_alert_has_a_row_in_the_docs() -> None:
    """Which says what to watch, in series that exist, and what to do."""
    (group,) = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    page = (DEPLOY.parent / "docs/operations.md").read_text("utf-8")
    section = page.partition("### Alerts\n")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| `(Gateway\w+)` \| (.+) \| (.+) \|$", section)
    assert [name for name, _, _ in rows] == [rule["alert"] for rule in group["rules"]]
    for name, watch, _ in rows:
        assert series_of(watch), name
        assert series_of(watch) <= NAMES, name


def panels() -> list[dict[str, Any]]:
    """Return the dashboard's panels without the headings."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    assert isinstance(dashboard["panels"], list)
    return [one for one in dashboard["panels"] if one["type"] != "row"]


def series_of(expression: str) -> set[str]:
    """Return the series in an expression of PromQL; of a histogram, all it has."""
    named = set(re.findall(r"\b(?:gateway|process)_\w+", expression))
    return {re.sub(r"_bucket$", "", name) for name in named}


def test_the_dashboard_uses_series_that_exist() -> None:
    """Each panel has a title and a unit, and names series of `/metrics` only."""
    for panel in panels():
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            used = series_of(target["expr"])
            assert used, panel["title"]
            assert used <= NAMES, panel["title"]


def test_the_dashboard_shows_what_alerts_are_about() -> None:
    """Whoever gets an alert finds its series there."""
    (group,) = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    alerting = set().union(*(series_of(rule["expr"]) for rule in group["rules"]))
    shown = {
        name
        for panel in panels()
        for target in panel["targets"]
        for name in series_of(target["expr"])
    }
    assert alerting <= shown


def test_the_dashboard_is_laid_out() -> None:
    """No two panels overlap, and each has an id of its own."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    ids = [one["id"] for one in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for one in dashboard["panels"]:
        at = one["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, one["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_prometheus_reads_the_dashboards_expressions(tmp_path: Path) -> None:
    """`promtool` accepts each as a rule, with values for Grafana's variables."""
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool isn't installed: Debian's package prometheus has it")
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    rules = [
        {
            "record": f"panel:{number}",
            "expr": expression.replace("$__rate_interval", "1m"),
        }
        for number, expression in enumerate(expressions)
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    checked = subprocess.run(
        [promtool, "check", "rules", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_alerts_are_what_prometheus_reads() -> None:
    """`promtool` accepts the file."""
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool isn't installed: Debian's package prometheus has it")
    checked = subprocess.run(
        [promtool, "check", "rules", str(ALERTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
