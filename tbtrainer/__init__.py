"""Hugging Face's `Trainer`, whose runs show in TensorBoard what happens inside the model."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tbtrainer.arguments import (
        TBSeq2SeqTrainingArguments,
        TBTrainingArguments,
        TensorBoardArguments,
    )
    from tbtrainer.errors import NonFiniteError
    from tbtrainer.observers.histogram_target import HistogramTarget
    from tbtrainer.observers.observer import Observer
    from tbtrainer.panels import Panel
    from tbtrainer.reading import read_run
    from tbtrainer.trainer import TBSeq2SeqTrainer, TBTrainer, TBTrainerMixin

__version__ = "0.1.0"

__all__ = [
    "HistogramTarget",
    "NonFiniteError",
    "Observer",
    "Panel",
    "TBSeq2SeqTrainer",
    "TBSeq2SeqTrainingArguments",
    "TBTrainer",
    "TBTrainerMixin",
    "TBTrainingArguments",
    "TensorBoardArguments",
    "read_run",
]

# Where each name comes from. It is imported when it is first used: `read_run` and the command line
# start without PyTorch and transformers, which take seconds.
_MODULES = {
    "HistogramTarget": "tbtrainer.observers.histogram_target",
    "NonFiniteError": "tbtrainer.errors",
    "Observer": "tbtrainer.observers.observer",
    "Panel": "tbtrainer.panels",
    "TBSeq2SeqTrainer": "tbtrainer.trainer",
    "TBSeq2SeqTrainingArguments": "tbtrainer.arguments",
    "TBTrainer": "tbtrainer.trainer",
    "TBTrainerMixin": "tbtrainer.trainer",
    "TBTrainingArguments": "tbtrainer.arguments",
    "TensorBoardArguments": "tbtrainer.arguments",
    "read_run": "tbtrainer.reading",
}
# Documented ones, which `import tbtrainer` alone makes usable.
_SUBMODULES = ("metrics", "panels", "reading", "records")


def __getattr__(name: str) -> Any:
    """Imports a public name or a documented submodule when it is first used."""
    if name in _SUBMODULES:
        return importlib.import_module(f"tbtrainer.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists the public names, for completion, also before they are used."""
    return sorted({*globals(), *__all__})
