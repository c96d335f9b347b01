"""Reports of bad steps: one per cause, with what came before, on world rank zero."""

import json
import logging
from typing import Any

import numpy as np
import pytest
import torch

from tbtrainer import tags
from tbtrainer.observers import health_reports
from tbtrainer.observers.facts import Refusal
from tbtrainer.observers.health_report import HealthReport
from tbtrainer.observers.health_reports import HEALTH_FILE, MOST_REPORTS, HealthReports
from tbtrainer.records import JsonLine, Records, Text
from tests.measured_steps import MeasuredSteps

NAN, INF = float("nan"), float("inf")


class Reported(MeasuredSteps):
    """Steps that are measured, and reported when they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.reports = HealthReports(self.measurements, lambda step: {"group_0": step / 1000})
        self.reports.run_begins(0, self.training)

    def damage(self, name: str = "embed.weight", value: float = NAN) -> None:
        with torch.no_grad():
            self.model.get_parameter(name).view(-1)[0] = value

    def logged(self) -> list[dict[str, Any]]:
        """The lines that a logging step writes."""
        self.measurements.logging_step(self.count)
        return lines_of(self.reports.logging_step(self.count))

    def refused(self, loss: float = NAN, action: str = "stop") -> dict[str, Any]:
        """The line of a step that is refused."""
        refusal = Refusal(action, torch.tensor(loss), "layers.1", True)
        self.measurements.step_refused(self.count, refusal)
        (line,) = lines_of(self.reports.step_refused(self.count, refusal))
        return line


def lines_of(records: Records) -> list[dict[str, Any]]:
    lines = [record for record in records if isinstance(record, JsonLine)]
    assert all(line.file == HEALTH_FILE for line in lines)
    # Python writes NaN, which the run replaces; everything else has to be JSON already.
    return [json.loads(json.dumps(line.values)) for line in lines]


def test_good_steps_are_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    steps = Reported()
    for _ in range(3):
        steps.take()
    assert steps.logged() == []
    assert caplog.records == []


def test_a_report_is_a_card_a_line_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    steps = Reported()
    steps.take()
    steps.take(bad={"layers.0.weight": NAN})
    steps.measurements.logging_step(2)
    card, line = steps.reports.logging_step(2)
    assert isinstance(card, Text)
    assert isinstance(line, JsonLine)
    assert card.tag == tags.HEALTH_REPORT.name
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, health_reports.__name__)
    assert record.getMessage() == line.values["message"]
    assert line.values["message"] in card.text
    assert "step 2" in record.getMessage()
    assert "layers.0.weight" in record.getMessage()


def test_bad_gradients_are_named_in_the_order_of_the_model() -> None:
    steps = Reported()
    steps.take()
    steps.take(bad={"layers.1.weight": INF, "embed.weight": NAN, "layers.0.bias": NAN})
    (line,) = steps.logged()
    assert (line["cause"], line["bad_step"], line["applied"]) == ("backward", 2, True)
    assert line["bad_gradients"] == ["embed.weight", "layers.0.bias", "layers.1.weight"]
    assert line["nearest_to_loss"] == "layers.1.weight"
    assert line["learning_rates"] == {"group_0": 0.002}
    assert line["damaged_weights"] == []
    assert line["damaged_since"] is None


def test_a_bad_loss_is_the_cause_of_bad_gradients() -> None:
    steps = Reported()
    steps.take(loss=NAN, gradient=NAN)
    (line,) = steps.logged()
    assert (line["cause"], line["loss_rank"]) == ("loss", 0)
    assert line["message"].startswith("The loss itself was not finite at step 1.")
    assert len(line["bad_gradients"]) == 5


def test_a_bad_loss_alone_has_no_bad_gradient() -> None:
    steps = Reported()
    steps.take(loss=INF)
    (line,) = steps.logged()
    assert (line["cause"], line["bad_gradients"], line["nearest_to_loss"]) == ("loss", [], None)


def test_an_overflow_is_not_reported() -> None:
    steps = Reported()
    bad = {"embed.weight": INF}
    steps.take(bad=bad, loss_scale=torch.tensor(1024.0), was_skipped=True)
    assert steps.logged() == []


@pytest.mark.parametrize(
    ("value", "scale", "cause"), [(INF, 0.5, "loss_scale"), (NAN, 1024.0, "backward")]
)
def test_a_skipped_step_that_is_no_overflow_is_reported(
    value: float, scale: float, cause: str
) -> None:
    steps = Reported()
    steps.take(bad={"embed.weight": value}, loss_scale=torch.tensor(scale), was_skipped=True)
    (line,) = steps.logged()
    assert (line["cause"], line["applied"]) == (cause, False)
    assert "The step was not applied: the loss scaler or DeepSpeed skipped it." in line["message"]


# ---- Damaged weights ----


def test_weights_that_the_step_damaged_are_named() -> None:
    steps = Reported()
    steps.take(bad={"embed.weight": NAN})
    steps.damage()
    (line,) = steps.logged()
    assert (line["cause"], line["damaged_since"]) == ("backward", 1)
    assert line["damaged_weights"] == ["embed.weight"]
    assert "damaged since step 1: embed.weight" in line["message"]


def test_the_step_whose_gradients_were_bad_damaged_the_weights() -> None:
    steps = Reported()
    steps.take(loss=NAN)
    steps.take(bad={"embed.weight": NAN})
    steps.damage()
    (line,) = steps.logged()
    assert (line["bad_step"], line["damaged_since"]) == (1, 2)


def test_later_steps_of_damaged_weights_are_no_new_cause() -> None:
    steps = Reported()
    steps.take(bad={"embed.weight": NAN})
    steps.damage()
    assert len(steps.logged()) == 1
    steps.take(loss=NAN, gradient=NAN)
    assert steps.logged() == []


def test_weights_damaged_before_the_first_step_are_the_cause() -> None:
    steps = Reported()
    steps.damage("layers.0.weight", INF)
    steps.reports.run_begins(0, steps.training)
    steps.reports.gradients_ready(1, None)
    steps.take(loss=NAN, gradient=NAN)
    steps.damage()
    (line,) = steps.logged()
    assert (line["cause"], line["damaged_since"]) == ("weights", 0)
    assert line["damaged_weights"] == ["layers.0.weight"]
    assert "damaged since before the first step of this training" in line["message"]


def test_weights_that_a_finite_step_damaged_are_the_cause() -> None:
    steps = Reported()
    steps.take()
    steps.damage()  # As a learning rate does that is far too high.
    steps.begin(loss=NAN, gradient=NAN)
    line = steps.refused()
    assert (line["cause"], line["bad_step"]) == ("weights", 2)
    assert line["damaged_since"] == 1
    assert "damaged since step 1" in line["message"]


# ---- Once per cause ----


def test_a_cause_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    steps = Reported()
    for _ in range(3):
        steps.take(loss=NAN)
        steps.logged()
    assert len(caplog.records) == 1


def test_another_parameter_is_another_cause() -> None:
    steps = Reported()
    nearest = []
    for name in ("embed.weight", "layers.0.bias", "embed.weight"):
        steps.take(bad={name: NAN})
        nearest += [line["nearest_to_loss"] for line in steps.logged()]
    assert nearest == ["embed.weight", "layers.0.bias"]


def test_what_was_not_reported_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    steps = Reported()
    for _ in range(4):
        steps.take(loss=NAN)
    assert steps.logged()[0]["suppressed"] == 0
    steps.take(loss=NAN)
    assert steps.logged() == []
    steps.take(bad={"embed.weight": NAN})
    assert steps.logged()[0]["suppressed"] == 4
    steps.take(loss=NAN)
    caplog.clear()
    steps.measurements.run_ends(steps.count)
    assert list(steps.reports.run_ends(steps.count)) == []
    (message,) = caplog.messages
    assert message.startswith("At 1 more step(s) of this training the loss or a gradient was")


def test_a_run_has_at_most_twenty_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Reported()
    written = 0
    for step in range(MOST_REPORTS + 5):
        report = HealthReport("backward", step, bad_gradients=(f"layers.{step}.weight",))
        written += len(lines_of(steps.reports.reported(report)))
    assert written == MOST_REPORTS == 20


def test_the_report_that_ends_a_training_is_always_made() -> None:
    steps = Reported()
    steps.reports.load_state({"reports": MOST_REPORTS})
    steps.take(loss=NAN)
    assert steps.logged() == []
    steps.begin(loss=NAN)
    line = steps.refused()
    assert (line["action"], line["suppressed"]) == ("stop", 1)


def test_an_evaluation_is_no_step_that_was_not_reported() -> None:
    steps = Reported()
    evaluation = HealthReport("evaluation", 0, dataset="a", batches=1, applied=False)
    assert len(lines_of(steps.reports.reported(evaluation))) == 1
    assert lines_of(steps.reports.reported(evaluation)) == []
    steps.take(loss=NAN)
    assert steps.logged()[0]["suppressed"] == 0
    steps.take(loss=NAN)
    steps.logged()
    other = HealthReport("evaluation", 0, dataset="b", batches=1, applied=False)
    assert len(lines_of(steps.reports.reported(other))) == 1
    steps.take(bad={"embed.weight": NAN})
    assert steps.logged()[0]["suppressed"] == 1


# ---- History ----


def test_history_has_the_good_steps_before() -> None:
    steps = Reported()
    steps.take(loss=3.0, gradient=1.0)
    steps.take(loss=2.0, gradient=2.0)
    steps.take(bad={"layers.1.bias": NAN})
    (line,) = steps.logged()
    assert line["history"] == [
        {
            "step": step,
            "loss": loss,
            "grad_norm": pytest.approx(gradient * 24**0.5),
            "parameter_grad_norm": pytest.approx(gradient * 2**0.5),
        }
        for step, loss, gradient in ((1, 3.0, 1.0), (2, 2.0, 2.0))
    ]


def test_history_goes_back_over_readings() -> None:
    steps = Reported()
    for step in range(1, 21):
        steps.take(gradient=float(step))
        if step % 3 == 0:
            assert steps.logged() == []
    steps.take(bad={"layers.1.bias": NAN})
    (line,) = steps.logged()
    assert [past["step"] for past in line["history"]] == list(range(5, 21))
    norms = [past["parameter_grad_norm"] for past in line["history"]]
    assert norms == pytest.approx([step * 2**0.5 for step in range(5, 21)])


def test_history_has_no_bad_step() -> None:
    steps = Reported()
    steps.take()
    steps.take(loss=NAN)
    steps.logged()
    steps.take()
    steps.take(bad={"embed.weight": NAN})
    (line,) = steps.logged()
    assert [past["step"] for past in line["history"]] == [1, 3]


# ---- Moments ----


def test_a_checkpoint_reports_the_steps_before_it() -> None:
    steps = Reported()
    steps.take(loss=NAN)
    steps.measurements.checkpoint_begins(1)
    assert len(lines_of(steps.reports.checkpoint_begins(1))) == 1
    assert steps.logged() == []


def test_the_end_of_the_run_reports_the_last_steps() -> None:
    steps = Reported()
    steps.take(loss=NAN)
    steps.measurements.run_ends(1)
    assert len(lines_of(steps.reports.run_ends(1))) == 1


def test_a_refused_step_is_reported_at_once() -> None:
    steps = Reported()
    steps.take()
    steps.begin(loss=NAN, gradient=NAN)
    line = steps.refused(action="raise")
    assert (line["bad_step"], line["action"], line["applied"]) == (2, "raise", False)
    assert (line["first_module"], line["checked_forward"]) == ("layers.1", True)
    assert np.isnan(line["loss"])
    assert [past["step"] for past in line["history"]] == [1]
    assert steps.reports.latest is not None
    assert steps.reports.latest.values()["message"] == line["message"]


def test_other_ranks_report_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health_reports, "own_rank", lambda: 1)
    steps = Reported()
    steps.take(loss=NAN)
    assert steps.logged() == []
    steps.take(loss=NAN)
    steps.measurements.run_ends(2)
    assert list(steps.reports.run_ends(2)) == []
    assert steps.reports.latest is None
    assert caplog.records == []


def test_outside_of_a_training_no_step_is_reported() -> None:
    steps = Reported()
    steps.take(loss=NAN)
    steps.measurements.checkpoint_begins(1)
    steps.reports.close()
    assert list(steps.reports.checkpoint_begins(1)) == []


def test_another_training_reports_its_causes_anew() -> None:
    steps = Reported()
    steps.take(loss=NAN)
    assert len(steps.logged()) == 1
    steps.reports.run_begins(0, steps.training)
    assert steps.reports.latest is None
    steps.take(loss=NAN)
    assert steps.logged()[0]["history"] == []


def test_a_resumed_run_has_at_most_twenty_reports() -> None:
    steps = Reported()
    steps.take(loss=NAN)
    steps.logged()
    state = json.loads(json.dumps(steps.reports.state()))
    assert state == {"reports": 1}
    resumed = Reported()
    resumed.reports.load_state({"reports": 10**30})
    resumed.take(loss=NAN)
    assert resumed.logged() == []


@pytest.mark.parametrize("state", [None, [], {}, {"reports": "1"}, {"reports": -1}])
def test_a_nonsense_state_is_refused(state: Any) -> None:
    reports = Reported().reports
    with pytest.raises(ValueError, match="no valid number of reports"):
        reports.load_state(state)
    assert reports.state() == {"reports": 0}
