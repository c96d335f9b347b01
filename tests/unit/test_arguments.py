"""The arguments say what is wrong before anything runs, and survive every way they are stored."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from tbtrainer import (
    TBSeq2SeqTrainingArguments,
    TBTrainingArguments,
    TensorBoardArguments,
    argument_checks,
)
from tbtrainer.given_arguments import telemetry_arguments


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("histogram_strategy", "sometimes", "no, steps, epoch"),
        ("histogram_steps", 1.5, "for every second step use 2"),
        ("histogram_steps", 0, "above 0"),
        ("histogram_steps", -3, "above 0"),
        ("histogram_steps", float("nan"), "above 0"),
        ("histogram_steps", "often", "whole number of steps"),
        ("histogram_steps", True, "whole number of steps"),
        ("histogram_targets", ["weights"], "parameters, gradients"),
        ("histogram_targets", [], "histogram_strategy='no'"),
        ("histogram_include", ["layer.(3"], "not a regular expression"),
        ("histogram_exclude", [7], "not a regular expression"),
        ("histogram_detail", "layer", "parameter, block, auto"),
        ("histogram_buckets", 4, "from 8 to 1024"),
        ("histogram_buckets", 64.0, "from 8 to 1024"),
        ("norm_detail", "layer", "total, block, parameter"),
        ("generation_prompts", 5, "a text or a list of texts"),
        ("generation_prompts", [""], "each prompt has to be a text"),
        ("generation_prompts", [7], "each prompt has to be a text"),
        ("flops_per_token", 0, "a number above 0, or None"),
        ("flops_per_token", float("inf"), "a number above 0, or None"),
        ("flops_per_token", "many", "a number above 0, or None"),
        ("mirror_to", ["tensorflow"], "wandb, trackio"),
        ("mirror_to", 5, "a text or a list of texts"),
        ("run_resume", "never", "auto, new"),
        ("event_file_private", "yes", "True or False"),
        ("event_file_fsync", 1, "True or False"),
        ("telemetry_errors", "ignore", "warn, raise"),
        ("histogram_steps", float("inf"), "for every second step use 2"),
        ("histogram_steps", "5", "neither a whole number of steps nor a ratio"),
        ("histogram_targets", None, "a text or a list of texts"),
        ("histogram_targets", 5, "a text or a list of texts"),
        ("histogram_include", 5, "a text or a list of texts"),
        ("histogram_exclude", [], "use None"),
        ("logging_dir", 3, "not a path"),
        ("logging_dir", "  ", "not a path"),
    ],
)
def test_a_wrong_value_is_named_with_its_field(
    field: str, value: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as raised:
        TBTrainingArguments(output_dir=str(tmp_path), **{field: value})
    message = str(raised.value)
    assert field in message
    assert said in message
    shown = value[0] if isinstance(value, list) and value else value
    assert repr(shown) in message


def test_every_field_is_a_command_line_flag(tmp_path: Path) -> None:
    command_line = [
        *("--output_dir", str(tmp_path), "--logging_dir", str(tmp_path / "run")),
        *("--histogram_strategy", "epoch", "--histogram_steps", "7"),
        *("--histogram_targets", "gradients"),
        *("--histogram_include", "layer", "head", "--histogram_exclude", "bias$"),
        *("--histogram_detail", "block"),
        *("--histogram_buckets", "32", "--norm_detail", "parameter"),
        *("--generation_prompts", "Once upon a time", "The"),
        *("--flops_per_token", "6e9", "--run_resume", "new", "--telemetry_errors", "raise"),
        *("--event_file_private", "--event_file_fsync", "true"),
    ]
    (args,) = HfArgumentParser(TBTrainingArguments).parse_args_into_dataclasses(command_line)
    assert args.histogram_strategy == IntervalStrategy.EPOCH
    assert (args.histogram_steps, args.histogram_targets) == (7, ["gradients"])
    assert (args.histogram_include, args.histogram_exclude) == (["layer", "head"], ["bias$"])
    assert (args.histogram_buckets, args.norm_detail) == (32, "parameter")
    assert (args.histogram_detail, args.flops_per_token) == ("block", 6e9)
    assert args.generation_prompts == ["Once upon a time", "The"]
    assert (args.run_resume, args.telemetry_errors) == ("new", "raise")
    assert (args.event_file_private, args.event_file_fsync) == (True, True)


def test_a_ratio_stays_a_ratio_on_the_command_line(tmp_path: Path) -> None:
    parser = HfArgumentParser(TBTrainingArguments)
    flags = ["--output_dir", str(tmp_path), "--histogram_steps", "0.25"]
    (args,) = parser.parse_args_into_dataclasses(flags)
    assert args.histogram_steps == 0.25


def test_too_many_prompts_are_refused(tmp_path: Path) -> None:
    args = TBTrainingArguments(output_dir=str(tmp_path), generation_prompts=["The"] * 32)
    assert len(args.generation_prompts or ()) == 32
    with pytest.raises(ValueError, match="has 33 prompts; use at most 32"):
        TBTrainingArguments(output_dir=str(tmp_path), generation_prompts=["The"] * 33)


@pytest.mark.parametrize(
    ("given", "kept"), [(None, None), ([], []), ("The", ["The"]), (("A", "B"), ["A", "B"])]
)
def test_prompts_may_be_none_a_text_or_several(given: Any, kept: Any, tmp_path: Path) -> None:
    args = TBTrainingArguments(output_dir=str(tmp_path), generation_prompts=given)
    assert args.generation_prompts == kept


def test_a_tracker_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(argument_checks, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="mirror_to=.*pip install trackio"):
        TBTrainingArguments(output_dir=str(tmp_path), mirror_to=["trackio"])


def test_a_folder_of_the_same_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_tracker").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="not installed"):
        argument_checks.checked_packages("mirror_to", ["some_tracker"], ("some_tracker",))


def test_a_tracker_may_be_given_as_text_and_counts_once() -> None:
    for given in ("torch", ["torch", "torch"]):
        assert argument_checks.checked_packages("mirror_to", given, ("torch",)) == ["torch"]


def test_one_pattern_may_be_given_as_text(tmp_path: Path) -> None:
    args = TBTrainingArguments(output_dir=str(tmp_path), histogram_include="attention")
    assert args.histogram_include == ["attention"]


def test_arguments_survive_dictionary_json_pickle_and_torch_save(tmp_path: Path) -> None:
    args = TBTrainingArguments(
        output_dir=str(tmp_path), histogram_steps=3, histogram_exclude=["bias"]
    )
    assert args.to_dict()["histogram_strategy"] == "steps"
    assert '"histogram_exclude"' in args.to_json_string()
    again = [pickle.loads(pickle.dumps(args))]
    torch.save(args, tmp_path / "training_args.bin")
    again.append(torch.load(tmp_path / "training_args.bin", weights_only=False))
    for copy in again:
        assert copy.to_dict() == args.to_dict()


def test_the_arguments_built_again_from_their_dictionary_are_equal(tmp_path: Path) -> None:
    args = TBTrainingArguments(output_dir=str(tmp_path), histogram_steps=0.1)
    assert TBTrainingArguments(**args.to_dict()).to_dict() == args.to_dict()


def test_a_plain_training_arguments_gives_the_defaults(tmp_path: Path) -> None:
    shown = telemetry_arguments(TrainingArguments(output_dir=str(tmp_path)))
    assert (shown.histogram_steps, shown.norm_detail) == (0.02, "block")


def test_the_logging_dir_is_none_unless_the_user_names_one(tmp_path: Path) -> None:
    assert telemetry_arguments(TBTrainingArguments(output_dir=str(tmp_path))).logging_dir is None
    chosen = TBTrainingArguments(output_dir=str(tmp_path), logging_dir="runs/a")
    assert telemetry_arguments(chosen).logging_dir == "runs/a"


def test_seq2seq_arguments_have_the_fields_too(tmp_path: Path) -> None:
    args = TBSeq2SeqTrainingArguments(output_dir=str(tmp_path), histogram_steps=5)
    assert args.histogram_steps == 5
    assert args.predict_with_generate is False


def test_the_mixin_goes_with_a_users_own_arguments(tmp_path: Path) -> None:
    from dataclasses import dataclass

    @dataclass
    class MyArguments(TensorBoardArguments, TrainingArguments):
        temperature: float = 1.0

    args = MyArguments(output_dir=str(Path(tmp_path)), temperature=0.5, norm_detail="total")
    assert (args.temperature, args.norm_detail) == (0.5, "total")


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    args = TBTrainingArguments(
        output_dir=str(tmp_path), histogram_steps=np.int64(5), histogram_buckets=np.int32(32)
    )
    assert (args.histogram_steps, args.histogram_buckets) == (5, 32)
    assert type(args.histogram_buckets) is int
