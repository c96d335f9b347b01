"""A run as a whole: its tags, its frames, and what is said of its files."""

import io
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from tbtrainer import read_run
from tbtrainer.event_file.records import file_header, framed
from tbtrainer.reading import ImageValue, Run
from tbtrainer.reading.hparams import HParams
from tbtrainer.run import RunWriter
from tests.event_bytes import FIXED32, PART, field, metadata, scalar
from tests.limits import HANG_SECONDS

NAME = "events.out.tfevents.1700000001.host.1-0"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of torch's `SummaryWriter` with values of every kind."""
    directory = tmp_path_factory.mktemp("run")
    with SummaryWriter(str(directory)) as writer:
        for step in range(3):
            writer.add_scalar("train/loss", 1 / (step + 1), step, walltime=100.0 + step)
            writer.add_scalar("new/loss", step / 4, step, new_style=True)
            writer.add_histogram("weights", np.arange(10.0) * (step + 1), step)
        writer.add_text("note", "# A title", 1)
        writer.add_image("picture", np.full((3, 4, 5), 200, np.uint8), 2)
        labels, scores = np.array([0, 1, 1]), np.array([0.2, 0.4, 0.9])
        writer.add_pr_curve("class", labels, scores, 2, num_thresholds=11)
        writer.add_audio("tone", np.zeros(100), 2, sample_rate=100)
        writer.add_hparams({"rate": 0.5, "name": "a", "flag": True}, {"best": 1.0}, run_name=".")
    return directory


# ---- Tags and records ----


def test_tags_say_kind_count_and_steps(written: Path) -> None:
    found = {name: (info.kind, info.count) for name, info in read_run(written).tags().items()}
    assert found == {
        "train/loss": ("scalar", 3),
        "new/loss": ("scalar", 3),
        "weights": ("histogram", 3),
        "note/text_summary": ("text", 1),
        "picture": ("image", 1),
        "class": ("pr_curve", 1),
        "tone": ("audio", 1),
        "_hparams_/experiment": ("hparams", 1),
        "_hparams_/session_start_info": ("hparams", 1),
        "_hparams_/session_end_info": ("hparams", 1),
        "best": ("scalar", 1),
    }
    loss = read_run(written).tags()["train/loss"]
    assert (loss.first_step, loss.last_step) == (0, 2)


def test_a_tag_has_the_description_of_its_metadata(tmp_path: Path) -> None:
    writer = RunWriter(str(tmp_path))
    writer.add_scalar("grad_norm/total", 1.0, 1)
    writer.close()
    assert "norm" in read_run(tmp_path).tags()["grad_norm/total"].description


def test_the_first_metadata_of_a_tag_counts(tmp_path: Path) -> None:
    for number, description in enumerate(["first", "second"]):
        value = Summary.Value(tag="loss", simple_value=1, metadata=metadata("scalars", description))
        event = Event(step=number, wall_time=number, summary=Summary(value=[value]))
        name = f"events.out.tfevents.170000000{number}.host.{number}.0"
        (tmp_path / name).write_bytes(framed(event.SerializeToString()))
    info = read_run(tmp_path).tags()["loss"]
    assert (info.description, info.first_step, info.last_step, info.count) == ("first", 0, 1, 2)


def test_tags_that_are_no_text_share_a_name(tmp_path: Path) -> None:
    values = [
        field(1, PART, field(1, PART, tag) + field(2, FIXED32, b"\0\0\x80\x3f"))
        for tag in (b"\xff", b"\xfe")
    ]
    (tmp_path / NAME).write_bytes(framed(field(5, PART, b"".join(values))))
    assert read_run(tmp_path).scalars.tag.tolist() == ["\ufffd", "\ufffd"]


def test_records_are_decoded_in_the_order_written(written: Path) -> None:
    records = list(read_run(written).iter_records())
    assert [record.tag for record in records[:3]] == ["train/loss", "new/loss", "weights"]
    values = {(record.tag, record.step): record.value for record in records}
    assert values["train/loss", 1] == 0.5
    assert values["new/loss", 2] == 0.5
    assert values["note/text_summary", 1] == "# A title"
    assert values["weights", 2].maximum == 27.0
    image = values["picture", 2]
    assert isinstance(image, ImageValue) and (image.width, image.height) == (5, 4)
    assert values["class", 2].recall[0] == 1.0


def test_only_the_tags_that_are_asked_for_are_read(written: Path) -> None:
    run = read_run(written)
    assert {record.tag for record in run.iter_records({"weights", "nothing"})} == {"weights"}
    assert [len(chunk) for chunk in run.scalar_chunks(["train/loss"])] == [3]
    assert list(run.scalar_chunks([])) == []


def test_chunks_have_numbers_for_tags(written: Path) -> None:
    (chunk, *_) = read_run(written).scalar_chunks()
    dtypes = [getattr(chunk, name).dtype.str for name in ("tag", "step", "wall_time", "value")]
    assert dtypes == ["<i4", "<i8", "<f8", "<f8"]
    assert [chunk.names[tag] for tag in chunk.tag[:2]] == ["train/loss", "new/loss"]


def test_chunks_of_a_table_are_its_frame_without_pandas(written: Path) -> None:
    for name in ("scalars", "histograms", "texts", "images", "pr_curves"):
        frame = getattr(read_run(written), name)
        chunks = list(read_run(written).table_chunks(name))
        assert list(chunks[0].columns) == list(frame.columns)
        assert sum(map(len, chunks)) == len(frame) > 0
        tags = [chunk.names[tag] for chunk in chunks for tag in chunk.columns["tag"]]
        assert tags == frame.tag.tolist()
        last = list(frame.columns)[-1]
        values = [value for chunk in chunks for value in chunk.columns[last]]
        assert all(map(np.array_equal, values, frame[last]))


def test_chunks_of_a_table_are_of_the_tags_asked_for(written: Path) -> None:
    run = read_run(written)
    for name, tag in (("scalars", "best"), ("histograms", "weights"), ("texts", "note")):
        found = [c.names[t] for c in run.table_chunks(name, [tag]) for t in c.columns["tag"]]
        assert set(found) == ({tag} if name != "texts" else set())


def test_a_number_of_another_plugin_is_no_scalar(tmp_path: Path) -> None:
    tensor = TensorProto(dtype=1, float_val=[2.0])
    values = [
        Summary.Value(tag=tag, tensor=tensor, metadata=metadata(plugin) if plugin else None)
        for tag, plugin in (("a", "mesh"), ("b", ""), ("c", "scalars"))
    ]
    event = Event(step=1, summary=Summary(value=values))
    (tmp_path / NAME).write_bytes(framed(event.SerializeToString()))
    run = read_run(tmp_path)
    assert run.scalars.tag.tolist() == ["c"]
    assert [record.kind for record in run.iter_records()] == ["mesh", "tensor", "scalar"]


def test_a_table_that_no_run_has_is_refused(written: Path) -> None:
    with pytest.raises(ValueError, match="name='graphs' is no frame .* 'scalars', 'histograms'"):
        read_run(written).table_chunks("graphs")


def test_hyper_parameters_are_read(written: Path) -> None:
    found = read_run(written).hparams
    assert found.values == {"rate": 0.5, "name": "a", "flag": True}
    assert (found.metrics, found.status) == (("best",), "success")


def test_a_running_session_has_no_status_of_an_earlier_one(tmp_path: Path) -> None:
    first, second = (hparams({"rate": rate}, {f"best_{rate}": 1.0}) for rate in (0.5, 0.25))
    with SummaryWriter(str(tmp_path)) as writer:
        for summary in (*first, *second[:2]):
            writer._get_file_writer().add_summary(summary, 0)
    # TensorBoard takes the first columns, too.
    assert read_run(tmp_path).hparams == HParams({"rate": 0.25}, ("best_0.5",))


def test_a_run_without_hyper_parameters_has_none(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(scalar("loss", 1, 2.0))
    assert read_run(tmp_path).hparams == HParams()


# ---- Frames ----


def test_the_frame_of_scalars_has_one_row_each(written: Path) -> None:
    frame = read_run(written).scalars
    assert list(frame.columns) == ["tag", "step", "wall_time", "value", "session"]
    loss = frame[frame.tag == "train/loss"]
    assert loss.step.tolist() == [0, 1, 2]
    assert loss.wall_time.tolist() == [100.0, 101.0, 102.0]
    assert loss.value.tolist() == [1.0, 0.5, float(np.float32(1 / 3))]


def test_the_frame_of_histograms_has_moments_quantiles_and_buckets(written: Path) -> None:
    frame = read_run(written).histograms
    assert frame.tag.tolist() == ["weights"] * 3
    assert frame["max"].tolist() == [9.0, 18.0, 27.0]
    assert frame["mean"].tolist() == [4.5, 9.0, 13.5]
    assert (frame.p5 <= frame.p50).all() and (frame.p50 <= frame.p95).all()
    assert [len(e) - len(c) for e, c in zip(frame.edges, frame.counts, strict=True)] == [1, 1, 1]


def test_the_frame_of_texts_has_the_text(written: Path) -> None:
    frame = read_run(written).texts
    assert frame[["tag", "step", "text"]].values.tolist() == [["note/text_summary", 1, "# A title"]]


def test_a_picture_is_read_from_the_file_when_asked(written: Path) -> None:
    frame = read_run(written).images
    assert frame[["tag", "step", "width", "height"]].values.tolist() == [["picture", 2, 5, 4]]
    with Image.open(io.BytesIO(frame.image[0].read())) as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((5, 4), (200, 200, 200))


def test_the_size_of_a_picture_is_that_of_its_bytes(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (7, 3)).save(picture, "PNG")
    image = Summary.Image(encoded_image_string=picture.getvalue())
    value = Summary.Value(tag="picture", image=image)
    event = Event(summary=Summary(value=[value]))
    (tmp_path / NAME).write_bytes(framed(event.SerializeToString()))
    assert read_run(tmp_path).images[["width", "height"]].values.tolist() == [[7, 3]]


def test_a_picture_of_a_rewritten_file_is_an_error(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_image("picture", np.zeros((3, 4, 5), np.uint8), 2)
    (file,) = tmp_path.iterdir()
    picture = read_run(tmp_path).images.image[0]
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(OSError, match="rewritten since the run was read"):
        picture.read()


def test_the_frame_of_pr_curves_has_a_row_per_threshold(written: Path) -> None:
    frame = read_run(written).pr_curves
    assert frame.threshold.round(6).tolist() == [number / 10 for number in range(11)]
    # The scores above 0.3 are those of the class.
    assert frame[frame.threshold.round(6) == 0.3][["precision", "recall"]].values.tolist() == [
        [1.0, 1.0]
    ]
    assert frame.true_positives.tolist() == [2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 0]


def test_frames_of_a_run_without_values_are_empty(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    run = read_run(tmp_path)
    for frame in (run.scalars, run.histograms, run.texts, run.images, run.pr_curves):
        assert len(frame) == 0 and {"tag", "step", "wall_time", "session"} <= set(frame.columns)
    assert (run.tags(), run.health) == ({}, [])


def test_frames_can_be_grouped_without_warnings(written: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = read_run(written)
        means = run.scalars.groupby("tag", observed=True).value.mean()
        run.scalars.pivot_table(index="step", columns="tag", values="value", observed=True)
    assert set(means.index) == {"train/loss", "new/loss", "best"}


def test_values_that_are_broken_are_left_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for kind in ("histogram", "text", "image", "pr_curve"):
            _broken_value(writer, kind)
        writer.add_text("text", "whole", 1)
    run = read_run(tmp_path)
    sizes = [len(frame) for frame in (run.histograms, run.texts, run.images, run.pr_curves)]
    assert sizes == [0, 1, 0, 0]
    assert caplog.text.count("1 values of kind") == 4
    assert [record.value for record in run.iter_records()] == [None] * 4 + ["whole"]


def _broken_value(writer: SummaryWriter, kind: str) -> None:
    """Adds a value whose tensor is not what its plugin needs."""
    plugin = {"histogram": "histograms", "image": "images", "pr_curve": "pr_curves"}.get(kind, kind)
    value = Summary.Value(tag="text/text_summary" if kind == "text" else kind)
    value.metadata.plugin_data.plugin_name = plugin
    value.tensor.dtype = 1
    value.tensor.float_val.extend([1.0, 2.0, 3.0])
    value.tensor.tensor_shape.dim.add(size=3)
    writer._get_file_writer().add_summary(Summary(value=[value]), 0)


WITHOUT_PANDAS = """
import sys
sys.modules["pandas"] = None
from tbtrainer import read_run
run = read_run(sys.argv[1])
print(len(list(run.iter_records())), sum(map(len, run.scalar_chunks())), len(run.tags()))
for name in ("scalars", "histograms", "texts", "images", "pr_curves"):
    try:
        getattr(run, name)
    except ImportError as error:
        print(name, 'extra "pandas"' in str(error), "iter_records" in str(error))
print(sum(map(len, run.table_chunks("histograms"))))
"""


def test_without_pandas_the_error_names_the_extra(written: Path) -> None:
    printed = run_python(WITHOUT_PANDAS, str(written)).splitlines()
    assert printed[0] == "17 7 11"
    names = ("scalars", "histograms", "texts", "images", "pr_curves")
    assert printed[1:] == [*(f"{name} True True" for name in names), "3"]


def run_python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reading_imports_no_large_library(written: Path) -> None:
    code = (
        "import sys; from tbtrainer import read_run; run = read_run(sys.argv[1]); "
        "run.tags(), list(run.iter_records()), run.sessions, run.files, run.health, run.hparams; "
        "large = ('torch', 'transformers', 'pandas', 'tensorflow', 'matplotlib', 'fsspec'); "
        "print([name for name in large if name in sys.modules])"
    )
    assert run_python(code, str(written)) == "[]\n"


# ---- Files that are torn, damaged or being written ----


def test_the_unread_bytes_of_each_file_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = scalar("loss", 1, 2.0)
    damaged = bytearray(whole)
    damaged[20] ^= 1
    contents = {"1": whole, "2": whole + whole[:-1], "3": whole + damaged + whole}
    for number, content in contents.items():
        (tmp_path / f"events.out.tfevents.170000000{number}.host.1.0").write_bytes(content)
    files = read_run(tmp_path).files
    unread = [(file.unread_bytes, file.reason, file.events) for file in files]
    size = len(whole)
    assert unread == [(0, "", 1), (size - 1, "torn", 1), (2 * size, "damaged", 1)]
    assert [file.bytes for file in files] == [len(content) for content in contents.values()]
    # A torn end is what a running training has. Damage is not.
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"3.host.1.0 is damaged at byte {size}. The {2 * size} bytes" in message


def test_what_is_written_after_the_first_look_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / NAME
    file.write_bytes(scalar("loss", 1, 1.0))
    run = read_run(tmp_path)
    assert run.tags()["loss"].count == 1
    with open(file, "ab") as opened:
        opened.write(scalar("loss", 2, 2.0) + scalar("new", 2, 2.0))
    assert [record.step for record in run.iter_records()] == [1]
    assert [record.step for record in read_run(tmp_path).iter_records()] == [1, 2, 2]


def test_a_file_that_is_rewritten_meanwhile_breaks_nothing(tmp_path: Path) -> None:
    file = tmp_path / NAME
    file.write_bytes(b"".join(scalar("loss", step, step) for step in range(4)))
    run = read_run(tmp_path)
    assert len(run.sessions) == 1
    file.write_bytes(b"".join(scalar("other", step, step) for step in range(5)))
    assert list(run.iter_records()) == []
    assert len(run.scalars) == 0
    file.write_bytes((file_header(0) + scalar("loss", 1, 1)) * 3)
    assert len(list(run.iter_records())) <= 3


def test_a_run_is_not_read_before_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(scalar("loss", 1, 1.0))
    calls: list[tuple[int, int]] = []
    run = read_run(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == []
    size = (tmp_path / NAME).stat().st_size
    assert (len(run.tags()), calls) == (1, [(size, size)])
    run.tags()
    assert len(calls) == 1
    list(run.iter_records())
    assert calls == [(size, size)] * 2


def test_the_order_of_questions_does_not_matter(written: Path) -> None:
    def answers(run: Run, names: list[str]) -> dict[str, Any]:
        return {name: repr(getattr(run, name)) for name in names}

    names = ["scalars", "histograms", "sessions", "hparams", "files", "texts"]
    assert answers(read_run(written), names) == answers(read_run(written), names[::-1])


# ---- Health ----


def test_lines_of_health_are_read_with_their_numbers(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    lines = [
        {"step": 7, "time": 2.0, "loss": "NaN", "norms": ["Infinity", 1.5]},
        {"step": 3, "time": 1.0, "loss": "-Infinity", "parameter": "a"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "health.jsonl").write_text(text + '{"step": 9, "ti')
    (tmp_path / "health.jsonl.removed-after-7.00000001").write_text(
        json.dumps({"step": 8, "time": 3.0}) + "\n"
    )
    first, second = read_run(tmp_path).health
    assert (first["step"], first["loss"], first["parameter"]) == (3, -math.inf, "a")
    assert math.isnan(second["loss"]) and second["norms"] == [math.inf, 1.5]
    assert [line["step"] for line in read_run(tmp_path, include_rewound=True).health] == [3, 7, 8]


def test_a_file_of_another_program_is_not_health(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    (tmp_path / "health.jsonl").write_text('{"pulse": 70}\n')
    assert read_run(tmp_path).health == []


def test_health_that_is_nested_too_deeply_is_left_out(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("a", 1, 1)
    deep = '{"step": 1, "time": 2.0, "a": ' + "[" * 900 + "]" * 900 + "}\n"
    (tmp_path / "health.jsonl").write_text(deep + '{"step": 3, "time": 4.0}\n')
    assert [line["step"] for line in read_run(tmp_path).health] == [3]


def test_a_run_shows_no_credentials(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("a", 1, 1)
    run = read_run(tmp_path)
    run.path = "s3://key:planted-secret@bucket/run"
    assert "planted-secret" not in repr(run)
