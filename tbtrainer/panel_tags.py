"""The tags of the panels. They are listed in `tags.py`.

With a dictionary of datasets each has the name of the dataset: `eval/<dataset>/<panel>`.
"""

from tbtrainer.tag import Tag

CONFUSION_MATRIX = Tag(
    "eval/confusion_matrix",
    "image",
    "",
    "How often examples of each class were predicted as each class, over all examples; the colour "
    "is the share of the row.",
    "each evaluation of a classifier",
)
PR_CURVE = Tag(
    "eval/pr_curve/<class>",
    "PR curve",
    "",
    "Precision and recall of a class at each threshold of its probability, over all examples.",
    "each evaluation of a classifier, for at most 20 classes",
)
CALIBRATION = Tag(
    "eval/calibration",
    "image",
    "",
    "How often predictions of each confidence are correct, and the expected calibration error in "
    "15 bins, over all examples.",
    "each evaluation of a classifier",
)
MISTAKES = Tag(
    "eval/mistakes",
    "text",
    "",
    "Up to 20 wrong predictions, those with the highest confidence, with their inputs.",
    "each evaluation of a classifier of text or of a few numbers",
)
LABEL_F1 = Tag(
    "eval/label_f1",
    "text",
    "",
    "Precision, recall and F1 of each label at the threshold of one half, over all examples, the "
    "worst label first.",
    "each evaluation of a multi-label classifier",
)
PREDICTED_AGAINST_TRUE = Tag(
    "eval/predicted_against_true",
    "image",
    "",
    "Predictions against true values of a sample of the examples, with R² and RMSE of all.",
    "each evaluation of a regression",
)
RESIDUALS = Tag(
    "eval/residuals",
    "image",
    "",
    "Predicted minus true value against the prediction, for a sample of the examples, with its "
    "mean.",
    "each evaluation of a regression",
)
IMAGE_MISTAKES = Tag(
    "eval/image_mistakes",
    "image",
    "",
    "Up to 16 images, those whose predictions are wrong with the highest confidence.",
    "each evaluation of an image classifier",
)
TOKEN_CLASSES = Tag(
    "eval/token_classes",
    "text",
    "",
    "Precision, recall and F1 of each class over all tokens, and of spans as in seqeval if classes "
    "are named like `B-place`, the worst class first.",
    "each evaluation of a token classifier",
)
TOKEN_CONFUSION = Tag(
    "eval/token_confusion",
    "image",
    "",
    "How often tokens of each class but the outside class `O` were predicted as each class, over "
    "all tokens; the colour is the share of the row.",
    "each evaluation of a token classifier",
)
TOKEN_MISTAKES = Tag(
    "eval/token_mistakes",
    "text",
    "",
    "Up to 20 tokens, those whose predictions are wrong with the highest confidence, in the text "
    "around them.",
    "each evaluation of a token classifier with a tokenizer",
)
LOSS_BY_POSITION = Tag(
    "eval/loss_by_position",
    "image",
    "",
    "Mean loss of the tokens at each position of their sequences, over all examples.",
    "each evaluation of a language model",
)
PERPLEXITY_BY_LENGTH = Tag(
    "eval/perplexity_by_length",
    "text",
    "",
    "Perplexity of the shortest, the middle and the longest third of a sample of the sequences.",
    "each evaluation of a language model, if the lengths differ",
)
WORST_TOKENS = Tag(
    "eval/worst_tokens",
    "text",
    "",
    "The tokens with the highest loss, at most one of each example, and what the model preferred.",
    "each evaluation of a language model with a tokenizer",
)
GENERATIONS = Tag(
    "eval/generations",
    "text",
    "",
    "What the model writes after `generation_prompts`, or after parts of the first examples.",
    "each evaluation of a model that generates text, with a tokenizer",
)
PROJECTOR = Tag(
    "eval/projector",
    "embedding",
    "",
    "A vector for each of a sample of the examples: pooled output, mean hidden state or logits.",
    "each evaluation, if `evaluation_panels` names `projector`",
)
