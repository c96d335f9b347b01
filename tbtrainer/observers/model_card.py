"""The model as tables: parameters in total and per block, precision, sharding, compilation."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from tbtrainer import tags
from tbtrainer.observers.card_tables import bytes_shown, code, facts_table, listed, sections
from tbtrainer.observers.model_flops import compute_dtype
from tbtrainer.observers.observer import Observer, Training
from tbtrainer.panels.markdown import cell, table
from tbtrainer.records import Text
from tbtrainer.sharding import ParameterTable, Row
from tbtrainer.sharding.parameter_names import block_name
from tbtrainer.sharding.world import world_size

_MODES = {
    "plain": "none: every process has the whole model",
    "dtensor": "DTensor: FSDP2 or tensor parallel",
    "fsdp1": "FSDP1",
    "zero0": "DeepSpeed, without ZeRO",
    "zero1": "ZeRO-1: the optimizer's states",
    "zero2": "ZeRO-2: gradients and the optimizer's states",
    "zero3": "ZeRO-3: parameters, gradients and the optimizer's states",
}


class ModelCard(Observer):
    """Shows what is trained. Numbers are those of the whole model, however it is sharded."""

    def run_begins(self, step: int, training: Training) -> list[Text]:
        """Returns the card. The run does not write it again while nothing has changed."""
        if not training.is_world_process_zero:
            return []
        return [Text(tags.RUN_MODEL.name, model_card(training), once=True)]


def model_card(training: Training) -> str:
    """Returns the model of a training as Markdown tables."""
    blocks = table(
        ("Block", "blocks", "parameters of each", "trained", "dtype"),
        [group.row() for group in block_groups(training.parameters.rows)],
    )
    return sections([facts_table("Model", _facts(training)), blocks])


def _facts(training: Training) -> dict[str, str]:
    model, parameters = training.unwrapped_model, training.parameters
    rows = parameters.rows
    total, trained = _count(rows), _count(row for row in rows if row.parameter.requires_grad)
    config = getattr(model, "config", None)
    dtypes = _shares(rows, lambda row: str(row.parameter.dtype).removeprefix("torch."))
    of_bytes = sum((row.global_count or 0) * row.parameter.element_size() for row in rows)
    arguments = training.training_arguments
    # Those of bitsandbytes, for example: their elements are packed, several in one.
    are_all = not parameters.refused
    share = f" ({trained / max(total, 1):.2%})" if are_all else ""
    return {
        "class": code(type(model).__name__),
        "name": code(str(getattr(config, "_name_or_path", "") or "")),
        "type": code(str(getattr(config, "model_type", "") or "")),
        "adapters": code(_adapters(model)),
        "parameters" if are_all else "parameters that are counted": f"{total:,}",
        "trained": "all" if trained == total else f"{trained:,}{share}",
        "not counted": _not_counted(parameters),
        "dtypes": dtypes,
        "size of the parameters": bytes_shown(of_bytes),
        "computes in": compute_dtype(
            training.accelerator, parameters, getattr(arguments, "tf32", None)
        ),
        "devices": _devices(rows),
        "processes": f"{world_size():,}",
        "sharding": _sharding_mode(parameters) if world_size() > 1 else "",
        "device mesh": _mesh(rows),
        "attention": code(str(getattr(config, "_attn_implementation", "") or "")),
        "compiled": _compilation(training.model, arguments),
        "activation checkpointing": _yes_or_no(_is_checkpointed(model)),
    }


# ---- Blocks ----


@dataclass(frozen=True)
class BlockGroup:
    """Blocks that follow each other and are alike, such as the layers of a model.

    Attributes:
        names: Of the blocks.
        count: Parameters of each.
        trained: How many of them are trained.
        dtypes: Of its parameters.
    """

    names: tuple[str, ...]
    count: int
    trained: int
    dtypes: str

    def row(self) -> list[str]:
        """Returns the cells of its row."""
        first, last = code(self.names[0]), code(self.names[-1])
        names = first if len(self.names) == 1 else f"{first} … {last}"
        trained = "all" if self.trained == self.count else f"{self.trained:,}"
        return [names, str(len(self.names)), f"{self.count:,}", trained, self.dtypes]


def block_groups(rows: Iterable[Row]) -> list[BlockGroup]:
    """Returns the blocks of a model, those next to each other that are alike together."""
    groups: list[BlockGroup] = []
    for name, of_block in _blocks(rows).items():
        dtypes = {str(row.parameter.dtype).removeprefix("torch."): None for row in of_block}
        trained = _count(row for row in of_block if row.parameter.requires_grad)
        block = BlockGroup((name,), _count(of_block), trained, ", ".join(dtypes))
        if groups and _are_alike(groups[-1], block):
            last = groups.pop()
            block = BlockGroup((*last.names, name), last.count, last.trained, last.dtypes)
        groups.append(block)
    return groups


def _blocks(rows: Iterable[Row]) -> dict[str, list[Row]]:
    blocks: dict[str, list[Row]] = {}
    for row in rows:
        blocks.setdefault(block_name(row.name), []).append(row)
    return blocks


def _are_alike(group: BlockGroup, block: BlockGroup) -> bool:
    """Whether a block belongs to a group: numbered in the same module, and of the same size."""
    (stem, _, last), (other, _, number) = (
        n.rpartition(".") for n in (group.names[-1], block.names[0])
    )
    same_sizes = (group.count, group.trained, group.dtypes) == (
        block.count,
        block.trained,
        block.dtypes,
    )
    return same_sizes and stem == other and last.isdigit() and number.isdigit()


# ---- Facts ----


def _sharding_mode(parameters: ParameterTable) -> str:
    """Returns how the parameters are divided among the processes, in words."""
    return "; ".join(_MODES.get(mode, mode) for mode in parameters.mode.split("+"))


def _count(rows: Iterable[Row]) -> int:
    return sum(row.global_count or 0 for row in rows)


def _shares(rows: Sequence[Row], kind_of: Callable[[Row], str]) -> str:
    """Returns the kinds of the parameters, and the share of each if there are several."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts[kind_of(row)] += row.global_count or 0
    total = max(sum(counts.values()), 1)
    if len(counts) <= 1:
        return next(iter(counts), "")
    return ", ".join(f"{kind} ({count / total:.1%})" for kind, count in counts.most_common())


def _not_counted(parameters: ParameterTable) -> str:
    refused = parameters.refused
    if not refused:
        return ""
    reasons = listed(list(dict.fromkeys(parameter.reason for parameter in refused)))
    return cell(f"{len(refused):,} tensors: {reasons}")


def _devices(rows: Sequence[Row]) -> str:
    """Returns the devices of the parameters on world rank zero."""
    found = {str(getattr(row.parameter, "ds_tensor", row.parameter).device): None for row in rows}
    return listed(list(found), 8)


def _mesh(rows: Sequence[Row]) -> str:
    """Returns the meshes of `DTensor` parameters: the size of each dimension, with its name."""
    meshes = (getattr(row.parameter, "device_mesh", None) for row in rows)
    shown = {_sizes_of(mesh): None for mesh in meshes if mesh is not None}
    return listed(list(shown))


def _sizes_of(mesh: Any) -> str:
    names: Sequence[str] = mesh.mesh_dim_names or [""] * mesh.ndim
    return " × ".join(
        f"{name} {size}".strip() for name, size in zip(names, mesh.shape, strict=True)
    )


def _adapters(model: nn.Module) -> str:
    """Returns the adapters of a PEFT model, such as `LORA (r=8)`."""
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, Mapping):
        return ""
    return listed([_adapter(config) for config in configs.values()])


def _adapter(config: Any) -> str:
    kind = getattr(config, "peft_type", "")
    rank = getattr(config, "r", None)
    name = str(getattr(kind, "value", kind))
    return f"{name} (r={rank})" if isinstance(rank, int) else name


def _compilation(model: nn.Module, arguments: Any) -> str:
    """Returns whether `torch.compile` is in use, and with which backend if the arguments say it."""
    if not any(map(_is_compiled, model.modules())):
        return "no"
    named = (getattr(arguments, f"torch_compile_{what}", None) for what in ("backend", "mode"))
    return ", ".join(("yes", *(code(str(name)) for name in named if name)))


def _is_compiled(module: nn.Module) -> bool:
    # By `torch.compile(module)` or by `module.compile()` (torch 2.6 to 2.13).
    by_call = getattr(module, "_compiled_call_impl", None) is not None
    return by_call or type(module).__name__ == "OptimizedModule"


def _is_checkpointed(model: nn.Module) -> bool:
    return any(
        getattr(module, "gradient_checkpointing", False) is True for module in model.modules()
    )


def _yes_or_no(answer: bool) -> str:
    return "yes" if answer else "no"
