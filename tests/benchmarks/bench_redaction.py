"""Hidden tokens, hidden harmless values and time of the redaction; beside detect-secrets if there.

python tests/benchmarks/bench_redaction.py
"""

import importlib.util
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tbtrainer.redaction import redacted
from tests.harmless_values import HARMLESS
from tests.token_forms import KNOWN_FORMS, RANDOM_FORMS, tokens

TOKENS = 300


def ours(key: str, value: Any) -> bool:
    """Whether tbtrainer hides anything of a value."""
    return bool(redacted({key: value}) != {key: value})


def detect_secrets() -> Callable[[str, Any], bool]:
    """Returns whether detect-secrets, with all its plugins, finds anything in `"key": "value"`."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    plugins = [plugin() for plugin in get_mapping_from_secret_type_to_class().values()]

    def finds(key: str, value: Any) -> bool:
        line = json.dumps({key: value})
        return any(p.analyze_line(filename="", line=line, line_number=1) for p in plugins)

    return finds


def names_in_the_source_of(package: str) -> list[str]:
    """Returns the long names in a package's source: of classes, functions, models and files."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    names: set[str] = set()
    for folder in spec.submodule_search_locations:
        for path in Path(folder).rglob("*.py"):
            names.update(re.findall(r"[\w/.-]{16,}", path.read_text(errors="ignore")))
    return sorted(names)


def main() -> None:
    """Prints one table of rates, and the cost of each detector."""
    detectors = {"tbtrainer": ours}
    if importlib.util.find_spec("detect_secrets"):
        detectors["detect-secrets"] = detect_secrets()
    rows = {
        name: [("note", token) for token in tokens(form, TOKENS)]
        for name, form in {**KNOWN_FORMS, **RANDOM_FORMS}.items()
    }
    rows["harmless values of trainings"] = HARMLESS
    rows["names in transformers"] = [("note", n) for n in names_in_the_source_of("transformers")]
    print(f"{'hidden, in percent':45}{'of':>8}", *(f"{name:>16}" for name in detectors))
    for row, values in rows.items():
        shares = [
            100 * sum(finds(*v) for v in values) / len(values) for finds in detectors.values()
        ]
        print(f"{row:45}{len(values):8}", *(f"{share:16.2f}" for share in shares))
    for name, finds in detectors.items():
        began = time.process_time()
        for value in HARMLESS:
            finds(*value)
        print(f"{name}: {1e6 * (time.process_time() - began) / len(HARMLESS):.0f} us per value")


if __name__ == "__main__":
    main()
