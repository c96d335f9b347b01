"""Started by torchrun: outputs of modules on all ranks, against plain hooks on every rank.

    torchrun --nproc-per-node 2 tests/distributed/output_modes.py MODE DIRECTORY

MODE is one of ddp, fsdp1, fsdp2, zero1, zero2, zero3, tensor, different. Rank zero prints one JSON
verdict.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import ParallelismConfig
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed
from transformers.distributed import DistributedConfig

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.collected_outputs import CollectingTrainer, OddLanguageModel
from tests.distributed.fsdp_on_cpu import allow_fsdp_on_cpu
from tests.distributed.training_modes import changes_of, local_copy
from tests.events import event_files, histograms
from tests.tiny import LENGTH, VOCABULARY, Sequences, arguments, classifier, equal

TARGETS = ["activations", "activation_gradients"]
STEPS = 4


class Padded(Sequences):
    """Sequences of different lengths, padded."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        item["attention_mask"] = (torch.arange(LENGTH) < 3 + index % 8).long()
        return item


class Texts(Sequences):
    """Tokens whose labels are the tokens."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def llama(directory: Path) -> Any:
    """A model divided by tensor parallelism when it is loaded, from one file for all ranks."""
    set_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    config = LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=False, **sizes, **heads)
    if dist.get_rank() == 0:
        LlamaForCausalLM(config).save_pretrained(directory)
    dist.barrier()
    parallel = DistributedConfig(tp_size=dist.get_world_size())
    return LlamaForCausalLM.from_pretrained(directory, distributed_config=parallel)


def built(mode: str, directory: Path, name: str) -> tuple[nn.Module, Any, list[str], dict]:
    """The model of a mode, its data, the modules to look at, and the changed arguments."""
    rank = dist.get_rank()
    if mode == "tensor":
        modules = [f"model.layers.{n}" for n in (0, 1)]
        return llama(directory / f"model-{name}"), Texts(64), modules, {}
    if mode == "different":
        # The last layer runs on one rank, and so DDP has to look for unused parameters.
        changes = {"ddp_find_unused_parameters": True, "average_tokens_across_devices": False}
        modules = [f"layers.{n}" for n in (0, 1, 2, 5)]
        return OddLanguageModel(runs_last=rank == 1), Sequences(64), modules, changes
    # Accumulated; DDP also with activation checkpointing.
    changes = {"gradient_accumulation_steps": 2}
    if mode == "ddp":
        changes["gradient_checkpointing"] = True
        changes["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    else:
        changes.update(changes_of(mode))
    layers = [f"bert.encoder.layer.{n}" for n in (0, 1)]
    return classifier(), Padded(64), layers, changes


def trained(cls: type[Trainer], kind: type, output: Path, mode: str, **given: Any) -> Any:
    """Trains; returns the trainer."""
    shown = given.pop("shown", {})
    model, data, modules, changes = built(mode, output.parent, output.name)
    if cls is CollectingTrainer:
        given["modules"] = modules
    args = arguments(kind, output, max_steps=STEPS, **changes, **shown)
    made = cls(args=args, model=model, train_dataset=data, **given)
    made.train()
    return made


def counted(mode: str, collected: dict[tuple[str, int], list[Tensor]]) -> dict[str, list[float]]:
    """What all ranks together have: count, norm, minimum and maximum, on rank zero.

    Ranks of a tensor-parallel group have the same outputs.
    """
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, dict(collected))
    if mode == "tensor":
        everyone = everyone[:1]
    keys = sorted({key for own in everyone for key in own})
    found = {}
    for key in keys:
        whole = torch.cat([tensor for own in everyone for tensor in own.get(key, [])])
        low, high = whole.min().item(), whole.max().item()
        found[f"{key[0]} {key[1]}"] = [whole.numel(), whole.norm().item(), low, high]
    return found


def shown(directory: Path, target: str, names: Sequence[str]) -> dict[str, list[float]]:
    """What the event file shows: count, norm, minimum and maximum of each histogram."""
    (file,) = event_files(directory)
    return {
        f"{tag.partition('/')[2]} {step}": [h.count, h.sum_of_squares**0.5, h.minimum, h.maximum]
        for (tag, step), h in histograms(file).items()
        if tag.partition("/")[0] == target and tag.partition("/")[2] in names
    }


def main(mode: str, directory: str) -> None:
    """Trains with plain hooks, and with tbtrainer, and prints the verdict."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    allow_fsdp_on_cpu()
    # accelerate 1.15 refuses tensor parallelism on CPUs, where it works.
    ParallelismConfig._validate_accelerator = lambda *_: None
    output = Path(directory)
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("tbtrainer").addHandler(handler)
    stock = trained(CollectingTrainer, TrainingArguments, output / "stock", mode)
    expected = {
        "activations": counted(mode, stock.outputs),
        "activation_gradients": counted(mode, stock.gradients),
    }
    values = {"histogram_targets": TARGETS, "histogram_steps": 1, "telemetry_errors": "raise"}
    ours = trained(TBTrainer, TBTrainingArguments, output / "ours", mode, shown=values)
    weights = [
        {n: local_copy(p) for n, p in made.model_wrapped.named_parameters()}
        for made in (stock, ours)
    ]
    facts = {
        "wrapper": type(ours.model_wrapped).__name__,
        "parameters": sorted({type(p.data).__name__ for p in ours.model_wrapped.parameters()}),
        "equal": equal(*weights),
        "warnings": warnings,
    }
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, facts)
    if dist.get_rank() == 0:
        names = {key.split()[0] for key in expected["activations"]}
        verdict = {"ranks": everyone, "expected": expected}
        verdict["shown"] = {t: shown(output / "ours", t, sorted(names)) for t in TARGETS}
        print(json.dumps(verdict), flush=True)
    dist.barrier()
    dist.destroy_process_group()
    # Once in a hundred times DeepSpeed's shared memory aborts the interpreter while it ends.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
