"""What a whole training costs with each way of watching it, side by side in one run.

Stock `Trainer` without reporting, with `TensorBoardCallback`, with the usual callback that calls
`add_histogram` for every parameter and gradient, with `wandb.watch(log="all")` offline, and
`TBTrainer`, on the same model, data and steps. The ways take turns, `--repeats` times; the table
shows medians, as ratios to the first.

    python tests/benchmarks/bench_training.py --model minilm --steps 40
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerControl, TrainerState

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.integrations import TensorBoardCallback

from tbtrainer import TBTrainer, TBTrainingArguments


class Tokens(Dataset):
    """Random tokens of one length, with labels of either kind."""

    def __init__(self, rows: int, length: int, vocabulary: int, causal: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(0, vocabulary, (rows, length), generator=generator)
        self.causal = causal

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = self.ids[index]
        return {"input_ids": ids, "labels": ids if self.causal else index % 2}


def minilm() -> torch.nn.Module:
    """The shape of MiniLM-L6: 22.7 million parameters."""
    return BertForSequenceClassification(
        BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
    )


def llama() -> torch.nn.Module:
    """A small Llama: 12 million parameters in 74 tensors, whose steps are short."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8_000,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=8,
            num_attention_heads=4,
        )
    )


MODELS: dict[str, tuple[Callable[[], torch.nn.Module], int, int, int, bool]] = {
    # builder, batch, length, vocabulary, causal
    "minilm": (minilm, 16, 128, 30_522, False),
    "llama": (llama, 1, 12, 8_000, True),
    "gpt2": (lambda: GPT2LMHeadModel(GPT2Config()), 2, 128, 50_257, True),
}


class EveryHistogram(TrainerCallback):
    """The callback people write: `add_histogram` for every parameter and gradient."""

    def __init__(self, every: int, board: TensorBoardCallback) -> None:
        self.every, self.board = every, board

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        step = state.global_step + 1
        if step % self.every == 0:
            for name, parameter in model.named_parameters():
                self.board.tb_writer.add_histogram(f"parameters/{name}", parameter, step)
                if parameter.grad is not None:
                    self.board.tb_writer.add_histogram(f"gradients/{name}", parameter.grad, step)


class WandbWatch(TrainerCallback):
    """`wandb.watch(log="all")`, offline."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        import wandb

        self.run = wandb.init(mode="offline", dir=args.output_dir, settings={"silent": True})
        self.run.watch(model, log="all", log_freq=self.every)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        self.run.log({"step": state.global_step})

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        self.run.finish()


def ways(every: int, with_wandb: bool) -> dict[str, Callable[[str], dict[str, Any]]]:
    """Each way of watching, as what it adds to a trainer. `every`: steps between snapshots."""

    def stock(*callbacks: Callable[[], TrainerCallback]) -> Callable[[str], dict[str, Any]]:
        return lambda directory: {
            "cls": Trainer,
            "args": (TrainingArguments, {}),
            "callbacks": [make() for make in callbacks],
        }

    def every_histogram(directory: str) -> dict[str, Any]:
        board = TensorBoardCallback()
        return {
            "cls": Trainer,
            "args": (TrainingArguments, {}),
            "callbacks": [board, EveryHistogram(every, board)],
        }

    def ours(**fields: Any) -> Callable[[str], dict[str, Any]]:
        return lambda directory: {
            "cls": TBTrainer,
            "args": (TBTrainingArguments, fields),
            "callbacks": [],
        }

    chosen = {
        "Trainer, no reporting": stock(),
        "Trainer, TensorBoardCallback": stock(TensorBoardCallback),
        "TBTrainer, no histograms": ours(histogram_strategy="no"),
        f"TBTrainer, histograms every {every}": ours(histogram_steps=every),
        "TBTrainer, histograms every step": ours(histogram_steps=1),
        f"Trainer, add_histogram every {every}": every_histogram,
    }
    if with_wandb:
        chosen[f"Trainer, wandb.watch every {every}"] = stock(lambda: WandbWatch(every))
    return chosen


def seconds_of(way: Callable[[str], dict[str, Any]], options: argparse.Namespace) -> float:
    """Seconds of one training, without building model and data."""
    build, batch, length, vocabulary, causal = MODELS[options.model]
    with tempfile.TemporaryDirectory() as directory:
        os.environ["TENSORBOARD_LOGGING_DIR"] = os.path.join(directory, "runs")
        set_seed(0)
        parts = way(directory)
        args_cls, fields = parts["args"]
        args = args_cls(
            output_dir=directory,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch or batch,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=options.device == "cpu",
            bf16=options.device == "cuda",
            dataloader_pin_memory=options.device == "cuda",
            **fields,
        )
        rows = options.steps * (options.batch or batch)
        trainer = parts["cls"](
            model=build(),
            args=args,
            train_dataset=Tokens(rows, options.length or length, vocabulary, causal),
            callbacks=parts["callbacks"],
        )
        began = time.perf_counter()
        trainer.train()
        return time.perf_counter() - began


def main() -> None:
    """Runs the ways in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="minilm")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--every", type=int, default=10, help="steps between two snapshots")
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--length", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--wandb", action="store_true", help="also run wandb.watch")
    parser.add_argument("--only", default="", help="only ways whose name holds this text")
    options = parser.parse_args()
    chosen = {
        name: way
        for name, way in ways(options.every, options.wandb).items()
        if options.only in name or name == "Trainer, no reporting"
    }
    times: dict[str, list[float]] = {name: [] for name in chosen}
    # Not counted: the first training of a process is slower.
    seconds_of(next(iter(chosen.values())), options)
    for _ in range(options.repeats):
        for name, way in chosen.items():
            times[name].append(seconds_of(way, options))
    base = statistics.median(times["Trainer, no reporting"])
    print(f"\n{options.model}, {options.steps} steps, torch {torch.__version__}, {options.device}")
    print(
        "| training with | seconds | ratio | lowest ratio | highest ratio |\n|---|---|---|---|---|"
    )
    for name, values in times.items():
        ratios = [v / b for v, b in zip(values, times["Trainer, no reporting"], strict=True)]
        print(
            f"| {name} | {statistics.median(values):.2f} | {statistics.median(values) / base:.3f} "
            f"| {min(ratios):.3f} | {max(ratios):.3f} |"
        )


if __name__ == "__main__":
    main()
