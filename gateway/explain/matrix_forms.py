"""PURE. The matrix of who may reach what as CSV, as JSON, and as a page to print."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from html import escape
from typing import Any, Final

from gateway.explain.matrix import MEANINGS, UNKNOWABLE, AccessRow, Mark, Matrix

HEADINGS: Final = ("#", "route", "methods", "hosts", "path")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that spreadsheets run."""
_WORDS: Final = {
    Mark.MET: "met",
    Mark.ANY: "any",
    Mark.PUBLIC: "public",
    Mark.REFUSED: "refused",
    Mark.UNKNOWN: "unknown",
}
_STYLE: Final = """
body { font: 11pt system-ui, sans-serif; margin: 2em; color: #111 }
table { border-collapse: collapse; margin: 1em 0 }
th, td { border: 1px solid #bbb; padding: .25em .6em; text-align: left }
thead { display: table-header-group }
tr { break-inside: avoid }
td.mark { text-align: center }
td.public { background: #fde8c8 }
td.met { background: #d9f0d9 }
td.any { background: #e6eef9 }
td.unknown { background: #eee }
code { white-space: nowrap }
@media print { body { margin: 0; font-size: 9pt } td { print-color-adjust: exact } }
"""


def heads(row: AccessRow) -> tuple[str, ...]:
    """Return the cells of `HEADINGS`."""
    route = row.route
    form = "" if route.form == "prefix" else f" ({route.form})"
    return (
        str(row.number),
        route.name,
        " ".join(route.methods or ("any",)),
        " ".join(route.hosts or ("any",)),
        f"{route.path}{form}",
    )


def as_csv(found: Matrix) -> str:
    """Return the matrix as CSV (RFC 4180). No cell is a formula."""
    text = _Written()
    writer = csv.writer(text)
    writer.writerow([*HEADINGS, *(_cell(one.title) for one in found.columns)])
    for row in found.rows:
        writer.writerow([*map(_cell, heads(row)), *map(str, row.marks)])
    return "".join(text)


class _Written(list[str]):
    """What a writer of CSV writes to."""

    def write(self, text: str) -> None:
        self.append(text)


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def as_json(found: Matrix) -> dict[str, Any]:
    """Return the matrix as JSON, with the marks in words."""
    titles = [one.title for one in found.columns]
    return {
        "by": found.by,
        "columns": titles,
        "routes": [
            {
                "number": row.number,
                "name": row.route.name,
                "methods": row.route.methods,
                "hosts": row.route.hosts,
                "path": row.route.path,
                "form": row.route.form,
                "marks": [_WORDS[one] for one in row.marks],
            }
            for row in found.rows
        ],
        "unknowable": [*UNKNOWABLE],
    }


def as_html(found: Matrix, source: str) -> str:
    """Return a page without scripts, to be printed; *source* names the file."""
    return "\n".join(_page(found, source)) + "\n"


def _page(found: Matrix, source: str) -> Iterator[str]:
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield (
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    )
    title = escape(f"Who may reach what, by {found.by}: {source}")
    yield f"<title>{title}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{title}</h1>"
    headings = (*HEADINGS, *(one.title for one in found.columns))
    cells = "".join(f"<th>{escape(one)}</th>" for one in headings)
    yield f"<table><thead><tr>{cells}</tr></thead><tbody>"
    for row in found.rows:
        number, name, methods, hosts, path = map(escape, heads(row))
        marks = "".join(
            f'<td class="mark {_WORDS[one]}">{one}</td>' for one in row.marks
        )
        yield (
            f"<tr><td>{number}</td><td>{name}</td><td>{methods}</td><td>{hosts}</td>"
            f"<td><code>{path}</code></td>{marks}</tr>"
        )
    yield "</tbody></table><h2>Marks</h2><ul>"
    yield from (f"<li>{one} {escape(text)}</li>" for one, text in MEANINGS.items())
    yield "</ul><h2>What this can't know</h2><ul>"
    yield from (f"<li>{escape(text)}</li>" for text in UNKNOWABLE)
    yield "</ul></body></html>"
