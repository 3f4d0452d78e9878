"""Print figures about the gateway's structure: `python tools/house.py [FOLDER]`.

Counts are of `gateway/` without `gateway/dev/`. A class is as long as its lines, a
function as its lines without its docstring. A function's branches are its decisions:
if, for, while, except, match cases, conditional expressions, and each `and` or `or`.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
_DECISIONS = (
    *(ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp),
    *(ast.match_case, ast.comprehension),
)


def lines(node: ast.ClassDef | Function) -> int:
    """Return the number of lines of *node*, without its docstring."""
    assert node.end_lineno is not None
    whole = node.end_lineno - node.lineno + 1
    if isinstance(node, ast.ClassDef) or ast.get_docstring(node) is None:
        return whole
    docstring = node.body[0]
    assert docstring.end_lineno is not None
    return whole - (docstring.end_lineno - docstring.lineno + 1)


def branches(function: Function) -> int:
    """Return the number of decisions in *function*."""
    return sum(
        len(node.values) - 1 if isinstance(node, ast.BoolOp) else 1
        for node in ast.walk(function)
        if isinstance(node, (*_DECISIONS, ast.BoolOp))
    )


def definitions(
    package: Path,
) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Yield the classes and functions of *package*, each with its location."""
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        if inside.parts[0] != "dev":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.ClassDef, Function)):
                    yield f"{inside}: {node.name}", node


def main() -> None:
    """Print one line for each figure."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    package = root / "gateway"
    files = [
        path.relative_to(package)
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] != "dev"
    ]
    defined = list(definitions(package))
    classes = [(lines(n), place) for place, n in defined if isinstance(n, ast.ClassDef)]
    functions = [(place, n) for place, n in defined if isinstance(n, Function)]
    places = defaultdict(set)
    for place, node in defined:
        if isinstance(node, ast.ClassDef):
            places[node.name].add(place.partition(":")[0])
    twice = sorted(name for name, where in places.items() if len(where) > 1)

    top = {path.parts[0] for path in files} - {"__init__.py", "__main__.py"}
    print(f"files and folders at the top: {len(top)}")
    print(f"files: {len(files)}")
    longest = max(len((package / path).read_text().splitlines()) for path in files)
    print(f"longest file: {longest} lines")
    lengths = [(lines(node), place) for place, node in functions]
    decisions = [(branches(node), place) for place, node in functions]
    print("longest class: {} lines, {}".format(*max(classes)))
    print("longest function: {} lines, {}".format(*max(lengths)))
    print("most branched function: {}, {}".format(*max(decisions)))
    print(f"class names that exist twice: {len(twice)} {', '.join(twice)}")


if __name__ == "__main__":
    main()
