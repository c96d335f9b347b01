"""Warns of regular expressions that match nothing, and of targets of which nothing is chosen."""

import logging
import re
from collections.abc import Sequence

from torch import nn

from tbtrainer.arguments import MODULE_TARGETS, TensorBoardArguments
from tbtrainer.sharding.module_names import named_modules
from tbtrainer.sharding.parameter_names import clean_names

logger = logging.getLogger(__name__)


def warn_of_patterns_without_match(arguments: TensorBoardArguments, model: nn.Module) -> None:
    """Warns of each pattern that matches no name, and names some that exist.

    The names of modules count if `histogram_targets` names a target with modules. If the patterns
    match modules only, the targets with parameters show nothing, which is one warning.

    Args:
        arguments: The arguments with `histogram_include` and `histogram_exclude`.
        model: As it was given to the trainer.
    """
    has_modules = any(target in MODULE_TARGETS for target in arguments.histogram_targets)
    kinds = "parameter and no module" if has_modules else "parameter"
    own = clean_names(name for name, _ in model.named_parameters())
    modules = [name for name in named_modules(model) if name] if has_modules else []
    known = [*own, *modules]
    for field_name in ("histogram_include", "histogram_exclude"):
        for pattern in getattr(arguments, field_name) or []:
            if not _matches(pattern, known):
                some = ", ".join(known[:: max(1, len(known) // 4)][:4])
                logger.warning(
                    "%s=%r matches no %s of this model; it has, among %d: %s.",
                    field_name,
                    pattern,
                    kinds,
                    len(known),
                    some,
                )
    include = arguments.histogram_include or []
    with_parameters = [t for t in arguments.histogram_targets if t not in MODULE_TARGETS]
    matches_modules = has_modules and any(_matches(pattern, known) for pattern in include)
    if with_parameters and matches_modules and not any(_matches(p, own) for p in include):
        logger.warning(
            "histogram_include=%r matches modules only, so there is no histogram of: %s. To show "
            "all of them, add the pattern '(weight|bias)$'.",
            include,
            ", ".join(with_parameters),
        )


def _matches(pattern: str, names: Sequence[str]) -> bool:
    return any(re.search(pattern, name) for name in names)
