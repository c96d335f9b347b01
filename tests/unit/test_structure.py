"""The house: arrows go down only, files have the size of one thing, functions fit a screen."""

import ast
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tbtrainer"

# A layer may import from those below it, and from itself.
LAYERS = (
    ("tbtrainer.__main__",),
    ("tbtrainer.command_line",),
    ("tbtrainer.trainer",),
    ("tbtrainer.telemetry", "tbtrainer.signatures"),
    ("tbtrainer.given_arguments",),
    (
        *("tbtrainer.steps", "tbtrainer.evaluations", "tbtrainer.log_history"),
        *("tbtrainer.mirroring", "tbtrainer.wrapping", "tbtrainer.stock_callback"),
    ),
    ("tbtrainer.step_guard", "tbtrainer.step_findings", "tbtrainer.second_forward"),
    ("tbtrainer.observers", "tbtrainer.metrics"),
    ("tbtrainer.tensorboard_server",),
    ("tbtrainer.run",),
    ("tbtrainer.reading",),
    ("tbtrainer.event_file",),
    ("tbtrainer.unmatched_patterns",),
    ("tbtrainer.arguments", "tbtrainer.isolation"),
    ("tbtrainer.argument_checks",),
    ("tbtrainer.panels",),
    ("tbtrainer.redaction",),
    ("tbtrainer.random_states",),
    ("tbtrainer.sharding",),
    ("tbtrainer.statistics",),
    (
        *("tbtrainer.tags", "tbtrainer.health_tags", "tbtrainer.speed_tags", "tbtrainer.tag"),
        *("tbtrainer.panel_tags", "tbtrainer.run_tags", "tbtrainer.histogram_tags"),
        *("tbtrainer.norm_tags",),
        *("tbtrainer.records", "tbtrainer.dashboard_records", "tbtrainer.errors"),
    ),
)
# What stands aside: the run knows tags and values, the statistics know tensors.
UNKNOWN_TO_EACH_OTHER = (
    (
        ("tbtrainer.run", "tbtrainer.reading", "tbtrainer.event_file"),
        ("tbtrainer.sharding", "tbtrainer.statistics"),
    ),
)
MOST_LINES = 300
# One kernel is one function; its file holds two and what launches them.
LONGER = {"tbtrainer/statistics/readers/kernels.py"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(name: str) -> Iterator[str]:
    """The modules that a module imports anywhere, those for type checkers included."""
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and node.module in modules():
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules() else node.module


@cache
def graph() -> dict[str, frozenset[str]]:
    return {name: frozenset(imports_of(name)) - {name} for name in modules()}


def layer_of(name: str) -> int | None:
    for depth, members in enumerate(LAYERS):
        if any(name == member or name.startswith(f"{member}.") for member in members):
            return depth
    return None


def circle_from(start: str) -> list[str] | None:
    """The names along a path of imports that leads back to its start, if there is one."""
    paths = [[start]]
    seen: set[str] = set()
    while paths:
        path = paths.pop()
        for imported in graph()[path[-1]]:
            if imported == start:
                return [*path, start]
            if imported not in seen:
                seen.add(imported)
                paths.append([*path, imported])
    return None


def functions() -> Iterator[tuple[str, int]]:
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                has_docstring = ast.get_docstring(node) is not None
                begin = first.end_lineno if has_docstring else node.lineno
                yield f"{name}.{node.name}", (node.end_lineno or 0) - (begin or 0)


@pytest.mark.parametrize("name", modules())
def test_no_import_leads_back(name: str) -> None:
    assert circle_from(name) is None


@pytest.mark.parametrize("name", [name for name in modules() if layer_of(name) is not None])
def test_imports_lead_down(name: str) -> None:
    depth = layer_of(name)
    upward = [other for other in graph()[name] if (layer_of(other) or 0) < (depth or 0)]
    assert [other for other in upward if layer_of(other) is not None] == []


@pytest.mark.parametrize("ones, others", UNKNOWN_TO_EACH_OTHER)
def test_layers_that_stand_aside_do_not_know_each_other(
    ones: tuple[str, ...], others: tuple[str, ...]
) -> None:
    found = [
        (name, other)
        for name in modules()
        for other in graph()[name]
        for here, there in ((ones, others), (others, ones))
        if name.startswith(here) and other.startswith(there)
    ]
    assert found == []


def test_every_module_belongs_to_a_layer() -> None:
    assert [name for name in modules() if layer_of(name) is None and name != "tbtrainer"] == []


def test_a_module_is_no_longer_than_one_thing() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in modules().values()
    }
    assert {name: n for name, n in lengths.items() if n > MOST_LINES and name not in LONGER} == {}


def test_the_table_of_contents_is_short() -> None:
    assert len(modules()["tbtrainer.trainer"].read_text().splitlines()) < 250


def test_a_function_fits_a_screen() -> None:
    assert [(name, lines) for name, lines in functions() if lines > 60] == []


def test_the_median_function_is_short() -> None:
    assert statistics.median(lines for _, lines in functions()) < 10
