"""The session gives a writer whatever the store does, and none to ranks that do not write."""

from tbtrainer.run import RunSession, RunWriter, SilentWriter


def test_a_store_that_cannot_be_claimed_still_has_a_writer(tmp_path, monkeypatch):
    def refused(path: str) -> str:
        raise RuntimeError("no credentials")  # Stores have exceptions of their own.

    monkeypatch.setattr("tbtrainer.run.session.claim_run_directory", refused)
    session = RunSession(str(tmp_path / "run"), str(tmp_path), writes=True)
    assert isinstance(session.writer, RunWriter)
    assert session.writer.log_dir == str(tmp_path / "run")


def test_other_ranks_touch_nothing(tmp_path):
    session = RunSession(str(tmp_path / "run"), str(tmp_path), writes=False)
    session.begin_training(None, "auto", None)
    session.write([("value", 1.0)], 1)
    session.mark_checkpoint(str(tmp_path), 1)
    session.rest()
    assert isinstance(session.writer, SilentWriter)
    assert list(tmp_path.iterdir()) == []
