"""Generated texts are scored in the evaluations of a training, and the scores are shown."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Seq2SeqTrainingArguments,
    set_seed,
)

from tbtrainer import TBSeq2SeqTrainer
from tbtrainer.metrics import make_compute_metrics
from tests.events import event_files, scalars
from tests.tiny import arguments

WORDS = ["<pad>", "<s>", "</s>", "the", "cat", "sat", "on", "a", "mat", "dog"]


def word_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def copier() -> BartForConditionalGeneration:
    """A small model that is to copy its input."""
    set_seed(0)
    layers = {"encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=len(WORDS),
            d_model=16,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_position_embeddings=16,
            forced_eos_token_id=None,
            **layers,
            **heads,
            **ids,
        )
    )


def test_generated_texts_are_scored_in_a_training(tmp_path: Path) -> None:
    tokenizer, model = word_tokenizer(), copier()
    texts = [[3, 4, 5, 2], [7, 9, 5, 6, 3, 8, 2], [3, 9, 2]]
    rows: list[dict[str, Any]] = [{"input_ids": text, "labels": text} for text in texts]
    args = arguments(
        Seq2SeqTrainingArguments,
        tmp_path,
        max_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        per_device_eval_batch_size=2,
        predict_with_generate=True,
        generation_max_length=8,
    )
    trainer = TBSeq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        compute_metrics=make_compute_metrics("rouge", "sacrebleu", tokenizer=tokenizer),
    )
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "eval_rouge1" in entry]
    shown = {tag: value for file in event_files(tmp_path) for tag, _, value in scalars(file)}
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum", "sacrebleu"):
        assert torch.tensor(entry[f"eval_{name}"]).item() == shown[f"eval/{name}"]
