"""The tests themselves: a name is one promise, and short."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
MOST_WORDS = 10


def names_of_tests() -> Iterator[str]:
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node.name


def test_a_name_has_at_most_ten_words() -> None:
    names = set(names_of_tests())
    assert len(names) > 500
    assert {name for name in names if len(name.split("_")) - 1 > MOST_WORDS} == set()
