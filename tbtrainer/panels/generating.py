"""Lets a model continue a few prompts, and leaves it as it was."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from tbtrainer.panels.language_tasks import is_encoder_decoder, unwrapped, vocabulary_size
from tbtrainer.panels.panel import PanelEvaluation
from tbtrainer.panels.token_texts import tokenizer_of
from tbtrainer.sharding.dtensor import has_fsdp2_modules

# The most tokens that are generated after each prompt.
MOST_NEW_TOKENS = 32
# Of a longer prompt the beginning is left out; the end of what an encoder is given.
MOST_PROMPT_TOKENS = 256
MOST_ENCODER_TOKENS = 512
_START = 1


def can_generate(model: nn.Module) -> bool:
    """Returns whether a model has the method `generate` of `transformers`."""
    inner = unwrapped(model)
    answer = getattr(inner, "can_generate", None)
    return callable(answer) and bool(answer()) and callable(getattr(inner, "generate", None))


def is_divided(model: nn.Module) -> bool:
    """Returns whether the parameters are divided over ranks, so that all have to run the model.

    FSDP2 may have left all of them gathered, so its modules are looked for, too.
    """
    return has_fsdp2_modules(model) or any(
        hasattr(parameter, "ds_tensor") or hasattr(parameter, "to_local")
        for parameter in model.parameters()
    )


def unsupported_reason(model: nn.Module) -> str | None:
    """Returns why a model cannot generate beside its training, or `None`; equal on every rank."""
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        return "FSDP1 would have to gather all parameters at once"
    if any(hasattr(parameter, "ds_tensor") for parameter in model.parameters()):
        return "generating is not supported with DeepSpeed's ZeRO-3"
    if not has_fsdp2_modules(model) and any(hasattr(p, "to_local") for p in model.parameters()):
        return "generating is not supported with tensor parallelism"
    adapters = getattr(model, "peft_config", None)
    for adapter in adapters.values() if isinstance(adapters, dict) else ():
        if getattr(adapter, "is_prompt_learning", False):
            return "the PEFT method has a prompt of its own"
        if getattr(adapter, "alora_invocation_tokens", None):
            return "the PEFT adapter begins inside of the prompt"
    return None


def fitting(tokens: Sequence[int], evaluation: PanelEvaluation) -> list[int]:
    """Returns the part of a prompt that is short enough for a model.

    Raises:
        ValueError: The model does not know a token. On a GPU that would end the process.
    """
    known = vocabulary_size(evaluation.config)
    unknown = [token for token in tokens if known is None or not 0 <= token < known]
    if unknown:
        raise ValueError(
            f"a prompt has the token {unknown[0]}, and the model has {known} tokens; the tokenizer "
            "has to be that of the model."
        )
    positions = _positions(evaluation.config)
    if is_encoder_decoder(evaluation.config):
        return list(tokens[: min(MOST_ENCODER_TOKENS, positions)])
    most = min(MOST_PROMPT_TOKENS, max(positions - MOST_NEW_TOKENS, positions // 2))
    return list(tokens[-most:])


def generate(evaluation: PanelEvaluation, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Returns what the model writes after each prompt, without the prompt and the end token.

    The most probable tokens are taken: nothing is drawn at random, whatever the model's
    configuration says, so that two evaluations differ only in the weights. The rest is as in the
    model's `generation_config`, and in `generation_num_beams` and `generation_max_length` of
    `Seq2SeqTrainingArguments`. If the parameters are divided over ranks, every rank has to call it
    with the same prompts.

    Args:
        evaluation: Its model can generate.
        prompts: Tokens that `fitting` returned, not empty.
    """
    model: Any = unwrapped(evaluation.model)
    has_encoder = is_encoder_decoder(evaluation.config)
    width = max(map(len, prompts))
    # A decoder after an encoder begins with a token that is no text.
    settings = _settings(evaluation, _START if has_encoder else width)
    padding = settings["pad_token_id"]
    rows, masks = [], []
    for prompt in prompts:
        filled, ones = [padding] * (width - len(prompt)), [1] * len(prompt)
        zeros = [0] * len(filled)
        # The last token of a decoder's prompt has to be beside the first that is generated.
        rows.append([*prompt, *filled] if has_encoder else [*filled, *prompt])
        masks.append(ones + zeros if has_encoder else zeros + ones)
    device = evaluation.training_arguments.device
    with _undisturbed(evaluation.model), _precision(evaluation.training_arguments):
        found = model.generate(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.tensor(masks, device=device),
            synced_gpus=is_divided(evaluation.model),
            **settings,
        )
    begin = _START if has_encoder else width
    ends = getattr(model.generation_config, "eos_token_id", None)
    return [_until_end(row[begin:], ends) for row in found.tolist()]


# Whatever the model's configuration says. Values for sampling are at their defaults, because others
# would cause a warning where nothing is sampled.
_GREEDY: dict[str, Any] = {
    **{"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "typical_p": 1.0},
    **{"min_p": None, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0},
    **{"max_length": None, "min_length": 0, "min_new_tokens": None, "max_time": None},
    **{"num_return_sequences": 1, "return_dict_in_generate": False, "use_cache": True},
    # A static cache would stay on the model, and the forward pass be compiled.
    **{"cache_implementation": None, "disable_compile": True},
}


def _settings(evaluation: PanelEvaluation, prompt: int) -> dict[str, Any]:
    """Returns how to generate after prompts of a length: arguments of `generate`."""
    arguments: Any = evaluation.training_arguments
    own: Any = getattr(unwrapped(evaluation.model), "generation_config", None)
    most = min(MOST_NEW_TOKENS, _positions(evaluation.config) - prompt)
    longest = getattr(arguments, "generation_max_length", None)
    if longest is not None:
        most = min(most, longest - prompt)
    if most < 1:
        raise ValueError(f"prompts of {prompt} tokens leave the model no room for another one.")
    beams = getattr(arguments, "generation_num_beams", None) or getattr(own, "num_beams", None)
    tokenizer = tokenizer_of(evaluation.processing_class)
    paddings = (getattr(source, "pad_token_id", None) for source in (own, tokenizer))
    padding = next((token for token in paddings if isinstance(token, int)), 0)
    known = vocabulary_size(evaluation.config) or 0
    return {
        **_GREEDY,
        "max_new_tokens": most,
        "num_beams": beams or 1,
        "pad_token_id": padding if 0 <= padding < known else 0,
    }


def _positions(config: Any) -> int:
    """Returns how many places a sequence may have; many if the configuration does not say."""
    config = config.get_text_config(decoder=True)
    found = getattr(config, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else sys.maxsize


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Runs a model in evaluation mode and without compiling it, and restores what changes."""
    training = [module for module in model.modules() if module.training]
    inner: Any = unwrapped(model)
    settings = inner.generation_config
    try:
        model.eval()
        with ExitStack() as stack:
            if "torch._dynamo" in sys.modules:
                # Compiled modules would be compiled again for each length of a sequence.
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        for module in training:
            module.training = True
        # transformers 4.57 may make a new one of the model's configuration.
        inner.generation_config = settings


@contextmanager
def _precision(arguments: TrainingArguments) -> Iterator[None]:
    """Computes in the dtype of the training.

    accelerate does so in `forward` of the outermost module, which PEFT's inner model is not.
    """
    dtype = torch.bfloat16 if arguments.bf16 else torch.float16
    is_mixed = (arguments.bf16 or arguments.fp16) and not arguments.deepspeed
    with torch.autocast(arguments.device.type, dtype, enabled=is_mixed):
        yield


def _until_end(tokens: list[int], ends: int | list[int] | None) -> list[int]:
    """Returns the tokens before the first end token."""
    stops = {ends} if isinstance(ends, int) else set(ends or ())
    length = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
    return tokens[:length]
