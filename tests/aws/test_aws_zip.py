"""The zip file of a function, as far as no package is downloaded for it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tools.aws_zip import add_gateway, compile_all, pack, requirements

LOCKED = """\
# by uv
aiohttp==3.14.5 \\
    --hash=sha256:aa
    # via supertokens-gateway
click==8.4 \\
    --hash=sha256:bb
uvloop==0.22 ; sys_platform != 'win32' \\
    --hash=sha256:cc
yarl==1.2 \\
    --hash=sha256:dd
"""


def test_what_a_function_needs_not_is_left_out() -> None:
    """With its hashes; all else stays as it is locked."""
    kept = requirements(LOCKED)
    assert kept.startswith("# by uv\naiohttp==3.14.5 \\\n    --hash=sha256:aa\n")
    assert kept.endswith("yarl==1.2 \\\n    --hash=sha256:dd\n")
    assert "bb" not in kept
    assert "cc" not in kept


def test_equal_contents_make_equal_files(tmp_path: Path) -> None:
    """And modules are compiled so that no source is looked at."""
    config = tmp_path / "routes.yaml"
    config.write_text("version: 1\n")
    files = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        add_gateway(folder, [config])
        compile_all(folder)
        files.append(tmp_path / f"{name}.zip")
        assert pack(folder, files[-1]) > 1_000_000
    assert files[0].read_bytes() == files[1].read_bytes()
    with zipfile.ZipFile(files[0]) as packed:
        names = packed.namelist()
        assert "routes.yaml" in names
        assert not [name for name in names if name.startswith("gateway/cli/")]
        (compiled,) = [
            name for name in names if name.startswith("gateway/aws/__pycache__/events.")
        ]
        # PEP 552: the flags say that it has a hash, and that this isn't checked.
        assert packed.read(compiled)[4:8] == b"\x01\x00\x00\x00"


def test_the_parts_that_are_left_out_are_not_imported() -> None:
    """By the handler and the authorizer."""
    program = (
        "import sys, gateway.aws.serving, gateway.aws.authorizing; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"click", "rich", "uvloop", "prometheus_client", "redis"}
    rooms = {".".join(name.split(".")[:2]) for name in done.stdout.split()}
    assert not rooms & {"gateway.cli", "gateway.dev", "gateway.doctor"}
