"""Records that whole dashboards of TensorBoard are made of. `records.py` has all others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chart:
    """A chart of the *Custom Scalars* dashboard that shows several scalars.

    Attributes:
        title: Above the chart.
        tags: Regular expressions. The chart has a line for each scalar whose tag begins with a
            match of one of them.
    """

    title: str
    tags: Sequence[str]


@dataclass(frozen=True)
class MarginChart:
    """A chart of the *Custom Scalars* dashboard that shows a scalar with its limits.

    Attributes:
        title: Above the chart.
        value: Tag of the line.
        lower: Tag of the lower limit of the coloured area.
        upper: Tag of its upper limit.
    """

    title: str
    value: str
    lower: str
    upper: str


@dataclass(frozen=True)
class ChartLayout:
    """The charts of the *Custom Scalars* dashboard. The last layout of a run counts.

    It is left out if it is already the last one of the run, as after a resume, and if somebody has
    called a method of the writer such as `add_custom_scalars`.

    Attributes:
        categories: Charts by the title of their group.
    """

    categories: Mapping[str, Sequence[Chart | MarginChart]]
