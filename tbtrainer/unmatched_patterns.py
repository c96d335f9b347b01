"""Warns of regular expressions that match no parameter."""

import logging
import re
from collections.abc import Iterable

from tbtrainer.arguments import TensorBoardArguments

logger = logging.getLogger(__name__)


def warn_of_patterns_without_match(arguments: TensorBoardArguments, names: Iterable[str]) -> None:
    """Warns of each pattern that matches no parameter, and names some that exist.

    Args:
        arguments: The arguments with `histogram_include` and `histogram_exclude`.
        names: Parameter names of the model, as its author wrote them.
    """
    known = list(names)
    for field_name in ("histogram_include", "histogram_exclude"):
        for pattern in getattr(arguments, field_name) or []:
            if not any(re.search(pattern, name) for name in known):
                some = ", ".join(known[:: max(1, len(known) // 4)][:4])
                logger.warning(
                    "%s=%r matches no parameter of this model; it has, among %d: %s.",
                    field_name,
                    pattern,
                    len(known),
                    some,
                )
