"""PURE. Results of tests in the formats of other programs: TAP and JUnit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A result as a report shows it."""

    title: str
    file: str
    line: int
    failures: tuple[str, ...]


def tap(results: Sequence[Reported], notes: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a report, with *notes* as comments.

    Source: TAP, version 13.
    """
    yield "TAP version 13"
    yield f"1..{len(results)}"
    for number, one in enumerate(results, start=1):
        verdict = "not ok" if one.failures else "ok"
        # `# SKIP` in a title would be read as a directive, and hide a failure.
        title = _line(one.title).replace("\\", "\\\\").replace("#", "\\#")
        yield f"{verdict} {number} - {title}"
        if one.failures:
            yield f"# {_line(one.file)}:{one.line}"
        yield from (f"#   {_line(reason)}" for reason in one.failures)
    yield from (f"# {_line(note)}" for note in notes)


def junit(results: Sequence[Reported], notes: Sequence[str]) -> str:
    """Return a report as JUnit's XML, with *notes* as the output of the suite."""
    failed = sum(bool(one.failures) for one in results)
    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root,
        "testsuite",
        name="gateway test",
        tests=str(len(results)),
        failures=str(failed),
        errors="0",
        skipped="0",
    )
    for one in results:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=_text(one.file),
            name=_text(one.title),
            file=_text(one.file),
            line=str(one.line),
        )
        if one.failures:
            failure = ET.SubElement(case, "failure", message=_text(one.failures[0]))
            place = f"{one.file}:{one.line}"
            failure.text = _text("\n".join((place, *one.failures)))
    if notes:
        ET.SubElement(suite, "system-out").text = _text("\n".join(notes))
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _text(text: str) -> str:
    """Return *text* without what XML can't hold (XML 1.0 §2.2)."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
