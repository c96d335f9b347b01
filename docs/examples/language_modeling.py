"""Train a small GPT-2 from scratch on a text file: `run_clm.py`, shortened.

    python language_modeling.py --output_dir out --do_train --do_eval

Without `--train_file` it learns the manual that every Python contains. The script trains the
tokenizer, so it needs no network.
"""

import sys
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from pydoc_data import topics

from datasets import Dataset, DatasetDict
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    HfArgumentParser,
    PreTrainedTokenizerFast,
    default_data_collator,
    set_seed,
)

from tbtrainer import TBTrainer as Trainer
from tbtrainer import TBTrainingArguments as TrainingArguments
from tbtrainer.metrics import make_compute_metrics, next_token_losses


@dataclass
class ModelArguments:
    """Which model is trained."""

    model_type: str = field(default="gpt2", metadata={"help": "A type of model from the library."})
    config_overrides: str = field(
        default="n_embd=128,n_layer=4,n_head=4,n_positions=256",
        metadata={"help": "Changes to the default configuration, as name=value,name=value."},
    )
    vocab_size: int = field(default=2000, metadata={"help": "Size of the vocabulary made."})


@dataclass
class DataTrainingArguments:
    """What is trained and evaluated on."""

    train_file: str | None = field(default=None, metadata={"help": "A text file to train on."})
    block_size: int = field(default=128, metadata={"help": "Tokens in one training example."})
    validation_split_percentage: int = field(default=5, metadata={"help": "Held out, in percent."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on so many."})


def read_paragraphs(train_file: str | None) -> list[str]:
    """Returns the paragraphs of a file, or of the manual of Python."""
    text = Path(train_file).read_text() if train_file else "\n\n".join(topics.topics.values())
    return [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]


def make_tokenizer(paragraphs: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(paragraphs, vocab_size, special_tokens=["<|endoftext|>"])
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")


def main() -> None:
    """Trains, evaluates and saves as the command line says."""
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        model_args, data_args, training_args = parser.parse_json_file(sys.argv[1])
    else:
        model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    paragraphs = read_paragraphs(data_args.train_file)
    held_out = len(paragraphs) * data_args.validation_split_percentage // 100
    raw_datasets = DatasetDict(
        train=Dataset.from_dict({"text": paragraphs[held_out:]}),
        validation=Dataset.from_dict({"text": paragraphs[:held_out]}),
    )
    tokenizer = make_tokenizer(raw_datasets["train"]["text"][:], model_args.vocab_size)

    config = CONFIG_MAPPING[model_args.model_type](
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config.update_from_string(model_args.config_overrides)
    model = AutoModelForCausalLM.from_config(config)

    def tokenize_function(examples: dict[str, list]) -> dict[str, list]:
        return tokenizer([text + tokenizer.eos_token for text in examples["text"]])

    def group_texts(examples: dict[str, list]) -> dict[str, list]:
        joined = {key: list(chain(*values)) for key, values in examples.items()}
        total_length = len(joined["input_ids"]) // data_args.block_size * data_args.block_size
        blocks = {
            key: [
                values[start : start + data_args.block_size]
                for start in range(0, total_length, data_args.block_size)
            ]
            for key, values in joined.items()
        }
        return {**blocks, "labels": [list(block) for block in blocks["input_ids"]]}

    with training_args.main_process_first(desc="grouping texts together"):
        lm_datasets = raw_datasets.map(
            tokenize_function, batched=True, remove_columns=["text"]
        ).map(group_texts, batched=True)
    train_dataset, eval_dataset = lm_datasets["train"], lm_datasets["validation"]
    if data_args.max_train_samples is not None:
        train_dataset = train_dataset.select(range(data_args.max_train_samples))
    if data_args.max_eval_samples is not None:
        eval_dataset = eval_dataset.select(range(data_args.max_eval_samples))

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset if training_args.do_train else None,
        eval_dataset=eval_dataset if training_args.do_eval else None,
        processing_class=tokenizer,
        data_collator=default_data_collator,
        compute_metrics=make_compute_metrics("perplexity"),
        preprocess_logits_for_metrics=next_token_losses,
    )

    if training_args.do_train:
        train_result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        trainer.save_model()
        trainer.log_metrics("train", train_result.metrics)
        trainer.save_metrics("train", train_result.metrics)
        trainer.save_state()

    if training_args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)


if __name__ == "__main__":
    main()
