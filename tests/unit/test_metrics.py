"""`make_compute_metrics`: right numbers, from whatever `Trainer` hands over, with no network."""

import threading
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from transformers import EvalPrediction

from tbtrainer.metrics import make_compute_metrics, next_token_losses, predicted_classes
from tbtrainer.metrics import sources as metric_sources
from tbtrainer.metrics.bundled import BUNDLED, F1, Accuracy
from tests.limits import HANG_SECONDS

RNG = np.random.default_rng(0)
PER_CLASS = {
    "precision": sklearn_metrics.precision_score,
    "recall": sklearn_metrics.recall_score,
    "f1": sklearn_metrics.f1_score,
}


class DeclaresInt8(evaluate.Metric):
    """Stands for a metric of the hub whose features are narrower than the data."""

    def _info(self) -> evaluate.MetricInfo:
        feature = datasets.Value("int8")
        return evaluate.MetricInfo(
            description="",
            citation="",
            inputs_description="",
            features=datasets.Features({"predictions": feature, "references": feature}),
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"same": float(np.mean(np.equal(predictions, references)))}


class TakesLists(DeclaresInt8):
    """Stands for a metric whose references are lists."""

    def _info(self) -> evaluate.MetricInfo:
        info = super()._info()
        lists = datasets.Sequence(datasets.Value("int64"))
        info.features = datasets.Features({"predictions": lists, "references": lists})
        return info


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[classes]


classes_strategy = st.integers(2, 5).flatmap(
    lambda count: st.lists(
        st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), min_size=1, max_size=40
    )
)


@settings(max_examples=60, deadline=None)
@given(classes_strategy, st.sampled_from(["micro", "macro", "weighted"]))
def test_averages_over_classes_agree_with_scikit_learn(
    pairs: list[tuple[int, int]], average: str
) -> None:
    predictions, references = np.array(pairs).T
    for name, reference in PER_CLASS.items():
        ours = BUNDLED[name]().score(predictions, references, average=average)
        theirs = reference(references, predictions, average=average, zero_division=0)
        assert ours[name] == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("name", PER_CLASS)
def test_binary_metrics_agree_with_scikit_learn(name: str) -> None:
    predictions, references = RNG.integers(0, 2, (2, 200))
    ours = BUNDLED[name]().compute(predictions=predictions, references=references)
    assert ours[name] == pytest.approx(PER_CLASS[name](references, predictions))


def test_regression_metrics_agree_with_scikit_learn() -> None:
    predictions, references = RNG.normal(size=(2, 200)).astype(np.float32)
    result = make_compute_metrics("mse", "mae")(EvalPrediction(predictions[:, None], references))
    assert result["mse"] == pytest.approx(
        sklearn_metrics.mean_squared_error(references, predictions)
    )
    assert result["mae"] == pytest.approx(
        sklearn_metrics.mean_absolute_error(references, predictions)
    )


def test_logits_become_the_class_of_the_largest() -> None:
    logits = RNG.normal(size=(100, 3))
    labels = RNG.integers(0, 3, 100)
    result = make_compute_metrics("accuracy")(EvalPrediction(logits, labels))
    assert result == {"accuracy": np.mean(logits.argmax(-1) == labels)}


def test_the_first_of_several_outputs_is_the_logits() -> None:
    labels = np.array([0, 1, 1])
    hidden_states = np.zeros((3, 7, 5))
    prediction = EvalPrediction((one_hot(labels, 2), hidden_states), labels)
    assert make_compute_metrics("accuracy")(prediction) == {"accuracy": 1.0}


def test_ignored_labels_do_not_count() -> None:
    labels = np.array([[1, -100, 0], [-100, 1, 1]])
    predicted = np.array([[1, 0, 0], [1, 1, 0]])
    prediction = EvalPrediction(one_hot(predicted, 2), labels)
    assert make_compute_metrics("accuracy")(prediction) == {"accuracy": 0.75}


def test_float_labels_of_minus_a_hundred_count() -> None:
    prediction = EvalPrediction(np.array([-99.0, 1.0]), np.array([-100.0, 1.0]))
    assert make_compute_metrics("mae")(prediction) == {"mae": 0.5}


def test_two_classes_get_the_binary_average() -> None:
    labels = np.array([0, 0, 0, 1])
    predicted = np.array([0, 0, 1, 1])
    result = make_compute_metrics("f1")(EvalPrediction(one_hot(predicted, 2), labels))
    assert result["f1"] == pytest.approx(sklearn_metrics.f1_score(labels, predicted))


def test_more_classes_get_the_macro_average_even_if_two_appear() -> None:
    labels = np.array([0, 0, 0, 1])
    predicted = np.array([0, 0, 1, 1])
    result = make_compute_metrics("f1")(EvalPrediction(one_hot(predicted, 5), labels))
    expected = sklearn_metrics.f1_score(labels, predicted, average="macro")
    assert result["f1"] == pytest.approx(expected)


def test_the_average_can_be_chosen() -> None:
    labels = np.array([0, 1, 2, 2])
    predicted = np.array([0, 2, 2, 1])
    result = make_compute_metrics("f1", average="weighted")(
        EvalPrediction(one_hot(predicted, 3), labels)
    )
    expected = sklearn_metrics.f1_score(labels, predicted, average="weighted")
    assert result["f1"] == pytest.approx(expected)


@pytest.mark.parametrize("name", PER_CLASS)
def test_without_an_average_there_is_a_value_per_class(name: str) -> None:
    labels = np.array([0, 1, 3, 3, 1, 0])
    predicted = np.array([0, 3, 3, 1, 1, 1])
    prediction = EvalPrediction(one_hot(predicted, 5), labels)
    result = make_compute_metrics(name, average=None)(prediction)[name]
    classes = [0, 1, 2, 3, 4]
    theirs = PER_CLASS[name](labels, predicted, labels=classes, average=None, zero_division=0)
    assert [result[index] for index in (0, 1, 3)] == pytest.approx(theirs[[0, 1, 3]])
    # Classes that occur neither in labels nor in predictions.
    assert isinstance(result, list) and np.isnan(result).tolist() == [0, 0, 1, 0, 1]
    macro = make_compute_metrics(name, average="macro")(prediction)[name]
    assert np.nanmean(result) == pytest.approx(macro)


def test_the_number_of_integer_predictions_is_that_of_their_class() -> None:
    prediction = EvalPrediction(np.array([0, 3, 3]), np.array([0, 3, 0]))
    result = make_compute_metrics("recall", average=None)(prediction)["recall"]
    assert str(result) == "[0.5, nan, nan, 1.0]"


class ReturnsArray(DeclaresInt8):
    """Stands for a metric of the hub without an average, which returns an array."""

    def _compute(
        self, predictions: list[int], references: list[int], labels: Any = None, average: str = ""
    ) -> dict[str, np.ndarray]:
        assert average is None
        return {"same": np.zeros(len(labels))}


def test_an_array_of_a_metric_becomes_a_list() -> None:
    compute_metrics = make_compute_metrics(ReturnsArray(keep_in_memory=True), average=None)
    result = compute_metrics(EvalPrediction(one_hot([0, 1], 3), np.array([0, 1])))
    assert result == {"same": [0.0, 0.0, 0.0]} and isinstance(result["same"], list)


def test_objects_of_evaluate_and_combinations_are_accepted() -> None:
    labels = np.array([0, 1, 1, 1])
    predicted = np.array([0, 1, 0, 1])
    combined = evaluate.combine([Accuracy(), F1()])
    result = make_compute_metrics(combined, DeclaresInt8(keep_in_memory=True))(
        EvalPrediction(one_hot(predicted, 2), labels)
    )
    assert result == {"accuracy": 0.75, "f1": pytest.approx(0.8), "same": 0.75}


def test_a_path_of_a_metric_script_is_accepted(tmp_path: Path) -> None:
    script = tmp_path / "always_one" / "always_one.py"
    script.parent.mkdir()
    source = Path(__file__).read_text()
    metric = source[source.index("class DeclaresInt8") : source.index("class TakesLists")]
    script.write_text(f"import datasets\nimport evaluate\nimport numpy as np\n\n{metric}")
    prediction = EvalPrediction(one_hot([0, 1], 2), np.array([0, 1]))
    assert make_compute_metrics(str(script.parent))(prediction) == {"same": 1.0}


def test_batches_give_what_the_whole_gives() -> None:
    logits, labels = torch.randn(60, 3, dtype=torch.bfloat16), torch.randint(0, 3, (60,))
    whole = make_compute_metrics("accuracy", "f1")
    batched = make_compute_metrics("accuracy", "f1")
    parts = list(zip(logits.split(16), labels.split(16), strict=True))
    for number, part in enumerate(parts, 1):
        result = batched(EvalPrediction(*part), compute_result=number == len(parts))
    assert result == whole(EvalPrediction(logits.float().numpy(), labels.numpy()))


def test_a_second_evaluation_does_not_remember_the_first() -> None:
    compute_metrics = make_compute_metrics("accuracy")
    compute_metrics(EvalPrediction(one_hot([0, 0], 2), np.array([1, 1])))
    result = compute_metrics(EvalPrediction(one_hot([0, 0], 2), np.array([0, 0])))
    assert result == {"accuracy": 1.0}


def test_perplexity_of_logits_is_the_exponential_of_the_models_loss() -> None:
    logits, labels = torch.randn(4, 9, 20), torch.randint(0, 20, (4, 9))
    labels[1, 5:] = -100
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, 20), labels[:, 1:].reshape(-1)
    )
    result = make_compute_metrics("perplexity")(EvalPrediction(logits.numpy(), labels.numpy()))
    assert result["perplexity"] == pytest.approx(loss.exp().item(), rel=1e-5)


def test_perplexity_of_token_losses_is_that_of_the_logits() -> None:
    logits, labels = torch.randn(4, 9, 20), torch.randint(0, 20, (4, 9))
    labels[1, 5:] = -100
    losses = next_token_losses((logits, None), labels)
    assert losses.shape == (4, 8)
    perplexity = make_compute_metrics("perplexity")
    assert perplexity(EvalPrediction(losses.numpy(), labels.numpy())) == pytest.approx(
        perplexity(EvalPrediction(logits.numpy(), labels.numpy())), rel=1e-5
    )


def test_next_token_accuracy_compares_with_the_label_after() -> None:
    labels = np.array([[3, 1, 2, 0]])
    logits = torch.tensor(one_hot(np.array([[1, 2, 3, 3]]), 4))
    classes = predicted_classes(logits, torch.tensor(labels))
    compute_metrics = make_compute_metrics("accuracy", next_token=True)
    result = compute_metrics(EvalPrediction(classes.numpy(), labels))
    assert result["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("metric", "predictions", "labels", "complaint"),
    [
        ("accuracy", np.zeros((3, 2)), np.zeros(3), "labels are float64"),
        ("accuracy", np.array([0.2, 0.7]), np.array([0, 1]), "predictions are float64"),
        ("accuracy", np.zeros((3, 1)), np.zeros(3, int), "at least two"),
        ("accuracy", np.zeros((3, 2)), np.zeros(4, int), "one prediction for each label"),
        ("accuracy", np.zeros((2, 2)), np.array([-100, -100]), "cannot be computed"),
        ("mse", np.zeros((3, 2)), np.zeros(3), "one value with one label"),
        ("perplexity", np.zeros((3, 4), int), np.zeros((3, 4), int), "next_token_losses"),
    ],
)
def test_what_does_not_fit_is_refused(
    metric: str, predictions: np.ndarray, labels: np.ndarray, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        make_compute_metrics(metric)(EvalPrediction(predictions, labels))


def test_values_that_evaluate_would_cast_in_silence_are_refused() -> None:
    prediction = EvalPrediction(np.array([300, 1]), np.array([1, 1]))
    with pytest.raises(ValueError, match="as int8, but they range from 1 to 300"):
        make_compute_metrics(DeclaresInt8(keep_in_memory=True))(prediction)


def test_a_metric_of_other_inputs_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="logits and labels alone do not"):
        make_compute_metrics(TakesLists(keep_in_memory=True))


def test_several_arrays_of_labels_are_refused() -> None:
    labels = np.zeros(2, int)
    with pytest.raises(ValueError, match="set label_names"):
        make_compute_metrics("accuracy")(EvalPrediction(np.zeros((2, 2)), (labels, labels)))


def test_an_unknown_name_says_what_was_tried() -> None:
    with pytest.raises(ValueError, match="Did you mean 'accuracy'") as caught:
        make_compute_metrics("acuracy")
    for place in ("a local script", "the evaluate cache", "HF_HUB_OFFLINE", "perplexity"):
        assert place in str(caught.value)


def test_an_unknown_average_is_refused() -> None:
    with pytest.raises(ValueError, match="average='median' is not known"):
        make_compute_metrics("f1", average="median")


@pytest.mark.parametrize("name", sorted(BUNDLED))
def test_each_bundled_metric_loads_with_no_network(name: str) -> None:
    metric = metric_sources.load_metric(name, network_seconds=1.0)
    assert isinstance(metric, BUNDLED[name])


def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def never_answers(*_: object, **__: object) -> None:
        released.wait(HANG_SECONDS)
        raise OSError

    monkeypatch.setattr(metric_sources.huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(metric_sources.socket, "create_connection", never_answers)
    metric_sources._answers.cache_clear()
    reason = metric_sources.why_hub_is_unreachable(0.2)
    released.set()
    metric_sources._answers.cache_clear()
    assert "did not answer within 0.2 s" in reason


def test_bundled_metrics_write_nothing_to_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "cache"
    metric = Accuracy(cache_dir=str(home))
    metric.compute(predictions=[1, 0], references=[1, 1])
    assert not home.exists()


def test_random_states_stay_as_they_are() -> None:
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()
    make_compute_metrics("accuracy", DeclaresInt8(keep_in_memory=True))(
        EvalPrediction(one_hot([0, 1], 2), np.array([0, 1]))
    )
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])
    assert torch.equal(torch.get_rng_state(), torch_state)
