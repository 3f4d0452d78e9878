"""PURE. OpenAPI documents and route tables: made of each other, and compared.

A document says of each operation whether it needs a session, and which permissions: its
scopes. Whatever it leaves unsaid is protected.

Source: OpenAPI Specification 3.1.1 (and 3.0.4).
"""

from __future__ import annotations

from gateway.openapi.comparing import Deviation, DeviationKind, deviations
from gateway.openapi.exporting import Exported, exported
from gateway.openapi.importing import imported
from gateway.openapi.operations import (
    BadDocument,
    Document,
    Operation,
    Site,
    document_of,
)

__all__ = [
    "BadDocument",
    "Deviation",
    "DeviationKind",
    "Document",
    "Exported",
    "Operation",
    "Site",
    "deviations",
    "document_of",
    "exported",
    "imported",
]
