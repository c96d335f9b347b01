"""Records that whole dashboards of TensorBoard are made of. `records.py` has all others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


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

    It is left out if it is already the last one of the run, as after a resume, and if the user has
    called a method of the writer such as `add_custom_scalars`.

    Attributes:
        categories: Charts by the title of their group.
    """

    categories: Mapping[str, Sequence[Chart | MarginChart]]


@dataclass(frozen=True)
class HParam:
    """A hyper-parameter: a column of the *HParams* dashboard.

    Attributes:
        name: Its name.
        kind: What its values are.
        description: What it is, if the name does not say it.
        is_prominent: Whether TensorBoard shows the column at first. It shows five.
    """

    name: str
    kind: Literal["number", "text", "flag"]
    description: str = ""
    is_prominent: bool = False


@dataclass(frozen=True)
class HParamsMetric:
    """A metric: a column of the *HParams* dashboard with the last value of a scalar.

    Attributes:
        tag: Of the scalar.
        title: Above the column.
        is_of_training: Whether it is measured on the training data.
    """

    tag: str
    title: str
    is_of_training: bool = False


@dataclass(frozen=True)
class HParamsColumns:
    """The columns of the *HParams* dashboard.

    TensorBoard takes those of one run for all runs that it shows. Of a run it takes the first ones,
    so later ones in the same session are left out.

    Attributes:
        hparams: In any order: TensorBoard sorts them by name, the prominent ones first.
        metrics: In the order in which they are shown. TensorBoard shows five at first.
    """

    hparams: Sequence[HParam]
    metrics: Sequence[HParamsMetric]


@dataclass(frozen=True)
class HParamsRow:
    """The hyper-parameters of a run: its row in the *HParams* dashboard.

    TensorBoard takes the first one of a run. If a resumed training has other values, the earlier
    ones are taken out of the run. Secrets in names and texts are hidden.

    Attributes:
        values: By name. Numbers that are not finite are left out.
        began: When the training began, in seconds since 1970.
    """

    values: Mapping[str, bool | float | str]
    began: float


@dataclass(frozen=True)
class HParamsEnd:
    """How a training ended, for its row in the *HParams* dashboard.

    A resumed training takes it out of the run. It is left out in a run without a row.

    Attributes:
        is_success: Whether it ended as planned.
    """

    is_success: bool
