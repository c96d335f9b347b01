"""No secret of arguments, configuration or log entries is written to a run or to a log."""

import json
import logging
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, GenerationConfig, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.redaction import redacted_json
from tests.events import event_files, scalars, text
from tests.tiny import arguments, classifier, trainer

MARKER = "MARKER7f3a9c"
FIELDS = sorted(
    {f.name for f in fields(TrainingArguments)}
    | set(BertConfig().to_dict())
    | set(GenerationConfig().to_dict())
)


@pytest.mark.parametrize(
    "planted",
    [
        f"https://user:{MARKER}@host/path",
        f"postgres://{MARKER}@host",
        f"https://host/path?access_token={MARKER}&x=1",
        f"--password {MARKER}",
        f"Authorization: Bearer {MARKER}",
        {"nested": [{"api_key": MARKER, "headers": {"Authorization": MARKER}}]},
        json.dumps({"client_secret": MARKER}),
        [f"password={MARKER}", "harmless"],
    ],
    ids=lambda planted: str(planted)[:24],
)
def test_a_secret_in_any_field_of_a_configuration_is_hidden(planted: str) -> None:
    shown = {field: redacted_json({field: planted}) for field in FIELDS}
    assert [field for field, written in shown.items() if MARKER in written] == []


@dataclass
class MyArguments(TBTrainingArguments):
    """What a user adds to the arguments."""

    wandb_api_key: str = MARKER
    database: str = f"postgres://user:{MARKER}@host/table"
    service: Any = None


class Service:
    def __repr__(self) -> str:
        return f"Service(key={MARKER})"


def test_no_byte_of_a_run_holds_a_planted_marker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--wandb_api_key", MARKER])
    model = classifier()
    model.config.update(
        {"auth_token": MARKER, "task_specific_params": {"a": {"secret": MARKER}}, "shown": "yes"}
    )
    model.config._name_or_path = f"https://user:{MARKER}@host/model"
    args = arguments(
        MyArguments,
        tmp_path,
        hub_token=MARKER,
        run_name=f"https://user:{MARKER}@host/run",
        service=Service(),
        save_strategy="steps",
        save_steps=5,
    )
    made = trainer(TBTrainer, args, model=model)
    with caplog.at_level(logging.WARNING):
        made.train()
        made.log({"where": f"https://user:{MARKER}@host", "password": [MARKER], "key": Service()})
        made.log({"api_key": MARKER, "auth": {"password": MARKER}, f"hf_{MARKER}abcdefgh": 0.5})
        made.log({"auth": {"password": [MARKER]}, f"https://user:{MARKER}@host": [1, 2]})
    run = Path(made.writer.log_dir)
    written = [*run.rglob("*"), *tmp_path.glob("checkpoint-*/tensorboard_run.json")]
    assert len(written) >= 4
    assert [p for p in written if p.is_file() and MARKER.encode() in p.read_bytes()] == []
    assert MARKER not in caplog.text
    (file,) = event_files(run)
    assert '"service": "<Service>"' in text(file, "args/text_summary")
    assert '"shown": "yes"' in text(file, "model_config/text_summary")
    assert "| `service` | `<Service>` |" in text(file, "run/arguments/text_summary")
    assert "train.py --wandb_api_key" in text(file, "run/environment/text_summary")


def test_a_secret_that_compute_metrics_returns_is_hidden(tmp_path: Path) -> None:
    args = arguments(TBTrainingArguments, tmp_path)
    metrics = {"accuracy": 0.5, "db_password": MARKER, "login": {"name": "PIN", "value": MARKER}}
    made = trainer(TBTrainer, args, compute_metrics=lambda _: dict(metrics))
    assert made.evaluate()["eval_db_password"] == MARKER
    (file,) = event_files(tmp_path)
    assert MARKER.encode() not in file.read_bytes()
    assert ("eval/accuracy", 0, 0.5) in scalars(file)


def test_no_warning_about_a_resumed_run_has_a_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = tmp_path / f"password={MARKER}"
    args = arguments(TBTrainingArguments, first, save_strategy="steps", save_steps=5)
    trainer(TBTrainer, args).train()
    checkpoint = first / "checkpoint-5"
    with caplog.at_level(logging.DEBUG, "tbtrainer"):
        for change in (None, "moved", "unmarked"):
            if change == "moved":
                (first / "runs").rename(first / "elsewhere")
            if change == "unmarked":
                (checkpoint / "tensorboard_run.json").unlink()
            other = arguments(TBTrainingArguments, tmp_path / f"other-{change}")
            trainer(TBTrainer, other).train(resume_from_checkpoint=str(checkpoint))
    ours = [record for record in caplog.records if record.name.startswith("tbtrainer")]
    assert len(ours) >= 3
    assert [record.getMessage() for record in ours if MARKER in record.getMessage()] == []


def test_event_files_can_be_kept_from_other_users(tmp_path: Path) -> None:
    made = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path, event_file_private=True))
    made.train()
    (file,) = event_files(tmp_path)
    assert file.stat().st_mode & 0o077 == 0
