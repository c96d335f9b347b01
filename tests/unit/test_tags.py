"""Every tag is declared once, and the documentation's table is printed from the declarations."""

import re
from pathlib import Path

import pytest

from tbtrainer import tags

PAGE = Path(__file__).parents[2] / "docs" / "tags.md"


def test_the_table_of_the_documentation_is_the_printed_one() -> None:
    assert tags.table() in PAGE.read_text()


def test_no_tag_is_declared_twice() -> None:
    names = [tag.name for tag in tags.TAGS]
    assert len(names) == len(set(names))


def test_every_declared_tag_is_listed() -> None:
    declared = [value for value in vars(tags).values() if isinstance(value, tags.Tag)]
    assert set(declared) == set(tags.TAGS)


@pytest.mark.parametrize("group", ["train", "test"])
def test_groups_of_stock_hold_none_of_ours(group: str) -> None:
    assert [tag.name for tag in tags.TAGS if tag.name.startswith(f"{group}/")] == []


def test_the_group_of_evaluations_holds_cards_and_no_curve() -> None:
    ours = [tag for tag in tags.TAGS if tag.name.startswith("eval/")]
    cards = re.compile(r"eval/(<dataset>/)?[\w<>]+(/<\w+>)?")
    assert [tag.name for tag in ours if not cards.fullmatch(tag.name)] == []
    assert {tag.kind for tag in ours} <= {"image", "text", "PR curve", "embedding"}
    assert tags.BEST_METRIC in ours


@pytest.mark.parametrize("tag", tags.TAGS, ids=lambda tag: tag.name)
def test_a_description_is_one_sentence(tag: tags.Tag) -> None:
    assert re.fullmatch(r"[A-Z][^.]*\.( Unit: .*)?", tag.description)


@pytest.mark.parametrize("tag", tags.TAGS, ids=lambda tag: tag.name)
def test_a_written_tag_finds_its_description(tag: tags.Tag) -> None:
    assert tags.description_of(tag.of("model.layers.3")).startswith(tag.description)


def test_a_panel_of_one_dataset_has_the_same_description() -> None:
    described = tags.description_of("eval/mistakes")
    assert described and tags.description_of("eval/short/mistakes") == described
    assert tags.description_of("eval/short/pr_curve/good").startswith("Precision and recall")


def test_a_tag_of_stock_has_no_description() -> None:
    assert tags.description_of("train/loss") == ""


def test_a_users_metric_called_like_a_card_has_no_description() -> None:
    assert tags.description_of("eval/best_f1", "scalar") == ""
    assert tags.description_of("eval/best_f1", "text") == tags.BEST_METRIC.description


def test_a_scalar_names_its_unit() -> None:
    assert tags.description_of("throughput/checkpoint_seconds").endswith("Unit: s.")


def test_evaluation_and_gradient_norms_are_the_first_default_groups() -> None:
    # TensorBoard's page of time series opens the first two groups, in the order of their names.
    on_the_page = ("scalar", "image", "histogram")
    # Those of targets that a user has to ask for are not there by default.
    groups = {
        tag.name.split("/")[0]
        for tag in tags.TAGS
        if tag.kind in on_the_page and "histogram_targets" not in tag.when
    }
    assert sorted(groups)[:2] == ["eval", "grad_norm"]


@pytest.mark.parametrize(
    "group",
    sorted({tag.name.split("/")[0] for tag in tags.TAGS if "<" not in tag.name} - {"eval"}),
)
def test_a_group_is_small_enough_to_be_looked_at_whole(group: str) -> None:
    # TensorBoard shows twelve cards of a group on one page.
    assert len([tag for tag in tags.TAGS if tag.name.startswith(f"{group}/")]) <= 12
