"""Repeats a forward pass, to find the module in which a NaN or an infinity began."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tbtrainer.random_states import RandomStates
from tbtrainer.sharding.dtensor import reshard
from tbtrainer.sharding.parameter_names import without_wrappers


@dataclass(frozen=True)
class ForwardPass:
    """A forward pass that can be repeated.

    Attributes:
        compute: The `compute_loss` that was called.
        arguments: Its arguments by position. Dictionaries among them are copied, because some
            implementations take the labels out of the inputs.
        named: Its arguments by keyword, likewise.
        states: The states of the random number generators before it.
    """

    compute: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]
    states: RandomStates

    @classmethod
    def of(cls, compute: Callable[..., Any], args: Any, kwargs: Any) -> "ForwardPass":
        """Keeps a forward pass that is about to be made."""
        named = {name: _kept(value) for name, value in kwargs.items()}
        return cls(compute, tuple(map(_kept, args)), named, RandomStates.now())

    def repeat(self) -> None:
        """Makes the forward pass again, without gradients, with the same random numbers.

        Can be called once, because the forward pass may change the arguments.
        """
        self.states.restore()
        with torch.no_grad():
            self.compute(*self.arguments, **self.named)


def _kept(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, Mapping) else value


@contextmanager
def _random_states_kept() -> Iterator[None]:
    states = RandomStates.now()
    try:
        yield
    finally:
        states.restore()


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Puts the buffers back, because batch normalisation changes its own in a forward pass."""
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                if not _is_same(buffer, value):
                    buffer.copy_(value)


def _is_same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors have the same values; NaN is the same as NaN."""
    return bool(((left == right) | ((left != left) & (right != right))).all())


def first_bad_module(model: nn.Module, forwards: list[ForwardPass]) -> str | None:
    """Repeats the forward passes of a step, and finds the module in which a NaN or infinity began.

    The host waits for the device after each module. Where parameters are sharded every rank has to
    call it, because a forward pass gathers them.

    Args:
        model: The model, wrapped or not.
        forwards: The forward passes of the step, in order.

    Returns:
        The first module, in the order of execution, whose output has a NaN or a positive infinity
        although its inputs have none; `None` if there is none on this rank. Modules inside of a
        compiled one are not seen.
    """
    names = {module: without_wrappers(name) for name, module in model.named_modules()}
    found: list[str] = []

    def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not found and not _is_finite(output) and _is_finite((args, kwargs)):
            found.append(names.get(module) or type(module).__name__)

    handles: list[RemovableHandle] = []
    try:
        for module in model.modules():
            handles.append(module.register_forward_hook(look, with_kwargs=True))
        with _random_states_kept(), _buffers_kept(model):
            for forward in forwards:
                forward.repeat()
    finally:
        for handle in handles:
            handle.remove()
        # No backward pass follows, which would shard the parameters again.
        reshard(model)
    return found[0] if found else None


def _is_finite(value: Any) -> bool:
    """Whether no tensor inside of a nested value has a NaN or a positive infinity.

    Masks of attention and of logits use negative infinities.
    """
    if isinstance(value, Tensor):
        try:
            return _is_finite_tensor(value.to_local() if hasattr(value, "to_local") else value)
        except RuntimeError:
            # float8 and quantised dtypes, for example, cannot be looked at (torch 2.13). The other
            # modules can, and the other ranks wait for the rest of the forward pass.
            return True
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, tuple | list):
        return all(map(_is_finite, value))
    return True


def _is_finite_tensor(tensor: Tensor) -> bool:
    if tensor.is_complex():
        return bool(tensor.isfinite().all())
    return not tensor.is_floating_point() or not bool((tensor.isnan() | tensor.isposinf()).any())
