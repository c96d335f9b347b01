"""Parameter names as the model's author wrote them, and the blocks they belong to."""

# What wrappers put into a name: torch.compile, FSDP1, activation checkpointing (torch 2.4 to 2.13).
_WRAPPER_SEGMENTS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def clean_name(name: str) -> str:
    """Returns a parameter's name without the segments that wrappers have put into it.

    `module` counts as a wrapper's only in front, where DDP and DeepSpeed put it; inside a name it
    is the author's.

    Example:
        >>> clean_name("module._orig_mod.model.layers.3._fsdp_wrapped_module.mlp.weight")
        'model.layers.3.mlp.weight'
    """
    segments = [segment for segment in name.split(".") if segment not in _WRAPPER_SEGMENTS]
    while len(segments) > 1 and segments[0] == "module":
        segments = segments[1:]
    return ".".join(segments)


def block_name(name: str) -> str:
    """Returns the block a parameter belongs to, from its clean name.

    A block ends with the first number in the name; without a number it is the module that holds
    the parameter; a parameter of the model itself is a block of its own.

    Example:
        >>> block_name("model.layers.3.mlp.weight"), block_name("lm_head.weight")
        ('model.layers.3', 'lm_head')
    """
    segments = name.split(".")
    for index, segment in enumerate(segments):
        if segment.isdigit():
            return ".".join(segments[: index + 1])
    return ".".join(segments[:-1]) or name
