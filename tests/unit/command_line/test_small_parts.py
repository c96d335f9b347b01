"""Small parts of the command line: columns, directions, cards."""

import pytest

from tbtrainer.command_line.card_tables import card_tables
from tbtrainer.command_line.columns import columns
from tbtrainer.command_line.metric_direction import direction_of
from tbtrainer.command_line.run_facts import facts_of
from tbtrainer.command_line.tag_choice import worth_showing
from tbtrainer.panels.markdown import cell, table


def test_columns_begin_at_the_same_place() -> None:
    assert columns([["a", "1"], ["bcd", "23"]], right=(1,)) == ["a     1", "bcd  23"]
    assert columns([]) == []


@pytest.mark.parametrize(
    "tag, direction",
    [
        ("eval/loss", "lower"),
        ("eval/german/loss", "lower"),
        ("train/train_loss", "lower"),
        ("val_loss", "lower"),
        ("eval/perplexity", "lower"),
        ("eval/wer", "lower"),
        ("eval/accuracy", "higher"),
        ("eval/accuracy_top_5", "higher"),
        ("eval/f1", "higher"),
        ("eval/f1_macro", "higher"),
        ("eval/rouge1", "higher"),
        ("eval/rougeL", "higher"),
        ("eval/r2", "higher"),
        ("train/epoch", None),
        ("eval/runtime", None),
        ("train/learning_rate", None),
        ("grad_norm/total", None),
        ("health/loss_spike_score", None),
        ("eval/custom", None),
        ("", None),
    ],
)
def test_the_direction_follows_from_the_name(tag: str, direction: str | None) -> None:
    assert direction_of(tag) == direction


def test_bookkeeping_and_detail_are_not_worth_showing() -> None:
    shown = ["train/loss", "eval/loss", "eval/accuracy", "grad_norm/total", "my/metric"]
    hidden = ["train/epoch", "eval/runtime", "eval/samples_per_second", "train/total_flos"]
    hidden += ["grad_norm_per_block/layer.0", "tbtrainer/records_written", "memory/host_resident"]
    assert worth_showing([*shown, *hidden]) == shown


def test_cells_of_a_card_are_read_as_they_were_written() -> None:
    texts = ["a | b", "`code`", "<b> & *c*", "x_y", ""]
    (read,) = card_tables(f"# title\n\n{table(('k', 'v'), [[cell(t), '`v`'] for t in texts])}\n")
    assert read.header == ("k", "v")
    assert read.rows == tuple((text, "v") for text in texts)


def test_rows_have_as_many_cells_as_the_header() -> None:
    (read,) = card_tables("| a | b |\n|---|---|\n| 1 |\n| 1 | 2 | 3 |")
    assert read.rows == (("1", ""), ("1", "2"))


def test_the_cards_of_a_run_say_what_it_is() -> None:
    changed = table(("Differs from the default", "value", "default"), [["`lr`", "`1`", "`2`"]])
    topic = table(("Optimizer", "value"), [["`lr`", "`1`"]])
    facts = facts_of(
        {
            "run/model": table(("Model", ""), [["class", "`Bert`"]]),
            "run/arguments": f"{changed}\n\n{topic}",
            "args": '{"lr": 1, "hub_token": "abc"}',
            "throughput/verdict": "**Waiting** for `data`",
        },
        {"lr": 3},
    )
    assert facts.model == {"class": "Bert"}
    assert facts.changed_arguments == {"lr": ("1", "2")}
    assert facts.arguments == {"lr": "1", "hub_token": '"<hidden>"'}
    assert facts.verdict == "Waiting for data"


def test_a_stock_run_says_less() -> None:
    facts = facts_of(
        {"model_config": '{"architectures": ["Bert"], "model_type": "bert"}'}, {"lr": 3.0}
    )
    assert facts.model == {"class": "Bert", "type": "bert"}
    assert facts.changed_arguments is None
    assert facts.arguments == {"lr": "3.0"}


@pytest.mark.parametrize("card", ["", "[1, 2]", "{", "[" * 10_000, "|" * 100, "| a |\n" * 5000])
def test_a_card_of_anybody_is_no_error(card: str) -> None:
    facts_of({tag: card for tag in ("run/model", "run/arguments", "args", "model_config")}, {})
