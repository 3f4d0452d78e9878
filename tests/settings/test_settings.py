"""Reading the configuration file: places, variables, one message for each mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway import settings
from gateway.config import Finding
from gateway.settings import ConfigError, Problem, Settings, source, yaml_reader

MINIMAL = "version: 1\n"
ROUTE = "version: 1\nroutes:\n  - path: /a\n    upstream: http://up\n"
ENVIRON = {"PORT": "8001", "EMPTY": "", "KEY": "hunter2", "YES": "true", "LIST": "[1]"}


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test with each of the two YAML parsers, libyaml's and PyYAML's."""
    monkeypatch.setattr(yaml_reader, "_LOADER", getattr(yaml, request.param))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of the configuration file, which doesn't exist yet."""
    return tmp_path / "routes.yaml"


def load(file: Path, text: str, environ: Mapping[str, str] = ENVIRON) -> Settings:
    """Write *text* to *file* and return its settings."""
    file.write_text(text, encoding="utf-8")
    return settings.load(file, environ)


def problems(file: Path, text: str) -> tuple[Problem, ...]:
    """Return all problems of a file with this text."""
    with pytest.raises(ConfigError) as caught:
        load(file, text)
    return caught.value.problems


def messages(file: Path, text: str) -> list[str]:
    """Return the messages about a file with this text, without the file's name."""
    return [str(one).removeprefix(f"{file}:") for one in problems(file, text)]


BAD = {
    "empty": ("", "1:1: the file is empty. Begin with version: 1"),
    "comments only": ("# nothing\n", "1:1: the file is empty. Begin with version: 1"),
    "null": ("~\n", "1:1: expected keys at the top level. Begin with version: 1"),
    "a list": ("- a\n", "1:1: expected keys at the top level. Begin with version: 1"),
    "no version": (
        "gateway: {}\n",
        "1:1: the key 'version' is missing. Write version: 1",
    ),
    "other version": ("version: 2\n", "1:10: version: expected 1"),
    "two documents": (
        "version: 1\n---\nversion: 1\n",
        "2:1: a second document begins here. Put each document in its own file",
    ),
    "misspelt key": (
        ROUTE + "    protectd: false\n",
        "5:5: routes[0].protectd: unknown key 'protectd'. Did you mean 'protected'?",
    ),
    "misspelt section": (
        MINIMAL + "rotues: []\n",
        "2:1: rotues: unknown key 'rotues'. Did you mean 'routes'?",
    ),
    "duplicate key": (
        ROUTE + "    path: /b\n",
        (
            "5:5: routes[0].path: the key 'path' is on line 3 already."
            " Remove one of the two"
        ),
    ),
    "yes for true": (
        ROUTE + "    protected: yes\n",
        (
            "5:16: routes[0].protected: expected true, false or optional."
            " Write true, without quotes"
        ),
    ),
    "off for false": (
        ROUTE + "    websocket: {enabled: off}\n",
        (
            "5:26: routes[0].websocket.enabled: expected true or false."
            " Write false, without quotes"
        ),
    ),
    "python object": (
        MINIMAL + "cors: !!python/object/apply:os.system [id]\n",
        "2:7: cors: tags aren't supported. Remove the tag (!…)",
    ),
    "tagged text": (
        ROUTE + "    name: !!binary aGk=\n",
        "5:11: routes[0].name: tags aren't supported. Remove the tag (!…)",
    ),
    "tab": (
        "version: 1\nroutes:\n\t- path: /a\n",
        "3:1: tabs can't indent in YAML. Use spaces",
    ),
    "indentation": (
        "version: 1\ngateway:\n    listen: h:1\n  user_path: /u\n",
        "4:3: ",
    ),
    "colon in text": (
        "version: 1\nname: a: b\n",
        (
            "2:8: a key can't begin here. Check the indentation, and put text with a"
            " colon in quotes"
        ),
    ),
    "open quote": (
        "version: 1\ngateway: {listen: 'x\n",
        "2:19: this isn't closed before the file ends. Close it",
    ),
    "at sign": (
        "version: 1\ncors: @a\n",
        "2:7: this isn't YAML: ",
    ),
    "merge key": (
        ROUTE + "    <<: {name: b}\n",
        (
            "5:5: routes[0].<<: unknown key '<<'. YAML's merge keys aren't supported:"
            " write the keys out"
        ),
    ),
    "key that is a list": ("version: 1\n? [a]\n: 1\n", "2:3: a key must be plain text"),
    "anchor of itself": (
        MINIMAL + "services: &a {b: *a}\n",
        "2:18: services.b: this alias refers to a value that contains it",
    ),
    "no such anchor": (
        MINIMAL + "services: *a\n",
        "2:11: services: no value above has this anchor",
    ),
    "deep": (
        MINIMAL + "cors: " + "[" * 100 + "]" * 100,
        "2:39: lists and mappings are nested too deeply",
    ),
    "control character": (
        "version: 1\ncors: \x07\n",
        "2:7: the character U+0007 isn't allowed in YAML. Remove it",
    ),
    "missing variable": (
        ROUTE + "    name: a-${NAME}-${OTHER}\n",
        (
            "5:11: routes[0].name: the environment variable NAME isn't set."
            " Set it, or write ${NAME:-default}"
        ),
    ),
    "missing variable for the one upstream": (
        "version: 1\nroutes:\n  - path: /a\n    upstream: ${URL}\n",
        (
            "4:15: routes[0].upstream: the environment variable URL isn't set."
            " Set it, or write ${URL:-default}"
        ),
    ),
    "broken variable": (
        ROUTE + "    name: ${1}\n",
        (
            "5:11: routes[0].name: this ${ doesn't begin a variable."
            " Write ${NAME}, ${NAME:-default} or ${file:PATH}, and $${ for a literal ${"
        ),
    ),
    "open variable": (
        ROUTE + "    name: ${NAME\n",
        (
            "5:11: routes[0].name: this ${ doesn't begin a variable."
            " Write ${NAME}, ${NAME:-default} or ${file:PATH}, and $${ for a literal ${"
        ),
    ),
    "bare variable in braces": (
        "version: 1\ngateway: {listen: ${LISTEN}}\n",
        (
            "2:20: this isn't YAML. Within { } and [ ], write a variable in quotes:"
            ' "${NAME}"'
        ),
    ),
    "unknown service": (
        (
            "version: 1\nservices: {orders: {targets: ['http://o']}}\n"
            "routes: [{path: /a, service: ordrs}]\n"
        ),
        (
            "3:30: routes[0].service: there is no service of this name."
            " Did you mean 'orders'?"
        ),
    ),
    "unknown recipe": (
        "version: 1\nsupertokens:\n  recipes:\n    emailpasword: {}\n",
        (
            "4:5: supertokens.recipes.emailpasword: there is no recipe 'emailpasword'."
            " Did you mean 'emailpassword'?"
        ),
    ),
    "nothing where a list is expected": (
        "version: 1\nroutes:\n",
        ("2:8: routes: expected a list. It is empty: write a value, or remove the key"),
    ),
    "route that never matches": (
        (
            "version: 1\nroutes:\n  - {path: /a, upstream: 'http://a', name: first}\n"
            "  - {path: /a/, upstream: 'http://b'}\n"
        ),
        (
            "4:5: routes[1]: this route can never match: first takes all of it"
            " (see routes[0], line 3). Change its path, hosts or methods, or remove one"
            " of the two"
        ),
    ),
}


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD)
def test_one_message_for_each_mistake(file: Path, text: str, expected: str) -> None:
    """A mistake is one message: line, column, key, what is wrong, what to do."""
    (message,) = messages(file, text)
    assert message.startswith(expected)
    assert message == expected or expected.endswith(": ")


def test_all_mistakes_are_reported_in_order(file: Path) -> None:
    """All mistakes are reported together, in the file's order of lines."""
    text = (
        "version: 1\n"
        "gateway: {listen: nowhere}\n"
        "cors: {max_age: x}\n"
        "routes:\n"
        "  - {path: /a/*, service: page, protectd: no}\n"
        "  - {path: /b, upstream: 'http://${HOST}'}\n"
        "  - {path: /b, path: /c, upstream: 'ftp://x'}\n"
    )
    lines = [(one.line, one.path) for one in problems(file, text)]
    assert lines == [
        (2, "gateway.listen"),
        (3, "cors.max_age"),
        (5, "routes[0].path"),
        (5, "routes[0].service"),
        (5, "routes[0].protectd"),
        (6, "routes[1].upstream"),
        (7, "routes[2].path"),
        (7, "routes[2].upstream"),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"version: 1\nname: \xff\n", "2:7: this byte isn't UTF-8"),
        (b"\xef\xbb\xbf\xff", "1:1: this byte isn't UTF-8"),
        (b"\xff\xfev\0e\0r\0", "1:1: this byte isn't UTF-8"),
    ],
    ids=["latin-1", "after a byte order mark", "utf-16"],
)
def test_bytes_that_are_no_text(file: Path, content: bytes, expected: str) -> None:
    """A byte that isn't UTF-8 is reported with its line and column."""
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        settings.load(file, {})
    assert str(caught.value).startswith(f"{file}:{expected}")


def test_a_byte_order_mark_is_ignored(file: Path) -> None:
    """A byte order mark, which some editors write, is not part of the text."""
    file.write_bytes(b"\xef\xbb\xbfversion: 1\n")
    assert settings.load(file, {}).config.version == 1


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file and a folder are problems with the system's reason."""
    for path, why in (
        (tmp_path / "none.yaml", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            settings.load(path, {})
        assert str(caught.value) == f"{path}:1:1: the file can't be read: {why}"


def test_file_that_is_too_large(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file above the limit is refused: a wrong path must not fill the memory."""
    monkeypatch.setattr(source, "_MAX_FILE_BYTES", 1024**2)
    text = "#" * (1024**2 + 1)
    assert messages(file, text) == ["1:1: the file is larger than 1 MiB"]


def test_aliases_are_bounded(file: Path) -> None:
    """Aliases may repeat 100 000 values; nine levels of ten make a billion of them."""
    lines = [MINIMAL, "l0: &l0 [a, a, a, a, a, a, a, a, a, a]\n"]
    for level in range(1, 10):
        items = ", ".join([f"*l{level - 1}"] * 10)
        lines.append(f"l{level}: &l{level} [{items}]\n")
    (message,) = messages(file, "".join(lines))
    assert message.endswith("aliases repeat more than 100000 values")


def test_aliases_have_their_own_place(file: Path) -> None:
    """A mistake in an aliased value is reported at the line that uses the alias."""
    text = (
        "version: 1\n"
        "routes:\n"
        "  - {path: /a, upstream: 'http://a', require: &staff {roles: {any: [x]}}}\n"
        "  - {path: /b, upstream: 'http://b', require: *staff}\n"
        "  - {path: /c, upstream: 'http://c', require: *staff, protected: false}\n"
    )
    assert [one.line for one in problems(file, text)] == [5]
    good = load(file, text.replace(", protected: false", ""))
    assert good.config.routes[1].require == good.config.routes[0].require


# --- values ---


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-7", -7),
        ("0", 0),
        ("1.5", 1.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("|\n         1\n", "1\n"),
        # Text in YAML 1.2, and other things in YAML 1.1:
        ("yes", "yes"),
        ("off", "off"),
        ("22:30", "22:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        # Text that numbers would change:
        ("007", "007"),
        ("1.10", "1.10"),
        ("1e3", "1e3"),
        ("1_000", "1_000"),
        ("+1", "+1"),
        ("9" * 30, "9" * 30),
        (".inf", ".inf"),
        # Variables:
        ("${PORT}", 8001),
        ('"${PORT}"', 8001),
        ("x${PORT}", "x8001"),
        ("${YES}", True),
        ("${EMPTY}", None),
        ("${EMPTY:-x}", "x"),
        ("${NONE:-}", None),
        ("${NONE:-3}", 3),
        ("${NONE:-a b:c}", "a b:c"),
        ("${PORT:-3}", 8001),
        ("${LIST}", "[1]"),
        ("$${PORT}", "${PORT}"),
        ("$$${PORT}", "$${PORT}"),
        ("$PORT", "$PORT"),
        ("${PORT}${PORT}", "80018001"),
    ],
)
def test_values(file: Path, text: str, value: object) -> None:
    """Every plain value but true, false, null and decimal numbers is text.

    A variable's value is read by the same rule, unless it is part of a longer text.
    """
    rule = f"    require: {{claims: [{{path: a, equals: {text}}}]}}\n"
    if "|" in text or "$" in text or "," in text or not text:
        rule = f"    require:\n     claims:\n     - path: a\n       equals: {text}\n"
    loaded = load(file, ROUTE + rule).config.routes[0].require.claims[0].equals
    assert loaded == value
    assert type(loaded) is type(value)


@given(
    st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
        max_size=20,
    )
)
@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_variables_are_never_yaml(file: Path, value: str) -> None:
    """A variable's value is part of one text, whatever YAML syntax it has."""
    text = ROUTE + "    require: {claims: [{path: a, equals: 'x${VALUE}'}]}\n"
    claim = load(file, text, {"VALUE": value}).config.routes[0].require.claims[0]
    assert claim.equals == f"x{value}"


@given(text=st.text(alphabet=" \t\n-:{}[]'\"#&*!|>%@`,?$ab1\x07\xe9", max_size=30))
@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_any_text_gives_problems(file: Path, text: str) -> None:
    """Any text after a mistake gives problems with places, and no other exception."""
    for one in problems(file, f"routes: 1\n{text}"):
        assert one.line >= 1
        assert one.column >= 1
        assert one.message


def test_values_are_not_shown(file: Path) -> None:
    """No message shows a value from the environment or the file."""
    text = (
        "version: 1\n"
        "supertokens:\n"
        "  api_key: ['${KEY}']\n"
        "  connection_uri: 'http://u:${KEY}@core'\n"
        "  anti_csrf: ${KEY}\n"
        "  keys: {timeout: '${KEY}'}\n"
        "routes: [{path: '${KEY}', service: '${KEY}', protected: '${KEY}'}]\n"
    )
    lines = messages(file, text)
    assert len(lines) == 7
    assert "hunter2" not in "".join(lines)
    assert "hunter2" not in "".join(messages(file, "api_key: 'hunter2\n"))
    assert "hunter2" not in "".join(messages(file, "api_key: hunter2: x\n"))


# --- the loaded settings ---


def test_settings_know_places_table_and_warnings(file: Path) -> None:
    """Settings hold the route table, the line of each key, and the warnings.

    A finding that is made later becomes a problem with its line.
    """
    text = (
        "version: 1\n"
        "supertokens: {}\n"
        "services:\n"
        "  lonely: {targets: ['http://l']}\n"
        "routes:\n"
        "  - path: /a\n"
        "    upstream: http://a\n"
    )
    loaded = load(file, text)
    assert loaded.path == str(file)
    assert [route.name for route in loaded.table.routes] == ["0:/a"]
    assert loaded.line(("routes", 0)) == 6
    assert loaded.line(("routes", 0, "upstream")) == 7
    assert loaded.line(("routes", 0, "retry", "attempts")) == 6
    assert [str(one) for one in loaded.warnings] == [
        (
            f"{file}:4:11: services.lonely: no route uses this service."
            " Remove it, or add a route"
        )
    ]
    later = Finding(loc=("routes", 0, "path"), message="it burns", hint="Run")
    assert [str(one) for one in loaded.problems([later])] == [
        f"{file}:6:11: routes[0].path: it burns. Run"
    ]


def test_sample_file_is_valid() -> None:
    """The sample configuration, config/routes.yaml, has no problem and no warning."""
    sample = Path(__file__).parents[2] / "config" / "routes.yaml"
    loaded = settings.load(sample, {})
    assert loaded.table.routes
    assert loaded.warnings == ()
