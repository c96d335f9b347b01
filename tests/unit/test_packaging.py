"""What a user finds after installing the package, and a developer after cloning it."""

import ast
import configparser
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from packaging.version import Version

import tbtrainer
from tests.limits import HANG_SECONDS

ROOT = Path(__file__).parents[2]


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def make_targets() -> list[str]:
    listed = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None
    return listed.group(1).split()


def printed_by(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=HANG_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_version_is_the_one_that_is_installed() -> None:
    assert tbtrainer.__version__ == setup_cfg()["metadata"]["version"]


def test_the_changelog_has_an_entry_for_the_version() -> None:
    assert f"## [{tbtrainer.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_public_name_exists() -> None:
    missing = [name for name in tbtrainer.__all__ if not hasattr(tbtrainer, name)]
    assert missing == []


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {file.parent for file in (ROOT / "tbtrainer").rglob("*.py")}
    assert [str(f) for f in folders if not (f / "__init__.py").exists()] == []


def test_type_hints_are_shipped() -> None:
    assert (ROOT / "tbtrainer" / "py.typed").exists()
    assert "py.typed" in setup_cfg()["options.package_data"]["tbtrainer"]


def test_every_file_that_is_no_module_is_shipped() -> None:
    package = ROOT / "tbtrainer"
    others = {
        str(file.relative_to(package))
        for file in package.rglob("*")
        # The compiled reader is built from the C files, and is no file of the repository.
        if file.is_file() and file.suffix not in {".py", ".pyc", ".c", ".h", ".so"}
    }
    shipped = setup_cfg()["options.package_data"]["tbtrainer"]
    assert others == set(re.split(r"[\s,]+", shipped.strip()))


def test_the_import_loads_neither_evaluate_nor_tensorflow() -> None:
    code = (
        "import sys; from tbtrainer import TBTrainer; "
        "print([m for m in ('evaluate', 'tensorflow') if m in sys.modules])"
    )
    assert printed_by(code) == "[]\n"


LARGE = ("torch", "transformers", "pandas", "matplotlib", "tensorboard", "fsspec", "numpy")


def test_the_import_alone_loads_no_large_library() -> None:
    code = f"import sys, tbtrainer; print([m for m in {LARGE} if m in sys.modules])"
    assert printed_by(code) == "[]\n"


def test_public_names_are_there_before_they_are_used() -> None:
    code = (
        "import tbtrainer; names = set(tbtrainer.__all__); assert names <= set(dir(tbtrainer)); "
        "from tbtrainer import *; assert names <= set(globals()); print(TBTrainer.__module__)"
    )
    assert printed_by(code) == "tbtrainer.trainer\n"


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        tbtrainer.nothing  # noqa: B018


def test_type_checkers_see_every_public_name() -> None:
    """The names are imported lazily, and for type checkers once more."""
    tree = ast.parse((ROOT / "tbtrainer" / "__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert {name: seen[name] for name in tbtrainer.__all__} == tbtrainer._MODULES


def test_make_help_lists_every_target() -> None:
    command = ["make", "--no-print-directory", "help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=HANG_SECONDS)
    assert [line.split()[0] for line in done.stdout.splitlines()] == make_targets()


def test_the_guide_for_contributors_names_every_target() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    assert [target for target in make_targets() if f"make {target}" not in guide] == []


def test_the_oldest_versions_tested_are_the_lower_bounds() -> None:
    required = setup_cfg()["options"]["install_requires"].split()
    bounds = dict(requirement.split(",")[0].split(">=") for requirement in required)
    pins = re.findall(
        r"^(\S+)==(\S+)$", (ROOT / "constraints-oldest.txt").read_text(), re.MULTILINE
    )
    assert {name: Version(pin) for name, pin in pins} == {n: Version(b) for n, b in bounds.items()}


def test_no_document_installs_the_name_from_the_index() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.py")]
    from_index = re.compile(r"pip install [\"']?tbtrainer\b")
    assert [str(page) for page in pages if from_index.search(page.read_text())] == []


def test_a_deprecated_call_of_our_own_is_an_error() -> None:
    deprecated = "import warnings; warnings.warn('old', category)"
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        with pytest.raises(category):
            exec(deprecated, {"__name__": "tbtrainer.run.directory", "category": category})


def test_a_deprecated_call_of_another_library_is_ignored() -> None:
    deprecated = "import warnings; warnings.warn('old', DeprecationWarning)"
    with warnings.catch_warnings(record=True) as caught:
        exec(deprecated, {"__name__": "tbtrainer_plugin.run"})
        exec(deprecated, {"__name__": "transformers.trainer"})
    assert caught == []


def test_every_page_of_documentation_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")]
    assert [str(page) for page in pages if str(page) not in navigation] == []


@pytest.mark.parametrize("name", ["metrics", "panels", "reading", "records"])
def test_submodules_are_there_after_the_import(name: str) -> None:
    code = f"import tbtrainer; print(tbtrainer.{name}.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"tbtrainer.{name}"
