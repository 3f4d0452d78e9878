"""Make the zip file of a function of AWS Lambda (`make aws-zip`); see docs/aws.md.

It holds the versions of deploy/requirements.txt, the gateway, and the files of the
route table, for the Python that runs this and Linux on x86_64. Modules are compiled,
and checked against no source: a function can't write compiled modules, so each start
would compile them all.
"""

from __future__ import annotations

import argparse
import compileall
import platform
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
OUTPUT: Final = ROOT / "dist" / "aws.zip"
_UNUSED: Final = frozenset(
    {
        *("click", "rich", "markdown-it-py", "mdurl", "pygments"),  # the command line
        *("uvloop", "prometheus-client", "redis"),  # `gateway serve`
    }
)
"""Distributions that a function needs not, among those of the image."""
_UNUSED_FOLDERS: Final = ("phonenumbers/geodata", "phonenumbers/carrierdata", "tests")
"""Names of places and of carriers, and a library's own tests: a quarter of all."""
_NOT_SHIPPED: Final = ("cli", "dev", "doctor", "aiohttp_app")
"""Rooms of the gateway that a function needs not."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""Equal contents make equal files."""
_CHECK: Final = """\
import sys
sys.path.insert(0, sys.argv[1])
import gateway.aws.authorizing, gateway.aws.serving, gateway.supertokens.setup
"""
_AL2023: Final = sys.version_info >= (3, 12)
"""AWS runs these versions on Amazon Linux 2023 (glibc 2.34), older ones on 2 (2.26)."""


def requirements(text: str) -> str:
    """Return the lines of a lock file without those of `_UNUSED`."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    return "".join(block for block in blocks if block.partition("==")[0] not in _UNUSED)


def install(folder: Path) -> None:
    """Install what the gateway depends on into *folder*, for AWS' Linux."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements((ROOT / "deploy/requirements.txt").read_text()))
        file.flush()
        newest = 34 if _AL2023 else 26
        tags = ["manylinux2014", *(f"manylinux_2_{n}" for n in range(5, newest + 1))]
        platforms = [f"--platform={tag}_x86_64" for tag in tags]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
        how = ["--no-deps", "--no-compile", "--only-binary=:all:", "--require-hashes"]
        subprocess.run(  # noqa: S603 - its own arguments
            [*pip, "--quiet", *how, *platforms, "--target", folder, "-r", file.name],
            check=True,
        )
    for name in _UNUSED_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def add_gateway(folder: Path, configs: Sequence[Path]) -> None:
    """Copy the gateway's package and the files *configs* into *folder*."""
    unwanted = shutil.ignore_patterns("__pycache__", *_NOT_SHIPPED)
    shutil.copytree(ROOT / "gateway", folder / "gateway", ignore=unwanted)
    for config in configs:
        shutil.copy(config, folder / config.name)


def compile_all(folder: Path) -> None:
    """Compile all modules in *folder*; where the sources are doesn't matter.

    Raises:
        SystemExit: one can't be compiled.
    """
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    is_done = compileall.compile_dir(
        folder,
        quiet=1,
        stripdir=str(folder),
        prependdir="/var/task",
        invalidation_mode=mode,
    )
    if not is_done:
        raise SystemExit("error: a module can't be compiled")


def pack(folder: Path, output: Path) -> int:
    """Write the files in *folder* to *output*; return their size in bytes."""
    output.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                info = zipfile.ZipInfo(str(path.relative_to(folder)), _EPOCH)
                info.external_attr = 0o644 << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                content = path.read_bytes()
                size += len(content)
                packed.writestr(info, content)
    return size


def main() -> None:
    """Make the file, try its imports, and print its size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", type=Path, help="files of a route table")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        install(folder)
        add_gateway(folder, chosen.configs)
        compile_all(folder)
        tried = ""
        if (sys.platform, platform.machine()) == ("linux", "x86_64"):
            began = time.perf_counter()
            subprocess.run(  # noqa: S603 - its own arguments
                [sys.executable, "-I", "-S", "-c", _CHECK, name], check=True
            )
            tried = f", imported in {time.perf_counter() - began:.2f} s here"
        size = pack(folder, chosen.output)
    zipped = chosen.output.stat().st_size
    sys.stdout.write(
        f"{chosen.output}: {zipped / 1e6:.1f} MB, {size / 1e6:.1f} MB unzipped,"
        f" for python3.{sys.version_info.minor} on x86_64{tried}\n"
    )


if __name__ == "__main__":
    main()
