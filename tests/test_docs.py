"""The documents agree with the code, as far as a test can check."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
from corpus import cases

from gateway import config, settings, supertokens
from gateway.config import LimitsConfig, TimeoutsConfig, reference
from gateway.config.models import Model
from gateway.errors import GatewayError, Side, Stage
from gateway.headers import IDENTITY_NAMES, IdentityTooLarge
from gateway.http.request_head import HeadTooLarge
from gateway.session.tokens import Flaw
from gateway.supertokens import core_exchange, recipes

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
CODE = [
    path
    for path in sorted((ROOT / "gateway").rglob("*.py"))
    if "dev" not in path.relative_to(ROOT).parts
]
ENVIRON = {
    "SUPERTOKENS_URI": "http://core:3567",
    "SUPERTOKENS_API_KEY": "0123456789abcdefghij",
    "GOOGLE_CLIENT_ID": "id",
    "GOOGLE_CLIENT_SECRET": "secret",
    "REDIS_URL": "redis://redis:6379",
    "SMTP_USERNAME": "user",
    "SMTP_PASSWORD": "secret",
}


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Yield the file and line of every block of *language*, and its text."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for path in PAGES:
        text = path.read_text("utf-8")
        for match in fence.finditer(text):
            line = text.count("\n", 0, match.start(1)) + 1
            yield f"{path.name}:{line}", match[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables."""
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]


# --- configuration.md ---


def test_the_reference_is_up_to_date() -> None:
    """configuration.md ends with the generated reference; if not, run `make docs`."""
    assert page("configuration.md").endswith(f"\n{reference.markdown()}")


def test_the_reference_has_every_key_once() -> None:
    """There is a row for each property of the JSON schema, with its form and a text."""
    table = rows(reference.markdown())
    keys = [row[0] for row in table if row[0] != "key"]
    assert len(set(keys)) == len(keys)
    last = {key.strip("`").rpartition(".")[2] for key in keys} - {"<key>"}
    schema = config.json_schema()
    models = chain([schema], schema["$defs"].values())
    assert last == set(chain.from_iterable(model["properties"] for model in models))
    assert all(len(row) == 4 and row[1] and row[3] for row in table)


@pytest.mark.parametrize(
    ("key", "cells"),
    [
        ("version", ["`1`", "required"]),
        ("gateway.limits.head_timeout", ["duration", "10 s"]),
        ("gateway.limits.max_body_size", ["size", "100 MiB"]),
        ("gateway.limits.body_min_rate", ["size", "256 bytes"]),
        ("gateway.probes.listen", ["host:port", "unset"]),
        ("supertokens.cookie.same_site", ["`lax`, `strict`, `none`", "unset"]),
        ("supertokens.recipes", ["mapping", "`emailpassword`, `userroles`"]),
        ("supertokens.email_delivery.from_name", ["text", "empty"]),
        ("services.<name>.targets[].url", ["URL", "required"]),
        ("services.<name>.tls", ["keys", ""]),
        ("services.<name>.tls.verify", ["true or false", "true"]),
        ("routes[].require.claims[].in", ["list: any value", "unset"]),
    ],
)
def test_a_row_has_form_and_default(key: str, cells: list[str]) -> None:
    """Defaults have their unit, and unset and empty defaults are distinguished."""
    table = {row[0]: row[1:3] for row in rows(reference.markdown())}
    assert table[f"`{key}`"] == cells


def test_every_recipe_setting_is_named() -> None:
    """The settings of recipes aren't in the schema, so the page lists them by hand."""

    def names(model: type[Model]) -> Iterator[str]:
        for name, field in model.model_fields.items():
            yield name
            for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if inspect.isclass(part) and issubclass(part, Model):
                    yield from names(part)

    text = page("configuration.md")
    for recipe, model in recipes._MODELS.items():
        for name in (recipe, *names(model)):
            assert re.search(rf"[`.]{name}[`.]", text), name


@pytest.mark.parametrize(
    "text", [pytest.param(text, id=place) for place, text in blocks("yaml")]
)
def test_every_yaml_block_is_a_file_that_can_be_served(
    text: str, tmp_path: Path
) -> None:
    """Each block loads unchanged, without a problem or a warning.

    An excerpt may leave out the supertokens section.
    """
    file = tmp_path / "routes.yaml"
    file.write_text(text, "utf-8")
    loaded = settings.load(file, ENVIRON)
    assert not supertokens.check(loaded.config.supertokens.recipes)
    warnings = [one for one in loaded.warnings if one.path]
    assert not warnings, warnings


# --- proxying.md ---


def test_limits_and_timeouts_have_their_defaults() -> None:
    """proxying.md lists every limit and timeout with its default."""
    defaults = {row[0].strip("`"): row[2] for row in rows(reference.markdown())}
    listed = {row[0].strip("`"): row[1] for row in rows(page("proxying.md"))}
    for name in LimitsConfig.model_fields:
        assert listed[name] == defaults[f"gateway.limits.{name}"].strip("`"), name
    for name in TimeoutsConfig.model_fields:
        assert listed[name] == defaults[f"defaults.timeouts.{name}"], name


def test_identity_names_are_documented() -> None:
    """proxying.md or configuration.md has each field that only the gateway may set."""
    text = page("proxying.md") + page("configuration.md")
    for name in IDENTITY_NAMES:
        assert f"`{name}`" in text, name


# --- operations.md ---


def failures() -> set[tuple[str, str]]:
    """Return status and code of every failure that is an exception."""
    assert {HeadTooLarge, IdentityTooLarge, core_exchange.UnknownTenant} <= set(
        GatewayError.__subclasses__()
    ), "their modules must be loaded"
    result: set[tuple[str, str]] = set()
    queue: list[type[GatewayError]] = [GatewayError]
    while queue:
        error = queue.pop()
        queue += error.__subclasses__()
        if error.__module__.startswith("gateway."):
            result.add((str(error.status), f"`{error.code}`"))
    return result


def test_every_failure_is_in_the_table() -> None:
    """operations.md has status and code of each, and the codes of other responses."""
    table = {(row[0], row[1]) for row in rows(page("operations.md")) if len(row) > 1}
    assert failures() <= table
    codes = {code for _, code in table}
    for path in CODE:
        for code in re.findall(r'\bcode="(\w+)"', path.read_text("utf-8")):
            assert f"`{code}`" in codes, code


def test_every_word_of_the_log_is_explained() -> None:
    """operations.md has every stage, side, reason and decision."""
    words = {*Stage, *Side, *Flaw}
    for path in CODE:
        text = path.read_text("utf-8")
        words |= set(re.findall(r'\b(?:reason|decision) = "(\w+)"', text))
        words |= set(re.findall(r'\breason="(\w+)"', text))
        words |= set(re.findall(r'_(?:try_refresh|refusal)\((?:"\w+", )?"(\w+)"', text))
    text = page("operations.md")
    assert not {word for word in words if f"`{word}`" not in text}


# --- security.md ---


def test_each_threat_rests_on_rows_that_exist() -> None:
    """Both ends of a range are rows of attacks.md or faults.md, in order."""
    known = list(table_rows())
    cells = [row[2] for row in rows(page("security.md")) if len(row) == 3]
    ranges = [cell for cell in cells if re.match(r"[A-Z]\d", cell)]
    assert len(ranges) > 20
    for text in ranges:
        for part in text.split(", "):
            first, _, last = part.partition(" to ")
            assert first in known, text
            if last:
                assert known.index(first) < known.index(last), text
                assert first[0] == last[0], text


# --- attacks.md and faults.md ---

ROW = re.compile(r"[A-IKPU]\d{1,2}")
"""The id of a row: B22, K2. The goals of `bench` have ids like these, P1 to P17."""
TESTS = [
    path for path in sorted((ROOT / "tests").rglob("*.py")) if "bench" not in path.stem
]


def ids_of(test: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Return the rows in a test's name (`test_k2_slow`) and in its docstring."""
    prefix = re.match(r"test_((?:[a-z]\d+_)*)", test.name)
    assert prefix is not None
    text = f"{prefix[1].upper().replace('_', ' ')} {ast.get_docstring(test) or ''}"
    return set(re.findall(rf"\b{ROW.pattern}\b", text))


@cache
def rows_of_tests() -> dict[str, set[str]]:
    """Return, for each test, the rows that it refers to.

    In some modules `ELSEWHERE` names a row's tests in other modules.
    """
    result: dict[str, set[str]] = {}
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    if name.startswith("test_"):
                        result.setdefault(name, set()).update(ids_of(node))
                case ast.Assign(targets=[ast.Name(id="ELSEWHERE")], value=value):
                    for row, place in ast.literal_eval(value).items():
                        name = place.partition("::")[2]
                        result.setdefault(name, set()).add(row.partition(",")[0])
                case _:
                    pass
    return result


@cache
def table_rows() -> dict[str, str]:
    """Return the rows of attacks.md and faults.md: id and cell of their tests."""
    cells = [*rows(page("attacks.md")), *rows(page("faults.md"))]
    listed = [(row[0], row[-1]) for row in cells if ROW.fullmatch(row[0])]
    assert len(dict(listed)) == len(listed), "an id has one row"
    return dict(listed)


@cache
def rows_of_cases() -> frozenset[str]:
    return frozenset(case.id.partition(" ")[0] for case in cases.load())


def test_every_row_that_a_test_names_is_in_a_table() -> None:
    """So a reader who finds `K2` in a test can look it up."""
    named = set(chain.from_iterable(rows_of_tests().values()))
    assert named - table_rows().keys() - DEMO_CORE == set()
    assert rows_of_cases() <= table_rows().keys()


DEMO_CORE = {"A0"}
"""A0 is the first access token of a session, in the tests of its rotation."""


@pytest.mark.parametrize(("row", "cell"), table_rows().items())
def test_every_row_of_a_table_is_tested(row: str, cell: str) -> None:
    """A row names tests that exist; if tests refer to the row, it names one of them."""
    by_test = rows_of_tests()
    listed = set(re.findall(r"`(\w+)`", cell))
    assert listed <= by_test.keys()
    in_corpus = row in rows_of_cases()
    assert re.sub(r"`\w+`|[ ,]", "", cell) == ("corpus" if in_corpus else "")
    referring = {name for name, ids in by_test.items() if row in ids}
    assert in_corpus or (listed & referring if referring else listed)


# --- all of them ---


def test_readme_is_short() -> None:
    """It has at most 112 lines; details are in docs/."""
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 112


@pytest.mark.parametrize(
    "text", [pytest.param(text, id=place) for place, text in blocks("sh")]
)
def test_every_shell_block_can_be_pasted(text: str) -> None:
    """bash parses each block without an error."""
    done = subprocess.run(
        ["bash", "-n"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub generates for the headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_relative_links_have_a_target(path: Path) -> None:
    """Each relative link names a file that exists, and a heading in it."""
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target.read_text("utf-8")), link
