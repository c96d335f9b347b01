"""NaN and infinities planted into a training, and trainers that plant them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer

from tbtrainer import TBTrainer
from tests.tiny import Sequences, classifier

NAN = float("nan")
# The parameters of the classifier.
NAMES = [name for name, _ in classifier(layers=1).named_parameters()]
# The layer whose weight, gradient or output is planted.
LAYER = "bert.encoder.layer.0.intermediate.dense"
WEIGHT = f"{LAYER}.weight"
# Reads the tokens of a batch, so that NaN can depend on the data.
EMBEDDING = "bert.embeddings.word_embeddings"
# The token of a broken sample. `Sequences` never draws it.
BROKEN = 0

# Type checkers see the attributes of `Trainer`.
_AnyTrainer: Any = Trainer if TYPE_CHECKING else object


class _NanInGradient(torch.autograd.Function):
    """The identity, whose gradient has a NaN as its last element.

    A hook on a parameter would see the gradient of one rank's shard under FSDP2, and none at all
    under ZeRO-3. This works on the whole gradient, before it is reduced and sharded. Its last
    element lies in the shard of the last rank.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        planted = gradient.clone()
        planted[(-1,) * planted.dim()] = NAN
        return planted


@dataclass
class Plant:
    """What is planted, and when.

    Attributes:
        scene: `"gradient"`: NaN in the gradient of `WEIGHT`. `"activation"`: NaN in the output of
            `LAYER`. `"loss"`: NaN is added to the loss. `"batch"`: a sample of the batch is broken:
            `EMBEDDING` gives NaN. `"weight"`: infinity in `WEIGHT` before training.
            `"evaluation"`: a sample of the evaluation data is broken. `None`: nothing.
        step: The step at which NaN is planted, except for the last two.
        rank: The rank whose batch is broken, or whose loss is NaN. The others plant on all ranks.
        micro_batch: The micro-batch of the step that is broken.
        lasts: Whether all later steps are planted, too.
        step_now: The step that is being taken, or was taken last.
    """

    scene: str | None = None
    step: int = 3
    rank: int = 0
    micro_batch: int = 0
    lasts: bool = False
    step_now: int = 0

    def plants(self, scene: str) -> bool:
        """Whether this is planted in the current step."""
        due = self.step_now >= self.step if self.lasts else self.step_now == self.step
        return self.scene == scene and due

    def model(self) -> nn.Module:
        """A tiny classifier that plants what is due, each time it is called."""
        model = classifier(layers=1)
        dense, embedding = model.get_submodule(LAYER), model.get_submodule(EMBEDDING)
        self.into(dense)

        def embedded(tokens: Tensor) -> Tensor:
            output = F.embedding(tokens, embedding.weight, embedding.padding_idx)
            return output.masked_fill((tokens == BROKEN)[..., None], NAN)

        embedding.forward = embedded
        if self.scene == "weight":
            with torch.no_grad():
                dense.weight[-1, -1] = float("inf")
        return model

    def into(self, layer: nn.Module) -> None:
        """Plants into the gradient of a linear layer's weight, or into its output, when due."""

        def output_of(x: Tensor) -> Tensor:
            is_sick = layer.training and self.plants("gradient")
            weight = _NanInGradient.apply(layer.weight) if is_sick else layer.weight
            output = F.linear(x, weight, layer.bias)
            return output * NAN if layer.training and self.plants("activation") else output

        layer.forward = output_of

    def evaluation_data(self) -> Sequences:
        """Data for an evaluation, whose last sample may be broken."""
        data = Sequences(16, seed=1)
        if self.scene == "evaluation":
            data.tokens[-1, 0] = BROKEN
        return data


class Planting(_AnyTrainer):
    """Plants into the trainer that it is mixed into. Name it first.

    Attributes:
        plant: Set by `planted`.
    """

    plant: Plant

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Breaks a sample of a micro-batch, if it is due."""
        self.plant.step_now = self.state.global_step + 1
        batches, items = super().get_batch_samples(*args, **kwargs)
        if self.plant.plants("batch") and self.args.process_index == self.plant.rank:
            batches[self.plant.micro_batch]["input_ids"][0, 0] = BROKEN
        return batches, items

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Adds NaN to the loss, if it is due. Gradients stay what they are."""
        computed = super().compute_loss(*args, **kwargs)
        is_sick = self.model.training and self.plant.plants("loss")
        if not is_sick or self.args.process_index != self.plant.rank:
            return computed
        if isinstance(computed, tuple):
            return computed[0] + NAN, *computed[1:]
        return computed + NAN


class PlantingTrainer(Planting, Trainer):
    """Stock's trainer, planting."""


class PlantingTBTrainer(Planting, TBTrainer):
    """Ours, planting."""


def planted(cls: type, args: Any, plant: Plant, **changes: Any) -> Any:
    """A trainer of `cls` for the tiny classifier that plants `plant`."""
    values: dict[str, Any] = {
        "model": plant.model(),
        "train_dataset": Sequences(64),
        "eval_dataset": plant.evaluation_data(),
    }
    made = cls(args=args, **{**values, **changes})
    made.plant = plant
    return made
