"""Small changes to a Python file, each of which a test should notice (`make mutants`).

`mutations` reads a file's text and returns every change that it can make: a comparison
moved by one, a condition negated or shortened, a constant changed, a refusal or a call
removed, another value returned. A change is text at a position, so that the rest of the
file stays as it is.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from dataclasses import dataclass

Name = tuple[str, str, str, str, int]
"""A change by file, function, the lines before and after, and a number."""
Function = ast.FunctionDef | ast.AsyncFunctionDef

_COMPARED: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
}
"""The pattern of each comparison, and what replaces it."""
_COMPUTED: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.BitOr: (r"\|", "&"),
    ast.BitAnd: ("&", "|"),
}
_RENAMED = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "startswith": "endswith",
    "endswith": "startswith",
    "removeprefix": "removesuffix",
    "partition": "rpartition",
    "find": "rfind",
    "lstrip": "rstrip",
    "rstrip": "lstrip",
}
_DROPPED = frozenset({"lower", "upper", "casefold", "strip", "lstrip", "rstrip"})
"""Methods whose call is replaced with the text that they are called on."""
_UNSWAPPED = frozenset({"isinstance", "getattr", "setattr", "hasattr", "min", "max"})
_SAYING = frozenset({"debug", "info", "warning", "error", "exception", "say"})
"""Calls that only report: no rule depends on them."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change: `text` in place of the bytes from `start` to `end` of the file."""

    path: str
    function: str
    """The qualified name of the function or class around it; empty for a module's."""
    line: int
    """The first line that the change touches, from 1."""
    statement: tuple[int, int]
    """The lines of the statement around it, without the statements within that one."""
    start: int
    end: int
    text: str
    before: str
    """The lines that it touches, without indentation, on one line."""
    after: str
    at_import: bool
    """Whether its lines run when the module is imported, before any test."""
    number: int
    """Which of several changes in one function that read the same, from 1."""

    @property
    def name(self) -> Name:
        """Return what tells it from others, whatever its line is."""
        return (self.path, self.function, self.before, self.after, self.number)

    @property
    def key(self) -> str:
        """Return a digest of the name."""
        text = "\0".join(map(str, self.name))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def applied(self, source: bytes) -> bytes:
        """Return the changed file.

        Raises:
            SyntaxError: it isn't valid Python.
        """
        changed = source[: self.start] + self.text.encode() + source[self.end :]
        ast.parse(changed)
        return changed


def mutations(path: str, source: bytes) -> list[Mutation]:
    """Return every change of a file, in order. A few may not be valid Python."""
    visitor = _Finder(source)
    visitor.visit(ast.parse(source))
    seen: Counter[tuple[str, str, str]] = Counter()
    made = []
    for change in sorted(set(visitor.found), key=_place):
        before, after, line = _shown(source, change)
        names = (change.function, before, after)
        seen[names] += 1
        made.append(
            Mutation(
                path=path,
                function=change.function,
                line=line,
                statement=change.statement,
                start=change.start,
                end=change.end,
                text=change.text,
                before=before,
                at_import=change.at_import,
                after=after,
                number=seen[names],
            )
        )
    return made


@dataclass(frozen=True, slots=True)
class _Change:
    function: str
    statement: tuple[int, int]
    at_import: bool
    start: int
    end: int
    text: str


def _place(change: _Change) -> tuple[int, int, str]:
    return (change.start, change.end, change.text)


def _shown(source: bytes, change: _Change) -> tuple[str, str, int]:
    """Return the touched lines before and after, and the number of the first."""
    first = source.rfind(b"\n", 0, change.start) + 1
    last = source.find(b"\n", change.end)
    last = len(source) if last < 0 else last
    new = source[first : change.start] + change.text.encode()
    new += source[change.end : last]
    return (
        " ".join(source[first:last].decode().split()),
        " ".join(new.decode().split()),
        source.count(b"\n", 0, first) + 1,
    )


def _said(node: ast.expr) -> bool:
    """Return whether a call only reports."""
    return isinstance(node, ast.Call) and _called(node) in _SAYING


def _called(node: ast.Call) -> str:
    return str(getattr(node.func, "attr", getattr(node.func, "id", "")))


class _Finder(ast.NodeVisitor):
    """Collects the changes of one file."""

    def __init__(self, source: bytes) -> None:
        self.found: list[_Change] = []
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._names: list[str] = []
        self._returns: list[str] = []
        """The annotations of the functions around; empty outside functions."""
        self._statement = (0, 0)

    # --- positions ---

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr | ast.stmt) -> str:
        return self._source[self._start(node) : self._end(node)].decode()

    def _put(self, start: int, end: int, text: str) -> None:
        self.found.append(
            _Change(
                ".".join(self._names),
                self._statement,
                not self._returns,
                start,
                end,
                text,
            )
        )

    def _replace(self, node: ast.expr | ast.stmt, text: str) -> None:
        self._put(self._start(node), self._end(node), text)

    def _between(self, left: ast.expr, right: ast.expr, pattern: str, new: str) -> None:
        """Replace the operator between two operands."""
        start, end = self._end(left), self._start(right)
        word = rf"\b{pattern}\b" if pattern[0].isalpha() else pattern
        if match := re.search(word, self._source[start:end].decode()):
            self._put(start + match.start(), start + match.end(), new)

    # --- what is entered, and what isn't ---

    def visit(self, node: ast.AST) -> None:
        around = self._statement
        if isinstance(node, (ast.stmt, ast.match_case)):
            first = node.pattern if isinstance(node, ast.match_case) else node
            last = getattr(node, "end_lineno", None)
            for inner in (*getattr(node, "body", ()), *getattr(node, "cases", ())):
                start = getattr(inner, "pattern", inner).lineno
                last = max(first.lineno, start - 1)
                break
            self._statement = (first.lineno, last or first.lineno)
        super().visit(node)
        self._statement = around

    def _enter(self, node: Function | ast.ClassDef) -> None:
        self._names.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._names.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: Function) -> None:
        if node.name not in ("__repr__", "__str__"):
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    self.visit(default)
            self._returns.append(ast.unparse(node.returns) if node.returns else "")
            self._enter(node)
            self._returns.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if not any(
            ast.unparse(base) in ("Protocol", "NamedTuple") for base in node.bases
        ):
            self._enter(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if ast.unparse(node.targets[0]) != "__slots__":
            self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assert(self, node: ast.Assert) -> None:
        """Leave it: an assertion states what already holds."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave it: most are messages, and 3.11 has no positions within one."""

    def visit_Import(self, node: ast.Import) -> None:
        """Leave it."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Leave it."""

    # --- statements ---

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self._negate(node.test)
            self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._replace(condition, "True")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self._replace(node, "pass")
            return
        value = ast.unparse(node.value)
        if self._returns and self._returns[-1] == "bool":
            self._replace(node.value, "True")
            self._replace(node.value, "False")
        elif value != "None":
            self._replace(node.value, "None")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(node, "pass")

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(node, "pass")

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace(node, "pass")
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._replace(node, "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant) or _said(node.value):
            return  # a docstring, or a line for the log
        if isinstance(node.value, (ast.Call, ast.Await)):
            self._replace(node, "pass")
        self.generic_visit(node)

    # --- expressions ---

    def _negate(self, test: ast.expr) -> None:
        """Negate a condition that isn't negated elsewhere."""
        if not isinstance(test, (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.NamedExpr)):
            self._replace(test, f"(not {self._text(test)})")

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for at, operator in enumerate(node.ops):
            pattern, new = _COMPARED[type(operator)]
            self._between(operands[at], operands[at + 1], pattern, new)
        for operand in operands:
            self._word(operand)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between(left, right, old, new)
        for at in range(len(node.values)):
            rest = [*node.values[:at], *node.values[at + 1 :]]
            text = f" {old} ".join(f"({self._text(each)})" for each in rest)
            self._replace(node, f"({text})")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._replace(node, f"({self._text(node.operand)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        swapped = _COMPUTED.get(type(node.op))
        texts = any(
            isinstance(each, (ast.JoinedStr, ast.Constant))
            and not isinstance(getattr(each, "value", ""), int)
            for each in (node.left, node.right)
        )
        if swapped is not None and self._names and not texts:
            self._between(node.left, node.right, *swapped)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace(node, str(not node.value))
        elif isinstance(node.value, int):
            for value in (node.value + 1, node.value - 1):
                self._replace(node, str(value) if value >= 0 else f"({value})")

    def _word(self, node: ast.expr) -> None:
        """Change a text on whose value something depends."""
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
            other = "XX" if isinstance(node.value, str) else b"XX"
            self._replace(node, repr(other))

    def _shorten(self, elements: list[ast.expr], node: ast.expr) -> None:
        """Remove one of several constant elements."""
        if len(elements) > 1 and all(isinstance(e, ast.Constant) for e in elements):
            for each in elements:
                tail = self._source[self._end(each) : self._end(node)].decode()
                comma = re.match(r"\s*,", tail)
                self._put(
                    self._start(each),
                    self._end(each) + (comma.end() if comma else 0),
                    "",
                )

    def visit_Set(self, node: ast.Set) -> None:
        self._shorten(node.elts, node)
        self.generic_visit(node)

    def visit_Tuple(self, node: ast.Tuple) -> None:
        self._shorten(node.elts, node)
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        for key in node.keys:
            if key is not None:
                self._word(key)
        self.generic_visit(node)

    def visit_MatchValue(self, node: ast.MatchValue) -> None:
        self._word(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if self._names or not isinstance(node.ctx, ast.Load):
            self._word(node.slice)
            self.generic_visit(node)

    def visit_Slice(self, node: ast.Slice) -> None:
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = _called(node)
        if _said(node):
            return
        if name in _RENAMED:
            end = self._end(function)
            self._put(end - len(name), end, _RENAMED[name])
        if isinstance(function, ast.Attribute):
            if name in _DROPPED:
                self._replace(node, self._text(function.value))
            if node.args:
                self._word(node.args[0])
        if (
            len(node.args) == 2
            and name not in _UNSWAPPED
            and not any(isinstance(each, ast.Starred) for each in node.args)
        ):
            first, second = node.args
            middle = self._source[self._end(first) : self._start(second)].decode()
            self._put(
                self._start(first),
                self._end(second),
                self._text(second) + middle + self._text(first),
            )
        self.generic_visit(node)
