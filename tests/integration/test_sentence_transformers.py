"""The trainer of sentence-transformers: its evaluations and weights stay, with two datasets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer, set_seed

from tbtrainer import TBTrainerMixin, TensorBoardArguments
from tests.events import event_files, scalars
from tests.tiny import arguments

sentence_transformers = pytest.importorskip("sentence_transformers")
datasets = pytest.importorskip("datasets")
losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
evaluation = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]
PAIRS = {
    "sentence1": ["a b", "c d"] * 5,
    "sentence2": ["a b c", "d"] * 5,
    "score": [0.9, 0.2] * 5,
}


@dataclass
class Arguments(TensorBoardArguments, sentence_transformers.SentenceTransformerTrainingArguments):
    pass


class Ours(TBTrainerMixin, sentence_transformers.SentenceTransformerTrainer):
    pass


def trained(kind: type, config: type, at: Path) -> Any:
    model_directory = at / "model"
    model_directory.mkdir(parents=True)
    (model_directory / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(model_directory / "vocab.txt")).save_pretrained(model_directory)
    set_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    bert = BertModel(BertConfig(vocab_size=len(WORDS), num_attention_heads=2, **sizes))
    bert.save_pretrained(model_directory)
    model = sentence_transformers.SentenceTransformer(str(model_directory), device="cpu")
    pairs = datasets.Dataset.from_dict(PAIRS)
    args = arguments(config, at, max_steps=2, eval_strategy="steps", eval_steps=2, use_cpu=True)
    made = kind(
        model=model,
        args=args,
        train_dataset=pairs,
        eval_dataset={"one": pairs, "two": pairs},
        loss=losses.CosineSimilarityLoss(model),
        evaluator=evaluation.EmbeddingSimilarityEvaluator(
            ["a b", "c", "d"], ["a", "c d", "b"], [0.9, 0.5, 0.1], name="similar"
        ),
    )
    made.train()
    return made


def test_a_training_is_that_of_sentence_transformers(tmp_path: Path) -> None:
    ours = trained(Ours, Arguments, tmp_path / "ours")
    config = sentence_transformers.SentenceTransformerTrainingArguments
    stock = trained(sentence_transformers.SentenceTransformerTrainer, config, tmp_path / "stock")
    for own, other in zip(ours.model.parameters(), stock.model.parameters(), strict=True):
        assert torch.equal(own, other)
    entries = [
        {k: v for k, v in entry.items() if "per_second" not in k and "runtime" not in k}
        for entry in ours.state.log_history
    ]
    assert entries == [
        {k: v for k, v in entry.items() if "per_second" not in k and "runtime" not in k}
        for entry in stock.state.log_history
    ]
    (file,) = event_files(tmp_path / "ours")
    shown = {tag for tag, _, _ in scalars(file)}
    assert {"eval/one_loss", "eval/two_loss", "eval/similar_pearson_cosine"} <= shown
