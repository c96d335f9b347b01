"""Started by torchrun: evaluations with panels, in ways that give examples to the ranks.

    torchrun --nproc-per-node 3 tests/distributed/evaluations.py DIRECTORY CASE …

Rank zero prints one JSON verdict: for each case, what each rank has found.
"""

import json
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
import torch.distributed as dist
from accelerate import ParallelismConfig
from torch.utils.data import IterableDataset
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.distributed import DistributedConfig

from tbtrainer import Panel, TBTrainer, TBTrainingArguments
from tbtrainer.panels import Kept, KeptOfAllRanks, PanelBatch, PanelEvaluation
from tbtrainer.records import Records
from tests.distributed.training_modes import state_of
from tests.tiny import LENGTH, VOCABULARY, Sequences, arguments, classifier, equal, trainer

ROWS = 19


def directory() -> Path:
    """Where the runs are written."""
    return Path(sys.argv[1])


class Numbered(Sequences):
    """Sequences whose first token says which row they are."""

    def __init__(self, rows: int = ROWS) -> None:
        super().__init__(rows, seed=1)
        self.tokens[:, 0] = torch.arange(rows)


class Streamed(IterableDataset):
    """The rows of `Numbered`, one after the other, as a dataset of unknown length."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        data = Numbered()
        return (data[row] for row in range(len(data)))


class Rows(Panel):
    """Keeps which rows were seen, with their labels, and counts them.

    Args:
        on_rank: The rank on which `method` raises an error.
        method: Name of the method.
    """

    def __init__(self, on_rank: int = -1, method: str = "batch", name: str = "Rows") -> None:
        self.name = name
        self.drawn: list[dict[str, Any]] = []
        if dist.get_rank() == on_rank:
            setattr(self, method, self._fail)

    def _fail(self, *arguments: Any) -> Any:
        raise RuntimeError("no such luck")

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns rows and labels of all examples, and how many have each label."""
        assert batch.logits is not None and len(batch.logits) == len(batch.labels) == batch.size
        return Kept(
            examples={"row": batch.inputs["input_ids"][:, 0], "label": batch.labels},
            totals={
                "labels": (batch.labels[:, None] == torch.arange(2)).sum(0),
                "logits": batch.logits.double().sum(0),
            },
        )

    def draw(self, kept: KeptOfAllRanks, evaluation: PanelEvaluation) -> Records:
        """Draws nothing."""
        values = {**kept.examples, **kept.totals}
        self.drawn.append({name: value.tolist() for name, value in values.items()})
        self.drawn[-1]["seen"] = kept.seen
        return ()


class Surest(Rows):
    """Keeps the rows with the highest logit of class 1."""

    most_examples = 5

    def batch(self, batch: PanelBatch, evaluation: PanelEvaluation) -> Kept:
        """Returns rows and logits."""
        assert batch.logits is not None
        return Kept({"row": batch.inputs["input_ids"][:, 0]}, priority=batch.logits[:, 1])


def evaluated(
    *panels: Panel,
    data: Any = None,
    model: Any = None,
    loss_only: bool = False,
    stock: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """The metrics of one evaluation on this rank, and what the panels have drawn."""
    cls: Any = Trainer
    kind: type = TrainingArguments
    if not stock:
        cls, kind = TBTrainer, TBTrainingArguments
        changes = {"evaluation_panels": list(panels), **changes}
    args = arguments(kind, directory() / "out", **{"per_device_eval_batch_size": 4, **changes})
    made = trainer(
        cls,
        args,
        model=model or classifier(),
        eval_dataset=data or Numbered(),
        compute_metrics=None if loss_only else score,
    )
    set_seed(3)
    metrics = made.evaluate()
    return {
        "metrics": {k: v for k, v in metrics.items() if not k.endswith(("per_second", "time"))},
        "random": [torch.rand(1).item(), float(np.random.rand()), random.random()],
        "drawn": [getattr(panel, "drawn", None) for panel in panels],
        "distributed_type": str(made.accelerator.distributed_type),
        "wrapper": type(made.model_wrapped).__name__,
        "parameters": sorted({type(p).__name__ for p in made.model_wrapped.parameters()}),
        "loader": type(made.get_eval_dataloader()).__name__,
    }


def score(prediction: Any) -> dict[str, float]:
    """A metric that depends on every bit of the logits, and on the number of examples."""
    return {
        "sum": float(np.asarray(prediction.predictions, dtype=np.float64).sum()),
        "examples": len(prediction.label_ids),
        "labels": int(prediction.label_ids.sum()),
    }


# ---- How the ranks get their examples ----


def with_map_dataset() -> Any:
    """The last batch is filled up: 19 examples for 3 ranks with batches of 4."""
    return evaluated(Rows(), Surest(name="Surest"))


def with_few_kept() -> Any:
    """Panels may keep fewer examples than there are."""
    return evaluated(Rows(), evaluation_examples=7)


def with_fewer_examples_than_ranks() -> Any:
    """The last rank has none of its own."""
    return evaluated(Rows(), data=Numbered(2))


def with_iterable() -> Any:
    """Rank zero reads and gives each rank its part."""
    return evaluated(Rows(), data=Streamed())


def with_dispatched_batches() -> Any:
    """Rank zero reads a dataset of known length and gives each rank its part."""
    return evaluated(Rows(), accelerator_config={"dispatch_batches": True})


def with_split_batches() -> Any:
    """Ranks get parts of a batch."""
    return evaluated(
        Rows(),
        per_device_eval_batch_size=6,
        accelerator_config={"split_batches": True},
    )


def with_unfilled_batches() -> Any:
    """The last batch of the last rank is shorter. `Trainer` can gather the losses alone."""
    return evaluated(
        Rows(), data=Numbered(22), loss_only=True, accelerator_config={"even_batches": False}
    )


def with_unequal_shards() -> Any:
    """Each rank reads its own file, and the last rank's is shorter."""

    def rows_of(files: list[list[int]]) -> Iterator[dict[str, Any]]:
        data = Numbered(22)
        for file in files:
            yield from (data[row] for row in file)

    files = [list(range(8)), list(range(8, 16)), list(range(16, 22))]
    data = datasets.IterableDataset.from_generator(rows_of, gen_kwargs={"files": files})
    accelerator = {"dispatch_batches": False}
    return evaluated(Rows(), data=data, loss_only=True, accelerator_config=accelerator)


def with_every_rank_reading() -> Any:
    """Every rank reads everything. The last batch is filled up, and nobody knows with how many."""
    return evaluated(Rows(), data=Streamed(), accelerator_config={"dispatch_batches": False})


# ---- What else can differ between ranks ----


def with_failing_panels() -> Any:
    """Panels that fail on one rank, among some that do not."""
    failing = [
        Rows(rank, method, f"{method} on {rank}")
        for rank in range(2)
        for method in ("applies", "batch")
    ]
    return evaluated(*failing, Rows())


def with_other_panels() -> Any:
    """Rank one has none."""
    return evaluated(Rows() if dist.get_rank() != 1 else Rows(name="Other"))


def with_failing_metrics() -> Any:
    """The metrics raise an error on rank one, which the script catches, and then no more."""
    panel, examples = Rows(), []

    def score_later(prediction: Any) -> dict[str, float]:
        if dist.get_rank() == 1 and not examples:
            raise RuntimeError("no score")
        return score(prediction)

    args = arguments(
        TBTrainingArguments,
        directory() / "failing",
        per_device_eval_batch_size=4,
        evaluation_panels=["auto", panel],
    )
    made = trainer(TBTrainer, args, eval_dataset=Numbered(), compute_metrics=score_later)
    for _ in range(2):
        try:
            examples.append(made.evaluate()["eval_examples"])
        except RuntimeError as error:
            examples.append(str(error))
    return {"examples": examples, "seen": [drawn["seen"] for drawn in panel.drawn]}


def with_stock_trainer() -> Any:
    """An evaluation by stock `Trainer`, to compare metrics with."""
    return evaluated(stock=True)


def in_training() -> Any:
    """Evaluations in a training under DDP, without tbtrainer and with it."""
    trained: list[Any] = []
    for cls, kind, own in (
        (Trainer, TrainingArguments, {}),
        (TBTrainer, TBTrainingArguments, {"evaluation_panels": ["auto", Rows()]}),
    ):
        args = arguments(
            kind,
            directory() / cls.__name__,
            max_steps=4,
            eval_strategy="steps",
            eval_steps=2,
            per_device_eval_batch_size=4,
            **own,
        )
        made = trainer(cls, args, eval_dataset=Numbered(), compute_metrics=score)
        made.train()
        trained.append((made.model_wrapped, state_of(made)))
    (wrapped, stock), (_, ours) = trained
    return {
        "wrapper": type(wrapped).__name__,
        "equal": {name: equal(value, ours[name]) for name, value in stock.items()},
        "drawn": [[own["seen"] for own in args.evaluation_panels[1].drawn]],
    }


# ---- Models that are divided ----


def llama(**sizes: int) -> Any:
    """A small Llama from a checkpoint, divided when it is loaded."""
    checkpoint = str(directory() / "llama")
    if dist.get_rank() == 0:
        set_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=32,
            max_position_embeddings=LENGTH,
            num_labels=2,
            # No token: `Numbered` has those below it.
            pad_token_id=VOCABULARY - 1,
        )
        LlamaForSequenceClassification(config).save_pretrained(checkpoint)
    dist.barrier()
    return LlamaForSequenceClassification.from_pretrained(
        checkpoint, distributed_config=DistributedConfig(**sizes)
    )


def with_fsdp2() -> Any:
    """Parameters are sharded, and each rank has examples of its own."""
    return evaluated(Rows(), Surest(name="Surest"), model=llama(fsdp_size=dist.get_world_size()))


def with_tensor_parallel() -> Any:
    """Layers are divided, and all ranks have the same examples."""
    return evaluated(Rows(), Surest(name="Surest"), model=llama(tp_size=dist.get_world_size()))


def with_tensor_parallel_and_fsdp2() -> Any:
    """Layers are divided in pairs of ranks, and each pair has examples of its own."""
    return evaluated(Rows(), model=llama(tp_size=2, fsdp_size=dist.get_world_size() // 2))


class Warnings(logging.Handler):
    """Keeps what was logged."""

    messages: ClassVar[list[str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one message."""
        self.messages.append(record.getMessage())


def main(names: list[str]) -> None:
    """Runs some cases and prints the verdict."""
    dist.init_process_group("gloo")
    logging.getLogger("tbtrainer").addHandler(Warnings())
    # accelerate 1.15 refuses it on CPUs, where it works.
    ParallelismConfig._validate_accelerator = lambda self, accelerator: None
    verdict: dict[str, list[Any]] = {}
    for name in names:
        case: Callable[[], Any] = globals()[name]
        found: list[Any] = [None] * dist.get_world_size()
        Warnings.messages.clear()
        dist.all_gather_object(found, {**case(), "warnings": list(Warnings.messages)})
        verdict[name] = found
    if dist.get_rank() == 0:
        print(json.dumps(verdict), flush=True)
    dist.destroy_process_group()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[2:])
