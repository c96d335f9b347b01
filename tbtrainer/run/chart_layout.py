"""The layout of TensorBoard's *Custom Scalars* dashboard as a summary."""

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG, create_summary_metadata

from tbtrainer.dashboard_records import Chart, ChartLayout, MarginChart

LAYOUT_TAG: str = CONFIG_SUMMARY_TAG


def layout_summary(layout: ChartLayout) -> Summary:
    """Returns a layout as TensorBoard reads it."""
    categories = [
        layout_pb2.Category(title=title, chart=[_chart(chart) for chart in charts])
        for title, charts in layout.categories.items()
    ]
    content = layout_pb2.Layout(category=categories).SerializeToString(deterministic=True)
    tensor = TensorProto(dtype="DT_STRING", string_val=[content], tensor_shape=TensorShapeProto())
    value = Summary.Value(tag=LAYOUT_TAG, tensor=tensor, metadata=create_summary_metadata())
    return Summary(value=[value])


def _chart(chart: Chart | MarginChart) -> layout_pb2.Chart:
    if isinstance(chart, Chart):
        lines = layout_pb2.MultilineChartContent(tag=chart.tags)
        return layout_pb2.Chart(title=chart.title, multiline=lines)
    series = layout_pb2.MarginChartContent.Series(
        value=chart.value, lower=chart.lower, upper=chart.upper
    )
    margin = layout_pb2.MarginChartContent(series=[series])
    return layout_pb2.Chart(title=chart.title, margin=margin)
