"""The condition of `tbtrainer compare --fail-if`, such as `eval/loss > 1.02 * baseline`.

A condition compares values with `<`, `<=`, `>`, `>=`, `==` and `!=`. Comparisons are combined with
`and`, `or`, `not` and parentheses. A value is a number, a tag, or made of them with `+`, `-`, `*`,
`/` and `abs(...)`.

A tag is written as it is if it has only letters, digits, `_`, `.` and `/`. A division has blanks on
both sides of its sign. Any other tag is written in quotes. A tag alone is the last value of its
curve; `first(tag)`, `min(tag)`, `max(tag)` and `mean(tag)` are others. `baseline` is the value that
the comparison names, in the baseline run; `baseline(...)` is another one of that run.

The text is parsed with `ast`. Only what is listed here is accepted, and nothing is run as Python.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tbtrainer.command_line.condition_tokens import BASELINE, NotACondition, with_placeholders
from tbtrainer.command_line.exit_codes import UsageError
from tbtrainer.command_line.terminal_text import printable

Statistic = Literal["last", "first", "min", "max", "mean"]
STATISTICS = get_args(Statistic)
# The most characters of a condition.
LONGEST = 1000

_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda left, right: left / right if right else math.nan,
}
_SIGNS: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@dataclass(frozen=True)
class Quantity:
    """A number that a condition needs of a run.

    Attributes:
        tag: Of the curve.
        statistic: Which of its values.
        of_baseline: Whether it is that of the baseline run.
    """

    tag: str
    statistic: Statistic = "last"
    of_baseline: bool = False


# Returns the value of a quantity; NaN if the run does not have it.
Lookup = Callable[[Quantity], float]


@dataclass(frozen=True)
class Condition:
    """A parsed condition.

    Attributes:
        source: As the user wrote it.
        quantities: What it needs of the runs, each once.
    """

    source: str
    quantities: tuple[Quantity, ...]
    _truth: Callable[[Lookup], bool | None]

    @classmethod
    def parsed(cls, source: str) -> "Condition":
        """Parses a condition.

        Raises:
            UsageError: It is not one. The message quotes it and names what is wrong.

        Example:
            >>> condition = Condition.parsed("eval/loss > 1.02 * baseline")
            >>> condition.holds(lambda quantity: 1.0 if quantity.of_baseline else 1.03)
            True
        """
        try:
            if len(source) > LONGEST:
                raise NotACondition(f"it is longer than {LONGEST} characters")
            text, tags = with_placeholders(source, STATISTICS)
            parser = _Parser(tags)
            truth = parser.truth(ast.parse(text, mode="eval").body)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            why = str(error) if isinstance(error, NotACondition) else "it cannot be parsed"
            raise UsageError(
                f"--fail-if '{printable(source)[:LONGEST]}' is not a condition: {why}. Write it "
                "like 'eval/loss > 1.02 * baseline'."
            ) from None
        return cls(source, tuple(dict.fromkeys(parser.quantities)), truth)

    @property
    def uses_baseline(self) -> bool:
        """Whether it compares with a baseline run."""
        return any(quantity.of_baseline for quantity in self.quantities)

    def holds(self, lookup: Lookup) -> bool | None:
        """Returns whether the condition holds for a run.

        Args:
            lookup: Returns the quantities of the run and of the baseline.

        Returns:
            `None` if a value is NaN and the other values do not decide the condition. A comparison
            with NaN would be false, so that a run whose loss is NaN would pass.
        """
        return self._truth(lookup)


class _Parser:
    """Turns the parts of a tree into functions of a `Lookup`.

    Args:
        tags: What the placeholders in the tree stand for.
    """

    def __init__(self, tags: dict[str, str]) -> None:
        self._tags = tags
        self.quantities: list[Quantity] = []

    def truth(self, node: ast.AST) -> Callable[[Lookup], bool | None]:
        """Returns the function of a part that is true, false or undecided (`None`)."""
        if isinstance(node, ast.BoolOp):
            parts = [self.truth(part) for part in node.values]
            decides = isinstance(node.op, ast.Or)
            return lambda lookup: _combined([part(lookup) for part in parts], decides)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.truth(node.operand)
            return lambda lookup: None if (found := inner(lookup)) is None else not found
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        raise NotACondition("a comparison is missing")

    def _comparison(self, node: ast.Compare) -> Callable[[Lookup], bool | None]:
        sides = [node.left, *node.comparators]
        own = list(dict.fromkeys(q for side in sides for q in self._own_quantities(side)))
        values = [self._value(side, own) for side in sides]
        if any(type(sign) not in _COMPARISONS for sign in node.ops):
            raise NotACondition("only <, <=, >, >=, == and != compare")
        compare = [_COMPARISONS[type(sign)] for sign in node.ops]

        def compared(lookup: Lookup) -> bool | None:
            found = [value(lookup) for value in values]
            pairs = zip(compare, found, found[1:], strict=False)
            truths = [_compared(sign, left, right) for sign, left, right in pairs]
            return _combined(truths, decides=False)

        return compared

    def _value(self, node: ast.AST, own: list[Quantity]) -> Callable[[Lookup], float]:
        """Returns the function of a part that is a number.

        Args:
            node: The part.
            own: The quantities of the comparison that are not of the baseline.
        """
        quantity = self._quantity(node, own)
        if quantity is not None:
            self.quantities.append(quantity)
            return lambda lookup: lookup(quantity)
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            constant = float(node.value)  # type: ignore[arg-type]
            return lambda lookup: constant
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            left, right = self._value(node.left, own), self._value(node.right, own)
            combine = _ARITHMETIC[type(node.op)]
            return lambda lookup: combine(left(lookup), right(lookup))
        if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
            inner, signed = self._value(node.operand, own), _SIGNS[type(node.op)]
            return lambda lookup: signed(inner(lookup))
        if (argument := _argument(node, "abs")) is not None:
            absolute = self._value(argument, own)
            return lambda lookup: abs(absolute(lookup))
        raise NotACondition("a number or a tag is missing")

    def _quantity(self, node: ast.AST, own: list[Quantity]) -> Quantity | None:
        """Returns the quantity that a part stands for; `None` if it is something else."""
        if isinstance(node, ast.Name) and node.id == BASELINE:
            if len(own) != 1:
                raise NotACondition(
                    "baseline stands for the one tag of its comparison; name it, as in "
                    "baseline(eval/loss)"
                )
            return replace(own[0], of_baseline=True)
        if (argument := _argument(node, BASELINE)) is not None:
            inner = self._own_quantity(argument)
            if inner is None:
                raise NotACondition("in baseline(...) is a tag, or as in baseline(min(eval/loss))")
            return replace(inner, of_baseline=True)
        return self._own_quantity(node)

    def _own_quantity(self, node: ast.AST) -> Quantity | None:
        """Returns the quantity of a tag, or of one of its statistics."""
        if isinstance(node, ast.Name) and node.id in self._tags:
            return Quantity(self._tags[node.id])
        for statistic in STATISTICS:
            if (argument := _argument(node, statistic)) is not None:
                if not isinstance(argument, ast.Name) or argument.id not in self._tags:
                    raise NotACondition(f"in {statistic}(...) is one tag")
                return Quantity(self._tags[argument.id], statistic)
        return None

    def _own_quantities(self, node: ast.AST) -> Iterator[Quantity]:
        """Yields the quantities in a part that are not of the baseline."""
        quantity = self._own_quantity(node)
        if quantity is not None:
            yield quantity
        elif _argument(node, BASELINE) is None:
            for inner in ast.iter_child_nodes(node):
                yield from self._own_quantities(inner)


def _argument(node: ast.AST, function: str) -> ast.AST | None:
    """Returns the argument of a call of a function with one argument; `None` if it is none."""
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    if not is_call or node.func.id != function:  # type: ignore[attr-defined]
        return None
    if len(node.args) != 1 or node.keywords:  # type: ignore[attr-defined]
        raise NotACondition(f"{function}(...) has one argument")
    argument: ast.AST = node.args[0]  # type: ignore[attr-defined]
    return argument


def _compared(sign: Callable[[float, float], bool], left: float, right: float) -> bool | None:
    return None if math.isnan(left) or math.isnan(right) else sign(left, right)


def _combined(truths: list[bool | None], decides: bool) -> bool | None:
    """Returns `or` of some truths if `True` decides, and `and` of them if `False` does."""
    if decides in truths:
        return decides
    return None if None in truths else not decides
