"""Write the reference of every key into docs/configuration.md (`make docs`)."""

from __future__ import annotations

from pathlib import Path

from gateway.config.reference import markdown

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
BEGIN = "<!-- from here on written by `make docs` -->\n"


def written(page: str) -> str:
    """Return *page* with everything after its mark regenerated."""
    before, mark, _ = page.partition(BEGIN)
    if not mark:
        raise SystemExit(f"{PAGE} has no line {BEGIN!r}")
    return f"{before}{mark}\n{markdown()}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
