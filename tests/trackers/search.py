"""A hyper-parameter search of two trials that is mirrored to wandb.

    python -m tests.trackers.search callback|init

transformers' callback begins a run for each trial, or the program begins one. Runs in the current
directory, the event files in `runs`.
"""

import sys
from pathlib import Path

import wandb

from tbtrainer import TBTrainer, TBTrainingArguments
from tests import tiny


def main(way: str) -> None:
    if way == "init":
        wandb.init(project="tbtrainer")
    args = tiny.arguments(
        TBTrainingArguments,
        Path("out"),
        logging_dir="runs",
        eval_strategy="steps",
        eval_steps=5,
        evaluation_panels="none",
        mirror_to=["wandb"],
        report_to="wandb" if way == "callback" else "none",
    )
    trainer = tiny.trainer(
        TBTrainer, args, model=None, model_init=lambda trial=None: tiny.classifier()
    )
    trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3)},
        n_trials=2,
        backend="optuna",
        direction="minimize",
    )
    wandb.finish()
    wandb.teardown()


if __name__ == "__main__":
    main(sys.argv[1])
