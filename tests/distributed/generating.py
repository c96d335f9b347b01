"""Started by torchrun: a language model is evaluated, and generates, in one sharding mode.

    torchrun --nproc-per-node 2 tests/distributed/generating.py MODE DIRECTORY

MODE is one of ddp, fsdp1, fsdp2. Rank zero prints one JSON verdict with the facts of all ranks.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import DataCollatorForLanguageModeling, LlamaConfig, LlamaForCausalLM, set_seed

from tbtrainer import TBTrainer, TBTrainingArguments
from tests.distributed.fsdp_on_cpu import allow_fsdp_on_cpu
from tests.distributed.training_modes import changes_of
from tests.events import event_files, text
from tests.language_models import Paragraphs, tokenizer
from tests.tiny import arguments

PROMPTS = ["Assert statements", "The"]


def llama() -> LlamaForCausalLM:
    """A causal model without tied weights, and with sizes that two ranks can divide."""
    set_seed(0)
    end = tokenizer().eos_token_id
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer()),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=128,
            bos_token_id=end,
            eos_token_id=end,
            tie_word_embeddings=False,
        )
    )


def main(mode: str, directory: str) -> None:
    """Evaluates twice, with prompts and with parts of the data, and prints the verdict."""
    allow_fsdp_on_cpu()
    warnings: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("tbtrainer").addHandler(handler)
    changes: dict[str, Any] = {} if mode == "ddp" else changes_of(mode)
    if "fsdp_config" in changes:
        changes["fsdp_config"]["transformer_layer_cls_to_wrap"] = ["LlamaDecoderLayer"]
    cards = []
    facts: dict[str, Any] = {}
    for name, prompts in (("given", PROMPTS), ("data", None)):
        output = Path(directory) / name
        args = arguments(
            TBTrainingArguments, output, max_steps=1, generation_prompts=prompts, **changes
        )
        made = TBTrainer(
            model=llama(),
            args=args,
            data_collator=DataCollatorForLanguageModeling(tokenizer(), mlm=False),
            train_dataset=Paragraphs(8),
            eval_dataset=Paragraphs(8),
            processing_class=tokenizer(),
        )
        made.train()
        made.evaluate()
        made.writer.close()
        facts = {
            "rank": dist.get_rank(),
            "distributed_type": str(made.accelerator.distributed_type),
            "parameters": sorted({type(p.data).__name__ for p in made.model.parameters()}),
            "warnings": warnings,
        }
        if dist.get_rank() == 0:
            (file,) = event_files(output)
            try:
                cards.append(text(file, "eval/generations/text_summary"))
            except StopIteration:
                cards.append("")
    verdicts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(verdicts, facts)
    if dist.get_rank() == 0:
        print(json.dumps({"ranks": verdicts, "cards": cards}), flush=True)
    dist.destroy_process_group()
    os._exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
