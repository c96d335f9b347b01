"""The tags of the snapshots: histograms, and the numbers that follow from them."""

from tbtrainer.tag import Tag

PARAMETERS = Tag(
    "parameters/<name>",
    "histogram",
    "",
    "Elements of the whole parameter after the optimizer step.",
    "snapshot steps",
)
GRADIENTS = Tag(
    "gradients/<name>",
    "histogram",
    "",
    "Elements of the whole gradient: accumulated, summed over ranks, before clipping, without the "
    "float16 loss scale.",
    "snapshot steps",
)
UPDATES = Tag(
    "updates/<name>",
    "histogram",
    "",
    "What the optimizer step added to each element of the whole parameter.",
    "snapshot steps, if `histogram_targets` names `updates`",
)
UPDATE_RATIO = Tag(
    "update_ratio/<block>",
    "scalar",
    "",
    "Root mean square of what the optimizer step added to the trained parameters of one block, "
    "over the root mean square of these parameters after the step.",
    "snapshot steps, if `histogram_targets` names `updates`",
)
UPDATE_UNCHANGED = Tag(
    "update_unchanged/<block>",
    "scalar",
    "share, 0 to 1",
    "Share of the elements of one block's trained parameters that the optimizer step left as they "
    "were.",
    "snapshot steps, if `histogram_targets` names `updates`",
)
ACTIVATIONS = Tag(
    "activations/<module>",
    "histogram",
    "",
    "Elements of the outputs of a module in the micro-batches of the step, on all ranks together.",
    "snapshot steps, if `histogram_targets` names `activations`",
)
ACTIVATION_RMS = Tag(
    "activation_rms/<module>",
    "scalar",
    "",
    "Root mean square of the elements of `activations/<module>`.",
    "snapshot steps, if `histogram_targets` names `activations`",
)
ACTIVATION_GRADIENTS = Tag(
    "activation_gradients/<module>",
    "histogram",
    "",
    "Elements of the gradients of the loss with respect to the outputs of a module, in the "
    "micro-batches of the step, on all ranks together, without the float16 loss scale.",
    "snapshot steps, if `histogram_targets` names `activation_gradients`",
)
GRADIENT_DEPTH = Tag(
    "model_depth/gradient_rms",
    "image",
    "",
    "Root mean square of the gradients of each block, a row, at each snapshot so far, a column.",
    "up to ten times in a run, at snapshot steps, and at its end",
)
PARAMETER_DEPTH = Tag(
    "model_depth/parameter_rms",
    "image",
    "",
    "Root mean square of the parameters of each block, a row, at each snapshot so far, a column.",
    "up to ten times in a run, at snapshot steps, and at its end",
)
UPDATE_DEPTH = Tag(
    "model_depth/update_ratio",
    "image",
    "",
    "Root mean square of what the step added to each block, a row, over that of the block's "
    "parameters, at each snapshot so far, a column.",
    "as `model_depth/gradient_rms`, if `histogram_targets` names `updates`",
)
ACTIVATION_DEPTH = Tag(
    "model_depth/activation_rms",
    "image",
    "",
    "Root mean square of the outputs of each block, a row, at each snapshot so far, a column.",
    "as `model_depth/gradient_rms`, if `histogram_targets` names `activations`",
)
OUTLIERS = Tag(
    "outliers/<target>",
    "text",
    "",
    "The ten blocks whose root mean square or largest magnitude changed most since the column "
    "before of the picture, with the share of zeros and the kurtosis.",
    "snapshot steps at which a block changed by a factor of four or more",
)

OPTIMIZER_STATE = Tag(
    "optimizer_state/<state>/<name>",
    "histogram",
    "",
    "Elements of one state of the optimizer, such as `exp_avg`, for the whole parameter after the "
    "optimizer step.",
    "snapshot steps, if `histogram_targets` names `optimizer_state`",
)

_HISTOGRAMS = {
    "parameters": PARAMETERS,
    "gradients": GRADIENTS,
    "updates": UPDATES,
    "activations": ACTIVATIONS,
    "activation_gradients": ACTIVATION_GRADIENTS,
}


def histogram_tag(target: str, name: str) -> str:
    """Returns the tag of the histogram of one row.

    Args:
        target: One of `histogram_targets`; `optimizer_state/<state>`; or a target of a user's own,
            whose tags are `<target>/<name>`.
        name: Name of the row.
    """
    tag = _HISTOGRAMS.get(target)
    return f"{target}/{name}" if tag is None else tag.of(name)
