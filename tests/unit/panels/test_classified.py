"""What several panels compute of a batch is computed once."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tbtrainer.isolation import Isolation
from tbtrainer.observers.facts import EvaluationBatch
from tbtrainer.observers.open_evaluation import OpenEvaluation, PanelSetting
from tbtrainer.panels import PanelBatch
from tbtrainer.panels.built_in import BUILT_IN
from tbtrainer.panels.classified import classified
from tbtrainer.panels.token_labels import tokens_as_examples
from tbtrainer.sharding.ranks import ModelParallelSizes
from tests.panel_evaluations import batch, evaluation

LOGITS, TOKENS = torch.randn(6, 3), torch.ones(6, 4).long()
CLASSES, SEVERAL = torch.arange(6) % 3, torch.ones(6, 3)
OF_TOKENS, NAMES = torch.randn(6, 4, 3), {0: "O", 1: "B-x", 2: "I-x"}


class Words:
    """A tokenizer that is not asked for anything here."""

    pad_token_id = 0

    def decode(self, tokens: Sequence[int], **options: Any) -> str:
        return ""


class Calls(TorchDispatchMode):
    """Counts the operations of PyTorch by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "given, operation, panels",
    [
        (
            batch(LOGITS, CLASSES, input_ids=TOKENS),
            "_softmax",
            {"confusion_matrix", "pr_curves", "calibration", "mistakes", "projector"},
        ),
        (batch(LOGITS, SEVERAL), "sigmoid", {"pr_curves", "label_f1", "projector"}),
        (
            batch(OF_TOKENS, TOKENS, input_ids=TOKENS),
            "_softmax",
            {"token_classes", "token_confusion", "token_mistakes"},
        ),
    ],
    ids=["classes", "labels", "tokens"],
)
def test_all_panels_together_compute_probabilities_once(
    given: PanelBatch, operation: str, panels: set[str]
) -> None:
    about = evaluation(id2label=NAMES, processing_class=Words())
    setting = PanelSetting([kind() for kind in BUILT_IN], frozenset(), about, ModelParallelSizes())
    opened = OpenEvaluation(setting, frozenset(), Isolation("raise"))
    shown = EvaluationBatch(given.inputs, None, None, given.labels, given.outputs, 6, 6)
    with Calls() as calls:
        opened.add(shown)
    assert {panel.panel.name for panel in opened.panels if not panel.is_out} == panels
    assert calls.names[operation] == 1


@pytest.mark.parametrize("of", [lambda given: given, tokens_as_examples], ids=["classes", "tokens"])
def test_shared_numbers_are_those_of_a_batch_of_its_own(
    of: Callable[[PanelBatch], PanelBatch],
) -> None:
    logits, labels = (OF_TOKENS, TOKENS) if of is tokens_as_examples else (LOGITS, CLASSES)
    given = batch(logits, labels)
    first = classified(of(given))
    assert classified(of(given)) is first
    alone = classified(of(batch(logits.clone(), labels.clone())))
    for name in ("probabilities", "labels", "predictions", "confidence", "counted"):
        assert torch.equal(getattr(first, name), getattr(alone, name))
