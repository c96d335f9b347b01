"""The condition of `compare --fail-if`: what it means, and that it is nothing but a condition."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbtrainer.command_line.condition import Condition, Quantity
from tbtrainer.command_line.exit_codes import UsageError

# Values of a run by quantity; of the baseline, they are one less.
VALUES = {"eval/loss": 2.0, "eval/accuracy": 0.5, "train/loss": 3.0, "a": 7.0, "b c-d": 8.0}
MINIMUM = 1.0


def lookup(quantity: Quantity) -> float:
    value = MINIMUM if quantity.statistic == "min" else VALUES[quantity.tag]
    return value - 1 if quantity.of_baseline else value


def only(**values: float) -> Callable[[Quantity], float]:
    return lambda quantity: values.get(quantity.tag, math.nan)


@pytest.mark.parametrize(
    "source, expected",
    [
        ("eval/loss > 1.02 * baseline", True),
        ("eval/loss > 3 * baseline", False),
        ("eval/loss - baseline >= 1", True),
        ("min(eval/loss) == 1 and baseline(min(eval/loss)) == 0", True),
        ("min(eval/loss) > baseline", True),
        ("eval/loss > baseline(train/loss)", False),
        ("eval/loss / baseline >= 2", True),
        ("0 < eval/accuracy < 1", True),
        ("0 < eval/accuracy < 0.4", False),
        ("not eval/loss == 2", False),
        ("eval/loss == 0 or eval/accuracy == .5", True),
        ("abs(eval/loss - train/loss) == 1e0", True),
        ("-eval/loss < +1", True),
        ('"b c-d" == 8', True),
        ("a == 07", True),
        ("eval/loss*2==4", True),
        ("1 + 2 * 3 == a", True),
        ("(1 + 2) * 3 == a + 2", True),
    ],
)
def test_a_condition_means_what_it_says(source: str, expected: bool) -> None:
    assert Condition.parsed(source).holds(lookup) is expected


@pytest.mark.parametrize(
    "source, expected",
    [
        ("x > 1", None),
        ("x <= 1", None),
        ("not x > 1", None),
        ("x != x", None),
        ("x > 1 or y > 1", True),
        ("x > 1 or y < 1", None),
        ("x > 1 and y < 1", False),
        ("y < 1 and x > 1", False),
        ("1 < y < x", None),
        ("y / (y - y) > 1", None),
    ],
)
def test_a_nan_decides_nothing(source: str, expected: bool | None) -> None:
    assert Condition.parsed(source).holds(only(y=2.0)) is expected


def test_an_infinite_value_is_compared() -> None:
    assert Condition.parsed("x > 1").holds(only(x=math.inf)) is True


@pytest.mark.parametrize(
    "source",
    [
        "",
        "eval/loss",
        "eval/loss >",
        "1 +",
        "eval/loss ** 2 > 1",
        "eval/loss % 2 > 1",
        "eval/loss is 1",
        "eval/loss in (1, 2)",
        "eval/loss if a else a > 1",
        "lambda: 1 > 0",
        "__import__('os').system('true') > 1",
        "open(a) > 1",
        "a.__class__() > 1",
        "[a > 1 for a in b]",
        "f'{a}' > 1",
        "max(a, 1) > 1",
        "max(a + 1) > 1",
        "max(max(a)) > 1",
        "abs() > 1",
        "abs(a, a) > 1",
        "abs(x=a) > 1",
        "(a := 1) > 1",
        "(a > 1) > 0",
        "baseline > 1",
        "a > baseline + eval/loss",
        "a > baseline(1)",
        "a > 1; a > 2",
        "a > 1 )",
        "a > 1 # comment",
        "a > 1\\\n",
        "(" * 400 + "a" + ")" * 400 + " > 1",
        "-" * 2000 + "a > 1",
        "a > 'unclosed",
    ],
)
def test_anything_else_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match="is not a condition"):
        Condition.parsed(source)


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(source: str) -> None:
    try:
        condition = Condition.parsed(source)
    except UsageError as error:
        assert str(error).isprintable()
        return
    assert condition.holds(lambda quantity: 1.0) in (True, False, None)


def test_the_error_quotes_the_condition_without_control_characters() -> None:
    with pytest.raises(UsageError, match=r"'a\\x1b\[2J > 1'.*character") as raised:
        Condition.parsed("a\x1b[2J > 1")
    assert str(raised.value).isprintable()


def test_the_quantities_are_listed_once() -> None:
    condition = Condition.parsed("eval/loss > baseline or eval/loss > 3 or min(a) < 1")
    assert condition.quantities == (
        Quantity("eval/loss"),
        Quantity("eval/loss", of_baseline=True),
        Quantity("a", "min"),
    )
    assert condition.uses_baseline
    assert not Condition.parsed("eval/loss > 3").uses_baseline
