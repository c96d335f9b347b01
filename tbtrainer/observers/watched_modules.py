"""The modules of a training whose outputs are shown."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from tbtrainer.observers.training import Training
from tbtrainer.sharding.module_names import block_names, compiled_modules, named_modules
from tbtrainer.sharding.parameter_names import has_match

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WatchedModules:
    """Some modules of a model.

    Attributes:
        model: The model without its wrappers.
        names: Name of each module.
        modules: The modules, in the order of the names.
        compiled: Names of modules that were chosen, and are left out because they are compiled.
    """

    model: nn.Module
    names: tuple[str, ...]
    modules: tuple[nn.Module, ...]
    compiled: tuple[str, ...]

    @classmethod
    def of(cls, training: Training) -> "WatchedModules":
        """Chooses the modules, as the arguments of the training say.

        With `histogram_include` these are the modules whose names have a match, and otherwise the
        blocks. Those whose names have a match of `histogram_exclude` are left out.

        Args:
            training: What is known of it.
        """
        arguments, modules = training.arguments, named_modules(training.model)
        model = modules.pop("")
        include, exclude = arguments.histogram_include, arguments.histogram_exclude
        blocks = block_names(training.model) if include is None else set()
        chosen = {
            name: module
            for name, module in modules.items()
            if (name in blocks if include is None else has_match(name, include))
            and not has_match(name, exclude or ())
        }
        compiled = compiled_modules(training.model)
        left_out = [
            name
            for name, module in chosen.items()
            # TorchScript refuses hooks.
            if id(module) in compiled or isinstance(module, torch.jit.ScriptModule)
        ]
        shown = {name: module for name, module in chosen.items() if name not in set(left_out)}
        return cls(model, tuple(shown), tuple(shown.values()), tuple(left_out))

    def warn(self, targets: Iterable[str]) -> None:
        """Logs why modules are not shown, if some are not.

        Args:
            targets: What would be shown of them.
        """
        shown = " and ".join(targets)
        if self.compiled:
            logger.warning(
                "histogram_targets: %s of %d of %d modules are not shown, because torch.compile "
                "leaves out hooks inside of a compiled model. Among them: %s. Everything else is "
                "shown.",
                shown,
                len(self.compiled),
                len(self.compiled) + len(self.names),
                ", ".join(self.compiled[:3]),
            )
        elif not self.names:
            logger.warning(
                "histogram_targets: %s are not shown, because no module of this model is chosen. "
                "By default the numbered blocks are, such as `layers.3`. Otherwise name modules in "
                "histogram_include, such as %s. Everything else is shown.",
                shown,
                ", ".join(repr(name) for name, _ in self._some()) or "none",
            )

    def _some(self) -> list[tuple[str, nn.Module]]:
        return list(self.model.named_children())[:3]
