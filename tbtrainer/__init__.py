"""Hugging Face's `Trainer`, whose runs show in TensorBoard what happens inside the model."""

from tbtrainer.arguments import (
    TBSeq2SeqTrainingArguments,
    TBTrainingArguments,
    TensorBoardArguments,
)
from tbtrainer.errors import NonFiniteError
from tbtrainer.observers.observer import Observer
from tbtrainer.panels import Panel
from tbtrainer.trainer import TBSeq2SeqTrainer, TBTrainer, TBTrainerMixin

__version__ = "0.1.0"

__all__ = [
    "NonFiniteError",
    "Observer",
    "Panel",
    "TBSeq2SeqTrainer",
    "TBSeq2SeqTrainingArguments",
    "TBTrainer",
    "TBTrainerMixin",
    "TBTrainingArguments",
    "TensorBoardArguments",
]
