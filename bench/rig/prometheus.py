"""A real Prometheus that scrapes one gateway."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def command(
    folder: Path, *, port: int, probes: int, every_s: int, rules: Sequence[Path] = ()
) -> list[str]:
    """Return the command of a Prometheus on *port*; its files are in *folder*.

    It scrapes the gateway's *probes* port every *every_s*, and evaluates *rules*.
    """
    config = folder / "prometheus.yaml"
    config.write_text(
        json.dumps(
            {
                "global": {
                    "scrape_interval": f"{every_s}s",
                    "evaluation_interval": f"{every_s}s",
                },
                "rule_files": [str(rule) for rule in rules],
                "scrape_configs": [
                    {
                        "job_name": "gateway",
                        "static_configs": [{"targets": [f"127.0.0.1:{probes}"]}],
                    }
                ],
            }
        )
    )
    return [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
