"""`${file:PATH}`: the text of a file, always as text, and never in a message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.settings import ConfigError, load
from gateway.settings.secret_files import MAX_BYTES

ROUTES = """\
version: 1
supertokens: {{connection_uri: "http://core:3567", api_key: "{value}"}}
services: {{up: {{targets: ["http://up:80"]}}}}
routes:
  - {{path: /, service: up}}
"""


@pytest.fixture
def routes(tmp_path: Path) -> Path:
    return tmp_path / "routes.yaml"


def key_of(routes: Path, value: str) -> str | None:
    routes.write_text(ROUTES.format(value=value), encoding="utf-8")
    return load(routes, environ={}).config.supertokens.api_key


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b"secret\r\n", "secret"),
        (b"12345\n", "12345"),
        (b"true", "true"),
        (b"${HOME}", "${HOME}"),
    ],
)
def test_the_value_is_the_text_of_the_file(
    routes: Path, tmp_path: Path, data: bytes, value: str
) -> None:
    """Without one line break at its end; not read as YAML, and not expanded again."""
    secret = tmp_path / "key"
    secret.write_bytes(data)
    link = tmp_path / "link"  # as Kubernetes mounts secrets
    link.symlink_to(secret)
    assert key_of(routes, f"${{file:{link}}}") == value
    assert key_of(routes, f"a-${{file:{secret}}}-b") == f"a-{value}-b"


def test_it_is_read_again_at_each_load(routes: Path, tmp_path: Path) -> None:
    secret = tmp_path / "key"
    for value in ("one", "two"):
        secret.write_text(value)
        assert key_of(routes, f"${{file:{secret}}}") == value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "can't be read: No such file or directory"),
        (lambda path: path.mkdir(), "isn't a regular file"),
        (os.mkfifo, "isn't a regular file"),
        (lambda path: path.write_bytes(b"s3cret\xff"), "isn't text in UTF-8"),
        (
            lambda path: path.write_bytes(b"s3cret" * MAX_BYTES),
            f"has more than {MAX_BYTES} bytes",
        ),
    ],
    ids=["missing", "directory", "pipe", "binary", "large"],
)
def test_a_file_that_cannot_be_used(
    routes: Path, tmp_path: Path, make: object, message: str
) -> None:
    """The problem has the place of the reference, a remedy, and nothing of the file."""
    secret = tmp_path / "key"
    assert callable(make)
    make(secret)
    with pytest.raises(ConfigError) as refused:
        key_of(routes, f"${{file:{secret}}}")
    (problem,) = refused.value.problems
    assert (problem.line, problem.path) == (2, "supertokens.api_key")
    assert message in problem.message
    assert problem.hint
    assert "s3cret" not in str(problem)


def test_a_dollar_sign_twice_is_no_reference(routes: Path) -> None:
    assert key_of(routes, "$${file:/x}") == "${file:/x}"
