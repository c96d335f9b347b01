"""The run of a checkpoint is found again, also after both were moved."""

from tbtrainer.run.saved_run import RUN_FILE, SavedRun


def saved(root):
    run, checkpoint = root / "runs" / "a", root / "checkpoint-7"
    run.mkdir(parents=True)
    checkpoint.mkdir()
    SavedRun.of(str(run), str(checkpoint), 7).write(str(checkpoint))
    return run, checkpoint


def test_run_and_step_are_read_back(tmp_path):
    run, checkpoint = saved(tmp_path)
    again = SavedRun.read(str(checkpoint))
    assert again is not None
    assert again.step == 7
    assert again.directory_now(str(checkpoint), "elsewhere") == str(run)
    assert [path.name for path in checkpoint.iterdir()] == [RUN_FILE]


def test_a_run_moved_with_its_checkpoint_is_found(tmp_path):
    saved(tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    checkpoint = tmp_path / "after" / "checkpoint-7"
    again = SavedRun.read(str(checkpoint))
    assert again is not None
    assert again.directory_now(str(checkpoint), "elsewhere") == str(
        tmp_path / "after" / "runs" / "a"
    )


def test_a_renamed_checkpoint_finds_its_run(tmp_path):
    run, checkpoint = saved(tmp_path)
    best = tmp_path / "archive" / "deep" / "best"
    best.parent.mkdir(parents=True)
    checkpoint.rename(best)
    again = SavedRun.read(str(best))
    assert again is not None
    assert again.directory_now(str(best), "elsewhere") == str(run)


def test_a_run_that_is_gone_is_none(tmp_path):
    run, checkpoint = saved(tmp_path)
    run.rmdir()
    again = SavedRun.read(str(checkpoint))
    assert again is not None
    assert again.directory_now(str(checkpoint), "elsewhere") is None


def test_a_checkpoint_of_the_stock_trainer_has_no_run(tmp_path):
    assert SavedRun.read(str(tmp_path)) is None


def test_credentials_of_a_url_are_in_no_checkpoint_and_come_from_the_arguments(tmp_path):
    requested = "s3://name:hidden-word@host/run"
    SavedRun.of(f"{requested}-1", str(tmp_path), 7).write(str(tmp_path))
    assert "hidden-word" not in (tmp_path / RUN_FILE).read_text()
    again = SavedRun.read(str(tmp_path))
    assert again is not None
    assert again.directory_now(str(tmp_path), requested) == f"{requested}-1"
    assert again.directory_now(str(tmp_path), "s3://host/run") is None
