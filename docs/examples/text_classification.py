"""Fine-tune any encoder on a csv or json file with a text and a label: `run_glue.py`, shortened.

    python text_classification.py \
        --model_name_or_path some/model --train_file train.csv --validation_file validation.csv \
        --output_dir out --do_train --do_eval

The files have the columns `text` and `label`, the label a number; a label that is not whole makes
it a regression.
"""

import sys
from dataclasses import dataclass, field

from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    HfArgumentParser,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from tbtrainer import TBTrainer as Trainer
from tbtrainer import TBTrainingArguments as TrainingArguments
from tbtrainer.metrics import make_compute_metrics


@dataclass
class DataTrainingArguments:
    """What is trained and evaluated on."""

    train_file: str = field(metadata={"help": "A csv or json file to train on."})
    validation_file: str = field(metadata={"help": "A csv or json file to evaluate on."})
    max_seq_length: int = field(default=128, metadata={"help": "Tokens a text is cut to."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on so many."})


@dataclass
class ModelArguments:
    """Which model is fine-tuned."""

    model_name_or_path: str = field(metadata={"help": "A pretrained model, local or of the hub."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})


def main() -> None:
    """Trains, evaluates and saves as the command line says."""
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        model_args, data_args, training_args = parser.parse_json_file(sys.argv[1])
    else:
        model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    data_files = {"train": data_args.train_file, "validation": data_args.validation_file}
    extension = data_args.train_file.split(".")[-1]
    raw_datasets = load_dataset(extension, data_files=data_files, cache_dir=model_args.cache_dir)

    is_regression = raw_datasets["train"].features["label"].dtype in ("float32", "float64")
    num_labels = 1 if is_regression else len(raw_datasets["train"].unique("label"))
    config = AutoConfig.from_pretrained(
        model_args.model_name_or_path, num_labels=num_labels, cache_dir=model_args.cache_dir
    )
    tokenizer = AutoTokenizer.from_pretrained(
        model_args.model_name_or_path, cache_dir=model_args.cache_dir
    )
    model = AutoModelForSequenceClassification.from_pretrained(
        model_args.model_name_or_path, config=config, cache_dir=model_args.cache_dir
    )

    def preprocess_function(examples: dict[str, list]) -> dict[str, list]:
        return tokenizer(examples["text"], truncation=True, max_length=data_args.max_seq_length)

    with training_args.main_process_first(desc="dataset map pre-processing"):
        raw_datasets = raw_datasets.map(preprocess_function, batched=True)
    train_dataset, eval_dataset = raw_datasets["train"], raw_datasets["validation"]
    if data_args.max_train_samples is not None:
        train_dataset = train_dataset.select(range(data_args.max_train_samples))
    if data_args.max_eval_samples is not None:
        eval_dataset = eval_dataset.select(range(data_args.max_eval_samples))

    metric = make_compute_metrics("mse" if is_regression else "accuracy")

    def compute_metrics(p: EvalPrediction) -> dict[str, float]:
        return metric(p)

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset if training_args.do_train else None,
        eval_dataset=eval_dataset if training_args.do_eval else None,
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )

    if training_args.do_train:
        checkpoint = training_args.resume_from_checkpoint
        if checkpoint == "last":
            checkpoint = get_last_checkpoint(training_args.output_dir)
        train_result = trainer.train(resume_from_checkpoint=checkpoint)
        metrics = train_result.metrics
        metrics["train_samples"] = len(train_dataset)
        trainer.save_model()
        trainer.log_metrics("train", metrics)
        trainer.save_metrics("train", metrics)
        trainer.save_state()

    if training_args.do_eval:
        metrics = trainer.evaluate(eval_dataset=eval_dataset)
        metrics["eval_samples"] = len(eval_dataset)
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)


if __name__ == "__main__":
    main()
