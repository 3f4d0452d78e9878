"""PURE. `gateway audit`: what a configuration lets through that may not be meant.

A rule is a function from the loaded configuration to hits (`route_rules`,
`setting_rules`, `secret_rules`); `rules` lists them with their severities. What
`gateway check` warns of and the remarks of `gateway routes` are found there too, and
only reported here. `report` turns hits into findings with places and fingerprints, and
leaves out what the file accepts; `sarif` writes them for other tools.
"""

from __future__ import annotations

from gateway.audit.findings import Audited, AuditFinding, AuditRule, AuditSeverity, Hit
from gateway.audit.report import Audit, Known, audit
from gateway.audit.rules import RULES
from gateway.audit.sarif import sarif

__all__ = [
    "RULES",
    "Audit",
    "AuditFinding",
    "AuditRule",
    "AuditSeverity",
    "Audited",
    "Hit",
    "Known",
    "audit",
    "sarif",
]
