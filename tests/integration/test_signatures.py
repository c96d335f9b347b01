"""`help()`, completion and `inspect` show the parameters of the trainer that is extended."""

import inspect
import pydoc
from typing import Any

import pytest
import torch
from transformers import Seq2SeqTrainer, Trainer

from tbtrainer import TBSeq2SeqTrainer, TBTrainer, TBTrainerMixin

METHODS = ("__init__", "train", "evaluate", "log", "training_step", "save_model")


class Other(Trainer):
    """A trainer with a parameter of its own."""

    def __init__(self, model: torch.nn.Module, temperature: float = 0.9, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)

    def evaluate(self, rounds: int = 1) -> dict[str, float]:
        return super().evaluate()


class OtherWithTensorBoard(TBTrainerMixin, Other):
    pass


class TBTrainerBeforeOther(TBTrainer, Other):
    pass


class Users(TBTrainer):
    """A subclass as users write it."""

    def __init__(self, model: torch.nn.Module, colour: str) -> None:
        super().__init__(model)


class UsersChild(Users):
    pass


@pytest.mark.parametrize(
    ("ours", "stock"),
    [
        (TBTrainer, Trainer),
        (TBSeq2SeqTrainer, Seq2SeqTrainer),
        (OtherWithTensorBoard, Other),
        (TBTrainerBeforeOther, Other),
    ],
)
def test_signatures_are_those_of_the_extended_trainer(
    ours: type[Trainer], stock: type[Trainer]
) -> None:
    assert inspect.signature(ours) == inspect.signature(stock)
    for name in METHODS:
        assert inspect.signature(getattr(ours, name)) == inspect.signature(getattr(stock, name))


@pytest.mark.parametrize("users", [Users, UsersChild])
def test_a_users_own_init_keeps_its_signature(users: type[Trainer]) -> None:
    assert list(inspect.signature(users).parameters) == ["model", "colour"]


def test_help_names_the_parameters() -> None:
    shown = pydoc.plain(pydoc.render_doc(TBTrainer))
    assert "class TBTrainer" in shown
    assert "compute_metrics" in shown.split("Methods defined here", 1)[1]
    assert "resume_from_checkpoint" in shown
