"""The states of observers that are kept in a checkpoint's marker, within its limit."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tbtrainer.redaction import redacted, redacted_text
from tbtrainer.run.saved_run import MOST_BYTES, SavedRun

logger = logging.getLogger(__name__)


class ObserverStates:
    """Adds the states of observers to the markers of a run's checkpoints.

    A state is left out if it is not JSON. If the marker would become longer than `MOST_BYTES`, the
    largest states are left out. Both are logged once per observer.
    """

    def __init__(self) -> None:
        self._warned_of: set[str] = set()

    def added_to(self, saved: SavedRun, states: Mapping[str, Any]) -> SavedRun:
        """Returns a marker with the states that it can hold. Secrets in them are hidden.

        Args:
            saved: The marker without states.
            states: The state of each observer, by its name: numbers, texts, booleans, `None`, and
                lists and mappings of them. NaN and infinities are not JSON.
        """
        kept, not_json = _json_states(states)
        too_large = []
        while kept and len(replace(saved, observers=kept).to_bytes()) > MOST_BYTES:
            too_large.append(max(kept, key=lambda name: len(json.dumps(kept[name]))))
            del kept[too_large[-1]]
        self._warn(not_json, "they are not JSON")
        self._warn(too_large, f"the file tensorboard_run.json is limited to {MOST_BYTES} bytes")
        return replace(saved, observers=kept)

    def _warn(self, names: list[str], why: str) -> None:
        new = [name for name in names if name not in self._warned_of]
        if new:
            self._warned_of.update(new)
            logger.warning(
                "The states of these observers are not saved in checkpoints: %s (%s). A training "
                "that resumes from one begins without them.",
                redacted_text(", ".join(new)),
                why,
            )


def _json_states(states: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the states as plain JSON, and the names of those that JSON cannot hold."""
    kept: dict[str, Any] = {}
    not_json = []
    for name, state in states.items():
        try:
            # `redacted` would replace what is not JSON by the name of its type.
            json.dumps(state, allow_nan=False)
            kept[str(name)] = json.loads(json.dumps(redacted(state)))
        except (TypeError, ValueError, RecursionError):
            not_json.append(str(name))
    return kept, not_json
