"""Several files as one: `include`, later files over earlier ones, standard input."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway import settings
from gateway.settings import ConfigError, Settings, source

MAIN = """\
version: 1
include: ["routes.d/*.yaml"]
services:
  app: {targets: ["http://app"]}
routes:
  - {path: /, service: app}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of the files, which is also the working directory."""
    (tmp_path / "routes.d").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(**files: str) -> None:
    """Write files; `a__b` stands for `a/b`, and each name gets `.yaml`."""
    for name, text in files.items():
        Path(name.replace("__", "/") + ".yaml").write_text(text, encoding="utf-8")


def load(*names: str) -> Settings:
    return settings.load(names or ("main.yaml",), {"NAME": "value"})


def problems(*names: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*names)
    return list(map(str, caught.value.problems))


@pytest.mark.usefixtures("place")
def test_an_included_file_adds_services_groups_and_routes() -> None:
    """Files of one pattern are read in order of name, after the file itself."""
    write(
        main=MAIN,
        **{
            "routes.d__b": "routes: [{path: /b, service: more}]\n",
            "routes.d__a": "version: 1\n"
            'services: {more: {targets: ["http://${NAME}"]}}\n'
            "groups: [{path: /g, service: more, routes: [{path: /a}]}]\n"
            "routes: [{path: /a, service: app}]\n",
        },
    )
    loaded = load()
    paths = [route.path[0].prefix for route in loaded.config.routes if route.path]
    assert paths == ["/", "/a", "/b"]
    assert set(loaded.config.services) == {"app", "more"}
    assert len(loaded.config.groups) == 1


@pytest.mark.usefixtures("place")
def test_a_mistake_is_reported_in_its_own_file() -> None:
    """The place of a problem has the file that it is in, and the path of the whole."""
    write(
        main=MAIN,
        **{
            "routes.d__a": "routes:\n  - {path: a, service: app}\n",
            "routes.d__b": "routes:\n  - {path: /b, service: app, protectd: 1}\n"
            "cors: {}\n",
            "routes.d__c": "services:\n  app: {targets: [http://other]}\n",
            "routes.d__d": 'routes: "\n',
            "routes.d__e": "routes:\n  - {path: /, service: app}\n",
        },
    )
    assert problems() == [
        (
            "routes.d/b.yaml:2:30: routes[2].protectd: unknown key 'protectd'."
            " Did you mean 'protected'?"
        ),
        (
            "routes.d/b.yaml:3:1: cors: an included file has only services, groups and"
            " routes. Move this to the file that includes it"
        ),
        (
            "routes.d/c.yaml:2:3: services.app: the key 'app' is on line 4 of main.yaml"
            " already. Remove one of the two"
        ),
        "routes.d/d.yaml:1:9: this isn't closed before the file ends. Close it",
        (
            "routes.d/a.yaml:2:12: routes[1].path: a path begins with /."
            " Write / before it"
        ),
        (
            "routes.d/e.yaml:2:5: routes[3]: this route can never match: 0:/ takes all"
            " of it (see routes[0], line 6 of main.yaml). Change its path, hosts or"
            " methods, or remove one of the two"
        ),
    ]


@pytest.mark.usefixtures("place")
def test_the_other_place_has_its_file() -> None:
    """Two routes of different files that contradict each other name both files."""
    write(main=MAIN, **{"routes.d__e": "routes:\n  - {path: /, service: app}\n"})
    assert problems() == [
        (
            "routes.d/e.yaml:2:5: routes[1]: this route can never match: 0:/ takes all"
            " of it (see routes[0], line 6 of main.yaml). Change its path, hosts or"
            " methods, or remove one of the two"
        )
    ]


@pytest.mark.parametrize(
    ("include", "message"),
    [
        ("[none.yaml]", "none.yaml:1:1: the file can't be read: No such file"),
        ("[none/*.yaml]", None),
        ("[main.yaml]", "main.yaml:2:11: include[0]: this includes a file that is"),
        ("[a.yaml, a.yaml]", "main.yaml:2:19: include[1]: this includes a file that"),
        ("a.yaml", "main.yaml:2:10: include: expected a list. Put it in brackets"),
        ("[1]", "1:1: the file can't be read"),
        ("[b.yaml]", "b.yaml:1:1: include: an included file has only"),
    ],
)
@pytest.mark.usefixtures("place")
def test_what_can_be_included(include: str, message: str | None) -> None:
    """A pattern may match nothing; a file must be there, and be included once."""
    write(main=f"version: 1\ninclude: {include}\n", a="routes: []\n", b="include: []\n")
    if message is None:
        assert load().config.routes == ()
    else:
        assert message in problems()[0]


@pytest.mark.usefixtures("place")
def test_later_files_override_earlier_ones() -> None:
    """Mappings are joined key by key; routes are added; other values are replaced."""
    write(
        main=MAIN + "defaults: &times {timeouts: {connect: 1, response: 2}}\n",
        live="version: 1\n"
        "defaults: {timeouts: {response: 9}}\n"
        "services: {app: {targets: [http://live]}}\n"
        "routes: [{path: /live, service: app}]\n",
    )
    loaded = load("main.yaml", "live.yaml")
    assert loaded.path == "main.yaml live.yaml"
    times = loaded.config.defaults.timeouts
    assert (times.connect, times.response) == (1, 9)
    assert loaded.config.services["app"].targets[0].url == "http://live"
    assert len(loaded.config.routes) == 2


@pytest.mark.usefixtures("place")
def test_an_override_leaves_aliases_alone() -> None:
    """Two keys with one anchored value stay apart: only the named one changes."""
    write(
        main="version: 1\nservices:\n"
        "  a: &s {targets: [http://s], timeouts: {connect: 1}}\n  b: *s\n"
        "routes: [{path: /a, service: a}, {path: /b, service: b}]\n",
        live="services: {b: {timeouts: {connect: 2}}}\n",
    )
    services = load("main.yaml", "live.yaml").config.services
    assert services["a"].timeouts.connect == 1
    assert services["b"].timeouts.connect == 2


@pytest.mark.usefixtures("place")
def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is standard input. A reload, which can't read it again, has the same text."""
    source._standard_input.cache_clear()
    stream = SimpleNamespace(buffer=io.BytesIO(MAIN.encode()))
    monkeypatch.setattr(sys, "stdin", stream)
    assert load("-").config == load("-").config
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"x: 1")))
    assert len(load("-").table.routes) == 1
    source._standard_input.cache_clear()
    assert problems("-")[0].startswith("-:1:1: ")
    source._standard_input.cache_clear()
