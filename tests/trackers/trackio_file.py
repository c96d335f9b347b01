"""Trackio's local database, read back."""

import json
import sqlite3
from pathlib import Path
from typing import Any


def history(directory: Path) -> list[dict[str, Any]]:
    """Rows of all runs below a directory, in order. `_step` is Trackio's own step."""
    rows = []
    for file in directory.rglob("*.db"):
        database = sqlite3.connect(file)
        found = database.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
        rows += [{**json.loads(metrics), "_step": step} for step, metrics in found]
        database.close()
    return rows
