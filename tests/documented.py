"""The code of the documentation's pages, to be run by tests."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What the pages leave to the reader.
GIVEN = """
from tests import tiny

model = tiny.classifier()
train_data, eval_data = tiny.Sequences(64), tiny.Sequences(16, seed=1)
"""


def python_blocks(page: str) -> list[str]:
    """The blocks of Python of a page, such as `trackers.md`, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)
