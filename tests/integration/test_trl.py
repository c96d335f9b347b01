"""The trainers of TRL: evaluations and weights are theirs, and what can be shown is shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertTokenizer, GPT2Config, GPT2LMHeadModel, set_seed

from tbtrainer import TBTrainerMixin, TBTrainingArguments, TensorBoardArguments
from tests.events import event_files, scalars, values
from tests.tiny import arguments

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]
TEXTS = {"text": ["a b c a b", "a b", "c d a b c d"] * 4}
PAIRS = {"prompt": ["a b"] * 4, "chosen": ["c d"] * 4, "rejected": ["d d d"] * 4}
OF_THE_TOKENS = {"loss_by_position", "perplexity_by_length", "worst_tokens", "generations"}


@dataclass
class SFTConfig(TensorBoardArguments, trl.SFTConfig):
    pass


@dataclass
class DPOConfig(TensorBoardArguments, trl.DPOConfig):
    pass


class TBSFTTrainer(TBTrainerMixin, trl.SFTTrainer):
    pass


class TBDPOTrainer(TBTrainerMixin, trl.DPOTrainer):
    pass


def language_model() -> GPT2LMHeadModel:
    set_seed(0)
    config = GPT2Config(
        vocab_size=len(WORDS), n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=3
    )
    config.eos_token_id = 3
    return GPT2LMHeadModel(config)


def trained(kind: type, config: type, data: dict[str, list[str]], at: Path, **more: Any) -> Any:
    at.mkdir()
    (at / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizer(str(at / "vocab.txt"))
    tokenizer.eos_token = "[SEP]"
    rows = datasets.Dataset.from_dict(data)
    args = arguments(
        config, at, max_steps=2, eval_strategy="steps", eval_steps=2, bf16=False, use_cpu=True
    )
    made = kind(
        model=language_model(),
        args=args,
        processing_class=tokenizer,
        train_dataset=rows,
        eval_dataset=rows,
        **more,
    )
    made.train()
    return made


def losses(trainer: Any) -> list[float]:
    return [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]


def assert_same_training(ours: Any, stock: Any) -> None:
    assert losses(ours) == losses(stock) != []
    for own, other in zip(ours.model.parameters(), stock.model.parameters(), strict=True):
        assert torch.equal(own, other)


def panels_of(directory: Path) -> set[str]:
    (file,) = event_files(directory)
    tags = {value.tag.removesuffix("/text_summary") for _, value in values(file)}
    return {tag.removeprefix("eval/") for tag in tags} & OF_THE_TOKENS


def test_sft_shows_its_tokens_without_logits(tmp_path: Path) -> None:
    ours = trained(TBSFTTrainer, SFTConfig, TEXTS, tmp_path / "ours")
    stock = trained(trl.SFTTrainer, trl.SFTConfig, TEXTS, tmp_path / "stock", callbacks=[])
    assert_same_training(ours, stock)
    assert panels_of(tmp_path / "ours") == OF_THE_TOKENS
    (file,) = event_files(tmp_path / "ours")
    (card,) = (v for _, v in values(file) if v.tag == "eval/perplexity_by_length/text_summary")
    rows = [line.split("|") for line in card.tensor.string_val[0].decode().splitlines()[4:]]
    tokens = [int(row[3]) for row in rows]
    mean = sum(float(row[4]) * count for row, count in zip(rows, tokens, strict=True)) / sum(tokens)
    # Batches of equal sizes have different numbers of tokens; the card has four digits.
    assert mean == pytest.approx(losses(ours)[-1], rel=0.05)


def test_dpo_is_shown_without_panels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tbtrainer")
    reference = {"ref_model": language_model()}
    ours = trained(TBDPOTrainer, DPOConfig, PAIRS, tmp_path / "ours", **reference)
    stock = trained(trl.DPOTrainer, trl.DPOConfig, PAIRS, tmp_path / "stock", **reference)
    assert_same_training(ours, stock)
    assert panels_of(tmp_path / "ours") == set()
    (said,) = (r for r in caplog.records if r.name == "tbtrainer.observers.evaluation_panels")
    assert (said.levelname, said.message[:39]) == (
        "INFO",
        "Evaluations are shown without panels, b",
    )


def test_sft_takes_the_arguments_of_tbtrainer(tmp_path: Path) -> None:
    ours = trained(TBSFTTrainer, TBTrainingArguments, TEXTS, tmp_path / "ours")
    assert type(ours.args) is trl.SFTConfig
    (file,) = event_files(tmp_path / "ours")
    assert "grad_norm/total" in {tag for tag, _, _ in scalars(file)}
