"""The compiled libraries are built where there is a compiler, and nothing needs them."""

import ctypes
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.limits import HANG_SECONDS

ROOT = Path(__file__).parents[2]
# The modules that are built, and functions of each.
FUNCTIONS = {
    "_cpu_pass": ("tbtrainer_measure", "tbtrainer_squares"),
    "_event_scan": ("tbtrainer_scan",),
}
NO_COMPILER = "/nonexistent/compiler"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the package is built from, without anything that was built."""
    copy = tmp_path / "checkout"
    built = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "tbtrainer", copy / "tbtrainer", ignore=built)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def run_setup(checkout: Path, *command: str, **environment: str) -> None:
    pytest.importorskip("setuptools")
    subprocess.run(
        [sys.executable, "setup.py", "-q", *command],
        cwd=checkout,
        env={**os.environ, **environment},
        timeout=HANG_SECONDS,
        check=True,
    )


def libraries(folder: Path) -> dict[str, Path]:
    """The libraries below a folder, by name."""
    return {path.name.split(".")[0]: path for path in folder.rglob("*.so")}


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_compiler_builds_libraries_that_load(checkout: Path) -> None:
    run_setup(checkout, "build_ext", "--inplace", CFLAGS="-Wall -Wextra -Werror")
    built = libraries(checkout / "tbtrainer")
    assert set(built) == set(FUNCTIONS)
    for name, functions in FUNCTIONS.items():
        loaded = ctypes.CDLL(str(built[name]))
        assert [one for one in functions if not hasattr(loaded, one)] == []


def test_without_a_compiler_the_package_is_built_all_the_same(checkout: Path) -> None:
    run_setup(checkout, "build", CC=NO_COMPILER)
    assert list(checkout.glob("build/*/tbtrainer/statistics/readers/cpu_compiled.py"))
    assert libraries(checkout) == {}


def test_the_source_distribution_has_the_sources_of_the_libraries(checkout: Path) -> None:
    run_setup(checkout, "sdist")
    (archive,) = checkout.glob("dist/*.tar.gz")
    with tarfile.open(archive) as files:
        names = {Path(name).name for name in files.getnames()}
    assert {"cpu_pass.c", "cpu_squares.c", "cpu_blocks.h", "cpu_elements.h"} <= names
    assert "event_scan.c" in names
