"""The panels of language models that are trained and evaluated on Python's manual."""

import html
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import log_softmax
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

from tbtrainer import (
    TBSeq2SeqTrainer,
    TBSeq2SeqTrainingArguments,
    TBTrainer,
    TBTrainingArguments,
)
from tbtrainer.panels.built_in import PANEL_NAMES
from tests.events import event_files, scalars, text, values
from tests.language_models import Paragraphs, bert, gpt2, t5, tokenizer
from tests.tiny import arguments, equal

ROWS = 21


def built(cls: Any, directory: Path, model: Any, collator: Any, data: Any, **changes: Any) -> Any:
    kinds = {
        Trainer: TrainingArguments,
        TBTrainer: TBTrainingArguments,
        TBSeq2SeqTrainer: TBSeq2SeqTrainingArguments,
    }
    own = {} if cls is Trainer else {"telemetry_errors": "raise"}
    extra = {name: changes.pop(name) for name in ("compute_metrics",) if name in changes}
    args = arguments(kinds[cls], directory, **own, **changes)
    return cls(
        model=model,
        args=args,
        data_collator=collator,
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer(),
        **extra,
    )


def causal(cls: Any, directory: Path, **changes: Any) -> Any:
    collator = DataCollatorForLanguageModeling(tokenizer(), mlm=False)
    return built(cls, directory, gpt2(), collator, Paragraphs(ROWS), **changes)


def shown(trainer: Any) -> Path:
    """The event file of a trainer."""
    trainer.writer.close()
    (file,) = event_files(Path(trainer.writer.log_dir))
    return file


def panels(file: Path) -> Counter[str]:
    """How often each panel was shown."""
    tags = (value.tag.removesuffix("/text_summary") for _, value in values(file))
    names = (tag.removeprefix("eval/") for tag in tags if tag.startswith("eval/"))
    return Counter(name for name in names if name in PANEL_NAMES)


def losses_of(trainer: Any) -> list[NDArray[Any]]:
    """The losses of the tokens of each example, one by one, from all logits."""
    found = []
    for row in Paragraphs(ROWS).rows:
        tokens = torch.tensor([row])
        with torch.no_grad():
            logits = trainer.model(input_ids=tokens).logits.double()
        chosen = log_softmax(logits[0, :-1], dim=1).gather(1, tokens[0, 1:, None])
        found.append(-chosen[:, 0].numpy())
    return found


def test_a_causal_model_has_all_panels(tmp_path: Path) -> None:
    trainer = causal(TBTrainer, tmp_path, max_steps=4, eval_strategy="steps", eval_steps=2)
    trainer.train()
    assert panels(shown(trainer)) == {
        "loss_by_position": 2,
        "perplexity_by_length": 2,
        "worst_tokens": 2,
        "generations": 2,
    }


def test_the_numbers_are_those_of_all_logits(tmp_path: Path) -> None:
    trainer = causal(TBTrainer, tmp_path, per_device_eval_batch_size=4)
    trainer.evaluate()
    file, losses = shown(trainer), losses_of(trainer)
    card = text(file, "eval/perplexity_by_length/text_summary")
    assert card.startswith(f"{ROWS} examples:")
    rows = [line.strip("| ").split(" | ") for line in card.splitlines()[4:]]
    assert sum(int(row[1]) for row in rows) == ROWS
    by_length = sorted(losses, key=len)
    shortest = np.concatenate([loss for loss in by_length if len(loss) <= len(by_length[6])])
    assert int(rows[0][2]) == len(shortest)
    assert float(rows[0][3]) == round(shortest.mean(), 4)
    assert float(rows[0][4]) == round(float(np.exp(shortest.mean())), 2)

    worst = np.array(sorted((loss.max() for loss in losses), reverse=True)[:20])
    lines = text(file, "eval/worst_tokens/text_summary").splitlines()
    assert lines[0].startswith(f"20 of {ROWS} examples")
    probabilities = [float(line.split(" | ")[1]) for line in lines[4:]]
    np.testing.assert_allclose(probabilities, np.exp(-worst), atol=6e-4)


def test_a_masked_model_has_the_panels_of_its_losses(tmp_path: Path) -> None:
    collator = DataCollatorForLanguageModeling(tokenizer(), mlm_probability=0.3)
    trainer = built(TBTrainer, tmp_path, bert(), collator, Paragraphs(ROWS))
    trainer.evaluate()
    file = shown(trainer)
    assert set(panels(file)) == {
        "loss_by_position",
        "perplexity_by_length",
        "worst_tokens",
    }
    (loss,) = [value for tag, _, value in scalars(file) if tag == "eval/loss"]
    rows = text(file, "eval/perplexity_by_length/text_summary").splitlines()[4:]
    cells = [row.strip("| ").split(" | ") for row in rows]
    tokens = np.array([int(row[2]) for row in cells])
    means = np.array([float(row[3]) for row in cells])
    # Stock's loss is the mean of the batches, with different numbers of labels.
    assert abs((tokens * means).sum() / tokens.sum() - loss) < 0.1


class Reversed(Paragraphs):
    """The task is to write the first tokens of a paragraph in reverse."""

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        row = self.rows[index]
        return {"input_ids": row, "labels": row[5::-1]}


def sequences(directory: Path, **changes: Any) -> Any:
    model = t5()
    collator = DataCollatorForSeq2Seq(tokenizer(), model)
    return built(TBSeq2SeqTrainer, directory, model, collator, Reversed(ROWS), **changes)


def test_an_encoder_decoder_generates_after_the_evaluation(tmp_path: Path) -> None:
    trainer = sequences(tmp_path)
    trainer.evaluate()
    file = shown(trainer)
    # All targets are equally long.
    assert set(panels(file)) == {
        "loss_by_position",
        "worst_tokens",
        "generations",
    }
    card = text(file, "eval/generations/text_summary").splitlines()
    assert card[0] == "| prompt | generated | reference |" and len(card) == 5


def test_what_predict_with_generate_generates_is_shown(tmp_path: Path) -> None:
    calls = []
    trainer = sequences(
        tmp_path,
        predict_with_generate=True,
        generation_max_length=9,
        compute_metrics=lambda prediction: {"length": prediction.predictions.shape[1]},
    )
    generate = trainer.model.generate
    trainer.model.generate = lambda *args, **kwargs: calls.append(1) or generate(*args, **kwargs)
    trainer.evaluate()
    file = shown(trainer)
    assert len(calls) == -(-ROWS // 8)
    assert set(panels(file)) == {"generations"}
    card = text(file, "eval/generations/text_summary").splitlines()
    assert card[0] == "| prompt | generated | reference |" and len(card) == 5
    decode = tokenizer().decode
    for row, line in zip(Paragraphs(ROWS).rows, card[2:], strict=False):
        reference = html.unescape(line.split(" | ")[2].removesuffix(" |"))
        assert reference == " ".join(decode(row[5::-1]).split())


def test_given_prompts_are_shown_at_each_evaluation(tmp_path: Path) -> None:
    trainer = causal(TBTrainer, tmp_path, generation_prompts=["Assert statements"])
    trainer.evaluate()
    card = text(shown(trainer), "eval/generations/text_summary").splitlines()
    assert card[0] == "| prompt | generated |" and len(card) == 3
    assert card[2].startswith("| Assert statements | ")


def test_a_training_with_generations_changes_nothing(tmp_path: Path) -> None:
    states = []
    for cls in (Trainer, TBTrainer):
        trainer = causal(
            cls, tmp_path / cls.__name__, max_steps=6, eval_strategy="steps", eval_steps=2
        )
        trainer.model.generation_config.do_sample = True
        trainer.train()
        losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
        states.append((trainer.model.state_dict(), torch.get_rng_state(), losses))
    assert equal(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[1][1])
    assert len(states[0][2]) == 3 and states[0][2] == states[1][2]
