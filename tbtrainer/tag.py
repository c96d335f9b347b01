"""`Tag`: the declaration of a tag, or of a family of tags."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

Kind = Literal["scalar", "histogram", "text", "image", "PR curve", "embedding"]


@dataclass(frozen=True)
class Tag:
    """A tag, or a family of tags that differ in a name.

    Attributes:
        name: The tag. A part in angle brackets, such as `<block>`, stands for a name.
        kind: Which dashboard of TensorBoard shows it.
        unit: Of the values; empty for text and for numbers without a unit.
        description: One sentence.
        when: At which steps it is written.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    when: str

    def of(self, name: str) -> str:
        """Returns the tag of one member of the family.

        Example:
            >>> tag = Tag("gradients/<name>", "histogram", "", "Elements.", "snapshot steps")
            >>> tag.of("lm_head.weight")
            'gradients/lm_head.weight'
        """
        return re.sub(r"<\w+>", lambda _: name, self.name, count=1)

    def matches(self, tag: str) -> bool:
        """Returns whether a written tag is this one, or a member of this family."""
        return _pattern(self.name).fullmatch(tag) is not None

    @property
    def regex(self) -> str:
        """A regular expression of exactly its tags, as TensorBoard's dashboards take them.

        Example:
            >>> Tag("gradients/<name>", "histogram", "", "Elements.", "snapshot steps").regex
            'gradients/.+$'
        """
        return f"{_pattern(self.name).pattern}$"


@cache
def _pattern(name: str) -> re.Pattern[str]:
    parts = re.split(r"<\w+>", name)
    return re.compile(".+".join(re.escape(part) for part in parts))
