"""What a user finds after installing the package, and a developer after cloning it."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import tbtrainer

ROOT = Path(__file__).parents[2]


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def make_targets() -> list[str]:
    listed = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None
    return listed.group(1).split()


def test_the_version_is_the_one_that_is_installed():
    assert tbtrainer.__version__ == setup_cfg()["metadata"]["version"]


def test_the_changelog_has_an_entry_for_the_version():
    assert f"## [{tbtrainer.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_public_name_exists():
    missing = [name for name in tbtrainer.__all__ if not hasattr(tbtrainer, name)]
    assert missing == []


def test_every_folder_with_modules_is_a_package_and_so_is_installed():
    folders = {file.parent for file in (ROOT / "tbtrainer").rglob("*.py")}
    assert [str(f) for f in folders if not (f / "__init__.py").exists()] == []


def test_type_hints_are_shipped():
    assert (ROOT / "tbtrainer" / "py.typed").exists()
    assert "py.typed" in setup_cfg()["options.package_data"]["tbtrainer"]


def test_importing_the_package_loads_no_metric_library_and_no_tensorflow():
    code = (
        "import sys, tbtrainer; print([m for m in ('evaluate', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_make_help_lists_every_target():
    command = ["make", "--no-print-directory", "help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert [line.split()[0] for line in done.stdout.splitlines()] == make_targets()


def test_the_guide_for_contributors_names_every_target():
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    assert [target for target in make_targets() if f"make {target}" not in guide] == []


def test_every_page_of_the_documentation_is_in_its_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")]
    assert [str(page) for page in pages if str(page) not in navigation] == []
