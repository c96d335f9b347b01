"""The names of a model's modules, and which of them are blocks."""

from torch import nn

from tbtrainer.sharding.parameter_names import block_name, clean_names, without_wrappers


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the modules of a model by name, without the segments that wrappers put into it.

    A wrapper and the module in it have the same name, and the wrapper is returned. A module that is
    in several places has the name of the first one. The name of the model itself is empty, and it
    is returned without its wrappers.

    Args:
        model: As it is trained: wrapped, sharded, compiled.

    Example:
        >>> list(named_modules(nn.Sequential(nn.Linear(2, 2), nn.ReLU())))
        ['', '0', '1']
    """
    found = [(without_wrappers(name), module) for name, module in model.named_modules()]
    split = [(name.split(".") if name else [], module) for name, module in found]
    # DDP and DeepSpeed put `module` in front of every name, as in `clean_names`.
    while all(segments[0] == "module" for segments, _ in split if segments) and any(
        segments for segments, _ in split
    ):
        split = [(segments[1:], module) for segments, module in split]
    modules = {"": model}
    for segments, module in split:
        if segments:
            modules.setdefault(".".join(segments), module)
        else:
            modules[""] = module
    return modules


def block_names(model: nn.Module) -> set[str]:
    """Returns the blocks of a model that are modules, such as `model.layers.3`.

    They are the blocks of its parameters whose name ends in a number; see `block_name`. A block
    without a number, such as `lm_head`, is not one of them.
    """
    names = clean_names(name for name, _ in model.named_parameters())
    blocks = {block_name(name) for name in names}
    return {block for block in blocks if block.rpartition(".")[2].isdigit()}


def compiled_modules(model: nn.Module) -> set[int]:
    """Returns the `id` of each module that is compiled, or is inside of a compiled one.

    A hook that is registered on such a module does not run, or has it compiled again.
    """
    found: set[int] = set()
    for module in model.modules():
        if id(module) not in found and is_compiled(module):
            found.update(id(inner) for inner in module.modules())
    return found


def is_compiled(module: nn.Module) -> bool:
    """Returns whether a module itself was compiled.

    By `torch.compile(module)`, by `module.compile()` or by a compiled `forward` on the instance
    (torch 2.6 to 2.13).
    """
    forward = vars(module).get("forward")
    return (
        getattr(module, "_compiled_call_impl", None) is not None
        or type(module).__name__ == "OptimizedModule"
        or hasattr(forward, "_torchdynamo_orig_callable")
    )
