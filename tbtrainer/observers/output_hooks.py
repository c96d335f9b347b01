"""Hooks that show the outputs of modules, and the gradients of these outputs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _python_dispatch
from torch.utils.hooks import RemovableHandle

from tbtrainer.sharding.outputs import first_floating

# Is given the place of the module, a tensor of the training, and the `attention_mask` of the batch
# or `None`. It must not keep the tensor or change it.
Seen: TypeAlias = Callable[[int, Tensor, Tensor | None], None]


class OutputHooks:
    """Hooks on some modules of a model, which are registered during the micro-batches of a step.

    They return nothing, so that they change nothing. The gradient of an output is seen by a hook on
    the tensor. A full backward hook of the module would wrap the output in a function, after which
    an operation in place fails.

    A forward pass counts if it keeps a graph: not one of an evaluation or a generation. Activation
    checkpointing runs some modules again in the backward pass. These outputs are not seen again;
    reentrant checkpointing shows their gradients, because the outputs of its first run have none.

    Args:
        model: The model without wrappers.
        modules: The modules whose outputs are seen.
        uses_mask: Whether the outputs of the modules may be those of the positions of the
            `attention_mask` that the model is called with.
        output: Is called with each output; `None` if outputs are not shown.
        gradient: Is called with the gradient of each output; `None` if gradients are not shown.
        failed: Is called with an error of a hook, which does not reach the training.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Sequence[nn.Module],
        uses_mask: bool,
        output: Seen | None,
        gradient: Seen | None,
        failed: Callable[[Exception], None],
    ) -> None:
        self._model = model
        self._modules = modules
        self._uses_mask = uses_mask
        self._output = output
        self._gradient = gradient
        self._failed = failed
        self._handles: list[RemovableHandle] = []
        self._begin()

    def _begin(self) -> None:
        # Calls of the model that are running now, one inside the other, and all since `register`.
        self._depth = self._calls = 0
        self._keeps_graph = False
        self._mask: Tensor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Makes copies that see nothing, for `copy` and `pickle`.

        A model that is copied during a step takes its hooks along. Otherwise these would copy the
        observer too, and with it the optimizer.
        """
        return OutputHooks, (nn.Module(), (), False, None, None, _ignore)

    def register(self) -> None:
        """Registers the hooks, unless they are registered."""
        if self._handles:
            return
        self._begin()
        before = self._model.register_forward_pre_hook(self._before_model, with_kwargs=True)
        after = self._model.register_forward_hook(self._after_model, always_call=True)
        self._handles += [before, after]
        for place, module in enumerate(self._modules):
            hook = partial(self._after_module, place)
            self._handles.append(module.register_forward_hook(hook))

    def remove(self) -> None:
        """Removes the hooks, if they are registered."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()
        self._mask = None

    def _before_model(self, model: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        self._depth += 1
        if self._depth == 1:
            self._calls += 1
            # Reentrant checkpointing runs the modules inside without a graph.
            self._keeps_graph = torch.is_grad_enabled()
            self._mask = None
            try:
                self._mask = _mask_among(args, kwargs) if self._uses_mask else None
            except Exception as error:
                self._failed(error)

    def _after_model(self, model: nn.Module, args: Any, output: Any) -> None:
        self._depth -= 1

    def _after_module(self, place: int, module: nn.Module, args: Any, output: Any) -> None:
        try:
            self._look_at(place, output)
        except Exception as error:
            self._failed(error)

    def _look_at(self, place: int, output: Any) -> None:
        tensor = first_floating(output)
        if tensor is None:
            return
        is_repeated = _is_in_backward_pass()
        has_mask = self._depth > 0 or (is_repeated and self._calls == 1)
        mask = self._mask if has_mask else None
        keeps_graph = self._keeps_graph if self._depth > 0 else torch.is_grad_enabled()
        if self._output is not None and keeps_graph and not is_repeated:
            self._output(place, tensor, mask)
        # A leaf is a parameter, whose hooks would stay.
        if self._gradient is not None and tensor.requires_grad and not tensor.is_leaf:
            seen = partial(_gradient_seen, self._gradient, place, mask)
            self._handles.append(tensor.register_hook(seen))


def _ignore(error: Exception) -> None:
    """Does nothing with an error."""


def _gradient_seen(seen: Seen, place: int, mask: Tensor | None, gradient: Tensor) -> None:
    # Returns `None`, so that the gradient stays as it is.
    seen(place, gradient, mask)


def outside_of_dispatch_modes() -> AbstractContextManager[object]:
    """Returns a context in which no mode of PyTorch sees the operations.

    Selective activation checkpointing is such a mode. It keeps results by their order, and the
    repeated forward pass would get those of the hooks instead of its own.

    The functions are private (torch 2.6 to 2.13).
    """
    count = getattr(torch._C, "_len_torch_dispatch_stack", None)
    if count is None or count() == 0:
        return nullcontext()
    disabled: AbstractContextManager[object] = _python_dispatch._disable_current_modes()
    return disabled


def _is_in_backward_pass() -> bool:
    """Returns whether this thread runs a backward pass: then a forward pass is a repeated one.

    `torch.utils.checkpoint` calls the same function, which is private (torch 2.6 to 2.13).
    """
    task = getattr(torch._C, "_current_graph_task_id", None)
    return task is not None and task() != -1


def _mask_among(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Returns the `attention_mask` that a model is called with: two-dimensional, or `None`.

    Args:
        args: By position. A `SentenceTransformer` is given a mapping.
        kwargs: By keyword.
    """
    for given in (kwargs, *args):
        if isinstance(given, Mapping):
            mask = given.get("attention_mask")
            if isinstance(mask, Tensor):
                return mask if type(mask) is Tensor and mask.dim() == 2 else None
    return None
