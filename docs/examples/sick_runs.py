"""One healthy and four sick trainings of a small model, to look at side by side in TensorBoard.

    python docs/examples/sick_runs.py --output_dir sick-runs
    tensorboard --logdir sick-runs

The runs are called `healthy`, `exploding_gradients`, `vanishing_gradients`, `high_learning_rate`
and `nan`. They learn to predict the next byte of the manual that every Python contains, with the
same data in the same order. Together they take less than three minutes on two cores, and they need
no network.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pydoc_data import topics

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import set_seed

from tbtrainer import TBTrainer as Trainer
from tbtrainer import TBTrainingArguments as TrainingArguments

STEPS, BATCH, DEPTH, WIDTH = 300, 16, 12, 64
# The model reads the CONTEXT bytes before each of the ANSWER bytes that follow them.
CONTEXT, ANSWER = 8, 64
VOCABULARY = 128


class Prompts(Dataset):
    """Windows of the manual. The first bytes of each are a prompt, which the loss leaves out.

    Args:
        rows: How many windows.
        without_answer: A row whose prompt fills the whole window; `None` if there is none.
    """

    def __init__(self, rows: int, without_answer: int | None = None) -> None:
        text = "\n".join(topics.topics.values()).encode("ascii", "replace")
        generator = torch.Generator().manual_seed(0)
        self.text = torch.tensor(list(text))
        last = len(text) - CONTEXT - ANSWER
        self.starts = torch.randint(0, last, (rows,), generator=generator)
        self.prompt_lengths = torch.randint(0, ANSWER // 4, (rows,), generator=generator)
        if without_answer is not None:
            self.prompt_lengths[without_answer] = ANSWER

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        window = self.text[self.starts[row] : self.starts[row] + CONTEXT + ANSWER]
        is_answer = torch.arange(ANSWER) >= self.prompt_lengths[row]
        return {"input_ids": window[:-1], "labels": window[CONTEXT:], "is_answer": is_answer}


class ResidualLayer(nn.Module):
    """A layer that adds to its normalised input, as the layers of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.inner, self.outer = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns hidden states of the same shape, (batch, ANSWER, WIDTH)."""
        return hidden + self.outer(torch.relu(self.inner(self.norm(hidden))))


class PlainLayer(nn.Module):
    """A layer without a residual connection and without normalisation.

    Args:
        activation: Applied to what the linear map returns.
        weight_scale: The initial weights are those of a variance-preserving linear map times this;
            `None` keeps PyTorch's default, which is 0.58 in the same unit.
    """

    def __init__(
        self, activation: Callable[[Tensor], Tensor], weight_scale: float | None = None
    ) -> None:
        super().__init__()
        self.activation = activation
        self.linear = nn.Linear(WIDTH, WIDTH)
        if weight_scale is not None:
            nn.init.normal_(self.linear.weight, std=weight_scale / WIDTH**0.5)

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns hidden states of the same shape, (batch, ANSWER, WIDTH)."""
        return self.activation(self.linear(hidden))


class ByteModel(nn.Module):
    """Predicts each byte of a window from the eight bytes before it.

    Args:
        make_layer: Makes one of the layers between the embedding and the head.
        normalise: Whether the output of the last layer is normalised.
    """

    def __init__(self, make_layer: Callable[[], nn.Module], normalise: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH // CONTEXT)
        self.layers = nn.ModuleList(make_layer() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH) if normalise else nn.Identity()
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: Tensor, labels: Tensor, is_answer: Tensor) -> dict[str, Tensor]:
        """Returns the mean over the windows of the mean loss of their answers."""
        hidden = self.embedding(input_ids).unfold(1, CONTEXT, 1).flatten(2)
        for layer in self.layers:
            hidden = layer(hidden)
        logits = self.head(self.norm(hidden)).transpose(1, 2)
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        # For a window that is all prompt this is 0 / 0, which is NaN. The data of `nan` has one.
        per_window = (losses * is_answer).sum(dim=1) / is_answer.sum(dim=1)
        return {"loss": per_window.mean()}


@dataclass(frozen=True)
class Recipe:
    """What one run is made of. The defaults are those of the healthy run.

    Attributes:
        make_layer: Makes a layer of the model.
        normalise: Whether the output of the last layer is normalised.
        learning_rate: The highest learning rate.
        warmup: Share of the steps over which the learning rate rises to it.
        without_answer: A row of the data whose prompt fills the window; `None` if there is none.
    """

    make_layer: Callable[[], nn.Module] = ResidualLayer
    normalise: bool = True
    learning_rate: float = 3e-3
    warmup: float = 0.1
    without_answer: int | None = None


RECIPES = {
    "healthy": Recipe(),
    "exploding_gradients": Recipe(
        partial(PlainLayer, torch.tanh, weight_scale=5.0), normalise=False
    ),
    "vanishing_gradients": Recipe(partial(PlainLayer, torch.sigmoid), normalise=False),
    "high_learning_rate": Recipe(learning_rate=0.8, warmup=1.0),
    # The row comes at step 200.
    "nan": Recipe(without_answer=2513),
}


def train(name: str, output_dir: Path, steps: int) -> None:
    """Trains one of the runs, and writes it to a directory of its name."""
    recipe = RECIPES[name]
    set_seed(0)
    arguments = TrainingArguments(
        output_dir=str(output_dir / name),
        logging_dir=str(output_dir / name),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=int(recipe.warmup * steps),
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(
        model=ByteModel(recipe.make_layer, recipe.normalise),
        args=arguments,
        train_dataset=Prompts(STEPS * BATCH, recipe.without_answer),
    )
    trainer.train()


def main() -> None:
    """Trains the runs and prints how to look at them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("sick-runs"))
    parser.add_argument("--max_steps", type=int, default=STEPS, help="Steps of each run.")
    parser.add_argument("--runs", nargs="+", choices=RECIPES, default=list(RECIPES))
    options = parser.parse_args()
    for name in options.runs:
        train(name, options.output_dir, options.max_steps)
    print(f"Look at them:    tensorboard --logdir {options.output_dir}")


if __name__ == "__main__":
    main()
