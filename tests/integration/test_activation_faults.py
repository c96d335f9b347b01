"""Hooks on modules are removed and harmless, whatever happens in a training."""

import copy
import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.events import event_files, histograms
from tests.tiny import LENGTH, Sequences, arguments, classifier, equal, trainer

ALL = ["parameters", "gradients", "updates", "optimizer_state"]
SHOWN: dict[str, Any] = {
    "histogram_targets": [*ALL, "activations", "activation_gradients"],
    "histogram_steps": 1,
    "max_steps": 3,
}


def hooked(model: nn.Module) -> list[str]:
    """The modules that have any hook."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [n for n, m in model.named_modules() if any(getattr(m, kind) for kind in kinds)]


class FailingOnce(TBTrainer):
    """Raises an error after the second forward pass, when the hooks have run."""

    error: BaseException
    passes = 0
    hooked_then: list[str]

    def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, *args, **kwargs)
        self.passes += 1
        if self.passes == 2:
            self.hooked_then = hooked(model)
            raise self.error
        return loss


def failing(directory: Path, error: BaseException, **changes: Any) -> Any:
    made = trainer(FailingOnce, arguments(TBTrainingArguments, directory, **SHOWN, **changes))
    made.error = error
    return made


@pytest.mark.parametrize("error", [RuntimeError("in the model"), KeyboardInterrupt()])
def test_an_exception_leaves_no_hook(error: BaseException, tmp_path: Path) -> None:
    made = failing(tmp_path, error)
    with pytest.raises(type(error)):
        made.train()
    assert len(made.hooked_then) == 3
    assert hooked(made.model) == []


def test_a_batch_that_is_too_large_is_not_counted(tmp_path: Path) -> None:
    error = torch.cuda.OutOfMemoryError("CUDA out of memory.")
    values = {"auto_find_batch_size": True, "telemetry_errors": "raise"}
    made = failing(tmp_path, error, **values, gradient_accumulation_steps=2)
    made.train()
    assert hooked(made.model) == []
    size = made._train_batch_size
    assert size < 4
    (file,) = event_files(tmp_path)
    counts = {h.count for (tag, _), h in histograms(file).items() if tag.startswith("activations/")}
    assert counts == {2 * size * LENGTH * 16}


class CopyingTrainer(TBTrainer):
    """Copies the model between its forward and its backward pass."""

    def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, *args, **kwargs)
        self.copied = copy.deepcopy(model)
        return loss


def test_a_model_copied_in_a_step_copies_no_observer(tmp_path: Path) -> None:
    values = {**SHOWN, "telemetry_errors": "raise"}
    made = trainer(CopyingTrainer, arguments(TBTrainingArguments, tmp_path, **values))
    # Nothing that holds a lock can be copied.
    made.args.of_the_user = threading.Lock()
    made.train()
    item = {name: torch.as_tensor(value)[None] for name, value in Sequences(1)[0].items()}
    made.copied(**item).loss.backward()
    assert equal(made.copied.state_dict().keys(), made.model.state_dict().keys())


class Lazy(Mapping):
    """A mapping that has one value, and cannot list its values."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden

    def __getitem__(self, name: str) -> Tensor:
        return self.hidden

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError("the values are not known")

    def __len__(self) -> int:
        return 1


class LazyBlock(nn.Module):
    def __init__(self, is_lazy: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.is_lazy = is_lazy

    def forward(self, x: Tensor) -> Any:
        out = x + torch.tanh(self.layer(x))
        return Lazy(out) if self.is_lazy else out


class LazyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(64, 8)
        self.layers = nn.ModuleList([LazyBlock(False), LazyBlock(True)])
        self.head = nn.Linear(8, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        x = self.layers[1](self.layers[0](self.embed(input_ids)))["hidden"]
        logits = self.head(x.mean(1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_an_output_that_cannot_be_read_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stock = arguments(TrainingArguments, tmp_path / "stock", max_steps=3)
    without = Trainer(model=LazyModel(), args=stock, train_dataset=Sequences(64))
    without.train()
    args = arguments(TBTrainingArguments, tmp_path / "ours", **SHOWN)
    made = TBTrainer(model=LazyModel(), args=args, train_dataset=Sequences(64))
    with caplog.at_level(logging.WARNING, logger="tbtrainer"):
        made.train()
    (message,) = [r.getMessage() for r in caplog.records if r.name.startswith("tbtrainer")]
    assert "could not see the outputs of the modules: NotImplementedError" in message
    assert equal(without.model.state_dict(), made.model.state_dict())
    # The batch is not complete without the block that failed.
    (file,) = event_files(tmp_path / "ours")
    assert {tag.partition("/")[0] for tag, _ in histograms(file)} == set(ALL)


class Padded(Sequences):
    """Sequences whose second half is padding."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        item["attention_mask"] = (torch.arange(LENGTH) < LENGTH // 2).long()
        return item


def test_features_are_not_taken_for_positions(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    # As many features as positions: the output of the pooler has the shape of the mask.
    config = BertConfig(vocab_size=64, hidden_size=LENGTH, max_position_embeddings=LENGTH, **sizes)
    values = {**SHOWN, "histogram_include": [r"pooler$", r"layer\.0$"], "telemetry_errors": "raise"}
    args = arguments(TBTrainingArguments, tmp_path, **values)
    model = BertForSequenceClassification(config)
    TBTrainer(model=model, args=args, train_dataset=Padded(64)).train()
    (file,) = event_files(tmp_path)
    counts = {tag: h.count for (tag, step), h in histograms(file).items() if step == 1}
    for target in ("activations", "activation_gradients"):
        assert counts[f"{target}/bert.pooler"] == 4 * LENGTH
        assert counts[f"{target}/bert.encoder.layer.0"] == 4 * (LENGTH // 2) * LENGTH


def test_targets_without_a_parameter_cost_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = arguments(TBTrainingArguments, tmp_path, **SHOWN, histogram_include=[r"layer\.\d$"])
    with caplog.at_level(logging.WARNING, logger="tbtrainer"):
        trainer(TBTrainer, args, model=classifier()).train()
    (message,) = [r.getMessage() for r in caplog.records if r.name.startswith("tbtrainer")]
    assert "matches modules only" in message
