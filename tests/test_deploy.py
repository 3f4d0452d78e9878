"""The files in deploy/, as far as a test can check them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gateway.process.metrics import SERIES

ALERTS = Path(__file__).parents[1] / "deploy" / "prometheus" / "alerts.yaml"
NAMES = {
    f"{'' if name.startswith('process_') else 'gateway_'}{name}"
    + ("_total" if shape[0] == "counter" else "")
    for name, shape in SERIES.items()
}


def test_alerts_use_series_that_exist() -> None:
    """Each alert has a severity and a summary, and names series of `/metrics` only."""
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]:
        used = set(re.findall(r"\b(?:gateway|process)_\w+", rule["expr"]))
        assert used, rule["alert"]
        assert used <= NAMES, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


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
