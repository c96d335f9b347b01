"""Language models that are small enough for tests, with a tokenizer made from Python's manual."""

from functools import cache
from pathlib import Path
from pydoc_data import topics
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from tbtrainer.panels import PanelBatch, PanelEvaluation
from tbtrainer.panels.nested import first_examples

END, PADDING, MASK = "<|endoftext|>", "<|pad|>", "<|mask|>"


@cache
def paragraphs() -> list[str]:
    """The paragraphs of Python's manual."""
    text = "\n\n".join(topics.topics.values())
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


def tokenizer(size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE of some hundred tokens."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=_byte_pairs(size),
        **{"eos_token": END, "pad_token": PADDING, "mask_token": MASK},
    )
    return made


@cache
def _trained(size: int) -> str:
    pairs = ByteLevelBPETokenizer()
    pairs.train_from_iterator(paragraphs()[:400], size, special_tokens=[END, PADDING, MASK])
    return str(pairs._tokenizer.to_str())


def _byte_pairs(size: int) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(_trained(size))


class Paragraphs(Dataset):
    """Paragraphs of the manual as tokens, padded to one length unless `pad` is false."""

    def __init__(self, rows: int, most: int = 48, first: int = 0) -> None:
        tokens = tokenizer()
        texts = [text for text in paragraphs() if len(text) > 20][first : first + rows]
        self.rows = [tokens(text)["input_ids"][:most] for text in texts]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": self.rows[index]}


def gpt2(seed: int = 0, **changes: Any) -> GPT2LMHeadModel:
    """A causal model."""
    set_seed(seed)
    end = tokenizer().eos_token_id
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, **changes}
    vocabulary = {"vocab_size": len(tokenizer()), "bos_token_id": end, "eos_token_id": end}
    return GPT2LMHeadModel(GPT2Config(**vocabulary, **sizes))


def bert(seed: int = 0) -> BertForMaskedLM:
    """A masked model."""
    set_seed(seed)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer()),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
    )


def t5(seed: int = 0) -> T5ForConditionalGeneration:
    """An encoder-decoder."""
    set_seed(seed)
    tokens = tokenizer()
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokens),
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=2,
            num_heads=2,
            pad_token_id=tokens.pad_token_id,
            eos_token_id=tokens.eos_token_id,
            decoder_start_token_id=tokens.pad_token_id,
        )
    )


def padded(rows: list[list[int]], value: int, left: bool = False) -> Tensor:
    """Rows of one length, int64."""
    width = max(map(len, rows))
    return torch.tensor(
        [
            [value] * (width - len(row)) + row if left else row + [value] * (width - len(row))
            for row in rows
        ]
    )


def batch_of(rows: list[list[int]], left: bool = False) -> dict[str, Tensor]:
    """Inputs of a causal model: labels are the tokens, without those of the padding."""
    mask = padded([[1] * len(row) for row in rows], 0, left)
    return {
        "input_ids": padded(rows, tokenizer().pad_token_id, left),
        "attention_mask": mask,
        "labels": padded(rows, -100, left),
    }


def predicted(model: PreTrainedModel, inputs: dict[str, Tensor], size: int | None = None) -> Any:
    """What panels see of a batch of inputs, of which the first `size` examples count."""
    model.eval()
    with torch.no_grad():
        outputs = model(**inputs)
    given = len(inputs["labels"])
    size = given if size is None else size
    return PanelBatch(
        size=size,
        inputs=first_examples(inputs, size, given),
        outputs=first_examples(dict(outputs.items()), size, given),
        predictions=None,
        labels=inputs["labels"][:size],
        loss=outputs.loss,
    )


def evaluation_of(
    model: PreTrainedModel, batch: PanelBatch, directory: Path | str = "out", **changes: Any
) -> PanelEvaluation:
    """An evaluation that begins with a batch."""
    from transformers import TrainingArguments

    values: dict[str, Any] = {
        "step": 0,
        "dataset": None,
        "model": model,
        "config": model.config,
        "processing_class": tokenizer(),
        "training_arguments": TrainingArguments(str(directory), use_cpu=True, report_to="none"),
        "examples": 1000,
        "first_batch": batch,
    }
    return PanelEvaluation(**{**values, **changes})
