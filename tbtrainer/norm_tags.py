"""The tags of the gradient norms."""

from tbtrainer.tag import Tag

GRAD_NORM_TOTAL = Tag(
    "grad_norm/total",
    "scalar",
    "L2 norm",
    "Norm of all gradients together before clipping, root mean square over the steps since the "
    "last logging step.",
    "logging steps",
)
GRAD_NORM_MAX = Tag(
    "grad_norm/max",
    "scalar",
    "L2 norm",
    "Largest norm of all gradients together, before clipping, since the last logging step.",
    "logging steps",
)
GRAD_NORM_CLIPPED = Tag(
    "grad_norm/clipped",
    "scalar",
    "L2 norm",
    "Norm of all gradients together after clipping to `max_grad_norm`, root mean square over the "
    "steps since the last logging step.",
    "logging steps, with clipping",
)
GRAD_NORM_CLIP_FRACTION = Tag(
    "grad_norm/clip_fraction",
    "scalar",
    "share, 0 to 1",
    "Share of the steps since the last logging step whose gradients were clipped.",
    "logging steps, with clipping",
)
GRAD_NORM_PER_BLOCK = Tag(
    "grad_norm_per_block/<block>",
    "scalar",
    "L2 norm",
    "Norm of the gradients of one block before clipping, root mean square over the steps since the "
    "last logging step.",
    'logging steps, with `norm_detail="block"`',
)
GRAD_NORM_PER_PARAMETER = Tag(
    "grad_norm_per_parameter/<name>",
    "scalar",
    "L2 norm",
    "Norm of the gradient of one parameter before clipping, root mean square over the steps since "
    "the last logging step.",
    'logging steps, with `norm_detail="parameter"`',
)
