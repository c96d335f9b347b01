"""No secret of arguments, configuration or log entries is in anything that is written or said."""

import json
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, GenerationConfig, TrainingArguments

from tbtrainer import TBTrainer, TBTrainingArguments
from tbtrainer.redaction import redacted_json
from tests.events import event_files, text
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
def test_a_marker_in_any_field_of_arguments_and_configurations_is_hidden(planted):
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


def test_no_byte_of_a_run_holds_a_planted_marker(tmp_path, caplog):
    model = classifier()
    model.config.update(
        {"auth_token": MARKER, "task_specific_params": {"a": {"secret": MARKER}}, "shown": "yes"}
    )
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
    run = Path(made.writer.log_dir)
    written = [*run.rglob("*"), *tmp_path.glob("checkpoint-*/tensorboard_run.json")]
    assert len(written) >= 4
    assert [p for p in written if p.is_file() and MARKER.encode() in p.read_bytes()] == []
    assert MARKER not in caplog.text
    (file,) = event_files(run)
    assert '"service": "<Service>"' in text(file, "args/text_summary")
    assert '"shown": "yes"' in text(file, "model_config/text_summary")


def test_event_files_can_be_kept_from_other_users(tmp_path):
    made = trainer(TBTrainer, arguments(TBTrainingArguments, tmp_path, event_file_private=True))
    made.train()
    (file,) = event_files(tmp_path)
    assert file.stat().st_mode & 0o077 == 0
