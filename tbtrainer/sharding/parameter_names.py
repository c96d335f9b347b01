"""Parameter names without the segments of wrappers, and the blocks of parameters."""

import re
from collections import Counter
from collections.abc import Iterable

# Segments that torch.compile, FSDP1 and activation checkpointing add (torch 2.4 to 2.13).
_WRAPPER_SEGMENTS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def clean_names(names: Iterable[str]) -> list[str]:
    """Returns the names of a model's parameters without the segments that wrappers put into them.

    DDP and DeepSpeed put `module` in front of every name. If only some names begin with `module`,
    or if it is inside a name, it belongs to the model and is kept. Names that would become equal
    are kept as they are.

    Example:
        >>> clean_names(["module._orig_mod.layers.3._fsdp_wrapped_module.weight", "module.bias"])
        ['layers.3.weight', 'bias']
        >>> clean_names(["module.weight", "weight"])
        ['module.weight', 'weight']
    """
    raw = list(names)
    split = [without_wrappers(name).split(".") for name in raw]
    while split and all(len(parts) > 1 and parts[0] == "module" for parts in split):
        split = [parts[1:] for parts in split]
    cleaned = [".".join(parts) for parts in split]
    uses = Counter(cleaned)
    return [clean if uses[clean] == 1 else name for name, clean in zip(raw, cleaned, strict=True)]


def without_wrappers(name: str) -> str:
    """Returns the name of a parameter or a module without the segments that wrappers put into it.

    Example:
        >>> without_wrappers("layers.3._fsdp_wrapped_module.mlp")
        'layers.3.mlp'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPER_SEGMENTS)


def block_name(name: str) -> str:
    """Returns the block a parameter belongs to, from its clean name.

    The block is the name up to its first number. Numbers at the beginning of the name do not count:
    a `SentenceTransformer` and an `nn.Sequential` number their parts, and each part has blocks of
    its own. If there is no number, the block is the module that holds the parameter. A parameter of
    the outermost module is a block of its own.

    Example:
        >>> block_name("model.layers.3.mlp.weight"), block_name("lm_head.weight")
        ('model.layers.3', 'lm_head')
        >>> block_name("0.auto_model.encoder.layer.3.attention.weight")
        '0.auto_model.encoder.layer.3'
        >>> block_name("0.weight"), block_name("2.0.weight"), block_name("2.0.conv.weight")
        ('0', '2.0', '2.0.conv')
    """
    segments = name.split(".")
    first = next((at for at, segment in enumerate(segments) if not segment.isdigit()), 0)
    for index, segment in enumerate(segments[first:], start=first):
        if segment.isdigit():
            return ".".join(segments[: index + 1])
    return ".".join(segments[:-1]) or name


def has_match(name: str, patterns: Iterable[str]) -> bool:
    """Returns whether any of some regular expressions has a match in a name."""
    return any(re.search(pattern, name) for pattern in patterns)
