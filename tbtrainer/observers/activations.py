"""Shows the outputs of modules, and the gradients of these outputs."""

import logging
import math
import threading
from functools import partial

import torch
from torch import Tensor, nn

from tbtrainer import tags
from tbtrainer.arguments import MODULE_TARGETS
from tbtrainer.isolation import Isolation
from tbtrainer.observers.clock import Clock
from tbtrainer.observers.facts import Gradients
from tbtrainer.observers.loss_scale import loss_scale_of
from tbtrainer.observers.observer import Observer
from tbtrainer.observers.output_hooks import OutputHooks, outside_of_dispatch_modes
from tbtrainer.observers.row_groups import row_names
from tbtrainer.observers.training import Training
from tbtrainer.observers.watched_modules import WatchedModules
from tbtrainer.observers.watched_tensors import WatchedTensors
from tbtrainer.records import Deferred, Scalar
from tbtrainer.sharding import UnsupportedTensor
from tbtrainer.sharding.agreement import Comparison
from tbtrainer.sharding.outputs import counts_plain_outputs, output_part
from tbtrainer.sharding.ranks import ModelParallelSizes
from tbtrainer.sharding.world import world_size
from tbtrainer.statistics import Snapshot, StreamedTensors, why_not_measurable

logger = logging.getLogger(__name__)

# `torch.nn.DataParallel` runs the copies of a module in threads. Not an attribute, which could not
# be copied with the trainer.
_one_at_a_time = threading.Lock()


class Activations(Observer):
    """Shows the outputs of modules, and their gradients, at the steps of the snapshot schedule.

    At such a step, hooks are registered while the micro-batches are taken. Each output is measured
    when it exists, and is not kept. At other steps there is no hook. The batches of all ranks are
    counted together, in the collectives of one snapshot for each target.

    Args:
        clock: Measures what the hooks cost.
        isolation: What happens to an error in a hook.
    """

    def __init__(self, clock: Clock, isolation: Isolation) -> None:
        self._clock = clock
        self._isolation = isolation
        self._hooks: OutputHooks | None = None
        self._begin()

    def _begin(self) -> None:
        # `None` outside of a training, and if neither is a target.
        self._training: Training | None = None
        self._targets: list[str] = []
        self._names: tuple[str, ...] = ()
        # `None` if no module is shown.
        self._watched: WatchedTensors | None = None
        self._hooks = None
        self._counts_plain = True
        # Compares the names of the modules at the first snapshot.
        self._comparison: Comparison | None = None
        # Whether the rows are those of all ranks. `None` before the first snapshot.
        self._is_agreed: bool | None = None
        self._warned: set[str] = set()
        # What was measured of a step so far, by target; without those that failed.
        self._measured_step = -1
        self._streams: dict[str, StreamedTensors] = {}

    def run_begins(self, step: int, training: Training) -> tuple[()]:
        """Chooses the modules, and allocates the buffers."""
        self.close()
        targets = [t for t in MODULE_TARGETS if t in training.arguments.histogram_targets]
        if not targets or training.schedule.every == 0:
            return ()
        modules = WatchedModules.of(training)
        if training.is_world_process_zero:
            modules.warn(targets)
        self._training, self._targets = training, targets
        self._names = modules.names
        self._comparison = Comparison(modules.names)
        sizes = ModelParallelSizes.of(training.accelerator, training.unwrapped_model)
        self._counts_plain = counts_plain_outputs(sizes)
        if modules.names:
            self._watch(training, modules)
        return ()

    def _watch(self, training: Training, modules: WatchedModules) -> None:
        counts = [None] * len(modules.names)
        names = row_names(modules.names, counts, training.arguments.histogram_detail)
        self._watched = WatchedTensors.of(
            training, self._targets, names, counts, is_sharded=world_size() > 1
        )
        self._watched.prepare({torch.float32, torch.bfloat16, torch.float16})
        output, gradient = (
            partial(self._seen, target) if target in self._targets else None
            for target in MODULE_TARGETS
        )
        uses_mask = _has_one_mask(training)
        self._hooks = OutputHooks(
            modules.model, modules.modules, uses_mask, output, gradient, self._failed
        )
        training.snapshot_readers.append(activation_curves)

    def forward_begins(self, step: int) -> tuple[()]:
        """Registers the hooks, if a snapshot is due."""
        watched, hooks = self._watched, self._hooks
        if watched is None or hooks is None or self._is_agreed is False:
            return ()
        if not watched.is_due(step):
            return ()
        if step != self._measured_step:
            self._measured_step, self._streams = step, {}
            self._streams = {
                target: StreamedTensors(watched.rows, watched.previous[target].narrow_rows())
                for target in self._targets
            }
        hooks.register()
        return ()

    def micro_batch_taken(self, step: int, loss: Tensor) -> tuple[()]:
        """Removes the hooks."""
        self._remove_hooks()
        return ()

    def gradients_ready(self, step: int, gradients: Gradients | None) -> tuple[()]:
        """Removes the hooks: DeepSpeed takes the step before `micro_batch_taken`."""
        self._remove_hooks()
        return ()

    def step_taken(self, step: int) -> list[Deferred]:
        """Returns the records of what was measured, if a snapshot is due."""
        self._remove_hooks()
        streams, self._streams = self._streams, {}
        training = self._training
        if training is None or not training.schedule.is_due(step):
            return []
        if self._is_agreed is None and self._comparison is not None:
            self._agree(training, self._comparison)
        if self._watched is None or not self._is_agreed:
            return []
        records: list[Deferred] = []
        first_error: Exception | None = None
        for target in self._targets:
            measured = streams.get(target) if step == self._measured_step else None
            try:
                snapshot = self._watched.take(target, partial(_measured, measured))
                records += self._watched.deferred(target, step, snapshot)
            except Exception as error:
                # The other target has collectives, too.
                first_error = first_error or error
        if first_error is not None and not isinstance(first_error, NotMeasured):
            raise first_error
        return records

    def close(self) -> None:
        """Removes the hooks, and releases the modules and the buffers for collectives."""
        self._remove_hooks()
        self._begin()

    def _agree(self, training: Training, comparison: Comparison) -> None:
        """Finds out whether the rows are the same on every rank. A collective."""
        self._is_agreed = comparison.is_same()
        if not self._is_agreed and training.is_world_process_zero:
            logger.warning(
                "histogram_targets: %s are not shown, because the ranks have different modules. "
                "Everything else is shown.",
                " and ".join(self._targets),
            )

    def _remove_hooks(self) -> None:
        if self._hooks is not None:
            self._hooks.remove()

    def _seen(self, target: str, place: int, tensor: Tensor, mask: Tensor | None) -> None:
        """Measures an output or a gradient. Is called by a hook, inside of the training."""
        stream = self._streams.get(target)
        if stream is None:
            return
        with _one_at_a_time, self._clock.measured():
            try:
                with torch.no_grad(), outside_of_dispatch_modes():
                    self._measure(stream, target, place, tensor, mask)
            except Exception as error:
                # This rank has no part in the snapshot then.
                self._streams.pop(target, None)
                what = target.replace("_", " ")
                self._isolation.report(f"measure the {what}", error)

    def _failed(self, error: Exception) -> None:
        """Reports an error of a hook. This rank has no part in the snapshots of the step then."""
        self._streams.clear()
        self._isolation.report("see the outputs of the modules", error)

    def _measure(
        self,
        stream: StreamedTensors,
        target: str,
        place: int,
        tensor: Tensor,
        mask: Tensor | None,
    ) -> None:
        try:
            part = output_part(tensor, self._counts_plain)
        except UnsupportedTensor as error:
            self._warn(target, place, str(error))
            return
        reason = None if part is None else why_not_measurable(part)
        if reason is not None:
            self._warn(target, place, reason)
        elif part is not None:
            # Of two dimensions, the second one may be features, and as large as the sequence is
            # long.
            is_masked = mask is not None and part.dim() > 2 and part.shape[:2] == mask.shape
            scale = None
            if target == "activation_gradients" and self._training is not None:
                scale = loss_scale_of(self._training.accelerator, self._training.model)
            stream.add(place, part, scale, mask if is_masked else None)

    def _warn(self, target: str, place: int, reason: str) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            logger.warning(
                "%s/%s is not shown: %s. This is logged once, also if other modules have the same "
                "problem. Everything else is shown.",
                target,
                self._names[place],
                reason,
            )


class NotMeasured(Exception):
    """Raised where a rank takes part in a snapshot without elements. The reason was logged."""


def _measured(stream: StreamedTensors | None) -> StreamedTensors:
    if stream is None:
        raise NotMeasured("the outputs of the modules were not measured")
    return stream


def _has_one_mask(training: Training) -> bool:
    """Returns whether the `attention_mask` is that of all modules, and of the whole batch."""
    config = getattr(training.unwrapped_model, "config", None)
    has_decoder_mask = getattr(config, "is_encoder_decoder", False) is True
    return not has_decoder_mask and not isinstance(training.model, nn.DataParallel)


def activation_curves(target: str, step: int, snapshot: Snapshot) -> list[Scalar]:
    """Returns the root mean square of each row of a snapshot of activations.

    Rows without elements, with a NaN or an infinity, or without those of some rank have none.

    Args:
        target: What the snapshot shows. There are curves of `"activations"` only.
        step: Optimizer step of the snapshot.
        snapshot: In main memory, of the batches of all ranks.
    """
    if target != "activations" or int(snapshot.failed_ranks) > 0:
        return []
    statistics = snapshot.statistics
    numbers = zip(
        snapshot.rows.names,
        statistics.count.tolist(),
        statistics.nonfinite.tolist(),
        statistics.sum_of_squares.tolist(),
        strict=True,
    )
    return [
        Scalar(tags.ACTIVATION_RMS.of(name), math.sqrt(squares / count))
        for name, count, nonfinite, squares in numbers
        if count > 0 and nonfinite == 0
    ]
