"""Text of data in Markdown tables, as TensorBoard shows them."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.plugin_util import markdown_to_safe_html

from tbtrainer.panels.markdown import cell, table, without_middle

ODD = "a|b `c` *d* _e_ __f__ [g](http://h) <b>i</b> <script>j</script> \\| ~~k~~ &amp; # l"


def shown(text: str) -> list[list[str]]:
    """The cells of a table as a browser shows them: the header, then the rows."""
    rows = re.findall(r"<tr>(.*?)</tr>", markdown_to_safe_html(text), re.DOTALL)
    cells = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(inner) for inner in row] for row in cells]


def test_odd_text_is_shown_as_it_is() -> None:
    assert shown(table(("text", "label"), [(cell(ODD), "1")])) == [["text", "label"], [ODD, "1"]]


@given(st.text(alphabet=st.sampled_from("ab |`*_[]()<>\\~&#!-+.:\n\r\t'\"$="), max_size=40))
def test_no_text_breaks_a_table(text: str) -> None:
    line = " ".join(text.split())
    found = shown(table(("text", "label"), [(cell(text), "1"), ("x", "2")]))
    assert found == [["text", "label"], [line, "1"], ["x", "2"]]


@pytest.mark.parametrize("character", ["\x00", "\x02", "\ud800"])
def test_what_no_file_or_page_can_hold_is_replaced(character: str) -> None:
    assert cell(f"a{character}b") == "a\ufffdb"


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    assert without_middle("0123456789", 7) == "0123…89"
    assert len(cell("x" * 1000, 200)) == 200
    assert without_middle("0123456789", 10) == "0123456789"


def test_a_secret_is_hidden_before_it_is_cut_and_escaped() -> None:
    token = "hf_" + "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xYzZ"
    found = html.unescape(cell(f"{'a ' * 60}{token} {'b ' * 60}"))
    assert token[:12] not in found and token[-12:] not in found
    assert html.unescape(cell(f"my {token}")) == "my <hidden>"
