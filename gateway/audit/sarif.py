"""PURE. Findings in SARIF, which code hosts and editors show at the lines of a file.

Source: OASIS, Static Analysis Results Interchange Format (SARIF) 2.1.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from gateway import __version__
from gateway.audit.findings import AuditFinding, AuditSeverity
from gateway.audit.report import ACCEPTANCE
from gateway.audit.rules import RULES

SCHEMA: Final = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/"
    "sarif-schema-2.1.0.json"
)
FINGERPRINT: Final = "supertokensGateway/v1"
"""The name of our fingerprint. A number of its own for each way to make it."""
_LEVELS: Final[Mapping[AuditSeverity, str]] = {
    AuditSeverity.HIGH: "error",
    AuditSeverity.MEDIUM: "warning",
    AuditSeverity.LOW: "note",
}
_SCORES: Final[Mapping[AuditSeverity, str]] = {
    AuditSeverity.HIGH: "8.0",
    AuditSeverity.MEDIUM: "5.0",
    AuditSeverity.LOW: "2.0",
}
"""`security-severity`, by which GitHub sorts: above 7.0 is high, above 4.0 medium."""


def sarif(findings: Sequence[AuditFinding]) -> dict[str, Any]:
    """Return a log with one run. Files are relative to the folder of the run."""
    rules = (*RULES, ACCEPTANCE)
    index = {rule.id: number for number, rule in enumerate(rules)}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "gateway audit",
                        "version": __version__,
                        "rules": [
                            {
                                "id": rule.id,
                                "shortDescription": {
                                    "text": rule.title.replace("`", "")
                                },
                                "defaultConfiguration": {
                                    "level": _LEVELS[rule.severity]
                                },
                                "properties": {
                                    "security-severity": _SCORES[rule.severity],
                                    "tags": ["security"],
                                },
                            }
                            for rule in rules
                        ],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(one, index[one.rule]) for one in findings],
            }
        ],
    }


def _result(finding: AuditFinding, index: int) -> dict[str, Any]:
    about = f"{finding.route}: " if finding.route else ""
    see = f" (see {finding.see})" if finding.see else ""
    return {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{about}{finding.message}{see}. {finding.remedy}."},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(finding.file)},
                    "region": {
                        "startLine": finding.line,
                        "startColumn": finding.column,
                    },
                }
            }
        ],
        "partialFingerprints": {FINGERPRINT: finding.fingerprint},
    }
