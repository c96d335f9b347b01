"""The card of a checkpoint."""

from tbtrainer.observers.checkpoints import show_checkpoint
from tbtrainer.run import RunWriter
from tests.events import event_files, text


def test_the_card_of_a_checkpoint_has_no_password_of_its_url(tmp_path):
    checkpoint = "https://user:MARKER7f3a9c@host/out/checkpoint-5"
    with RunWriter(str(tmp_path)) as writer:
        show_checkpoint(writer, checkpoint, 5, 0.25, ("eval_password=MARKER7f3a9c", 0.5), True)
    (file,) = event_files(tmp_path)
    assert b"MARKER7f3a9c" not in file.read_bytes()
    assert "`https://<hidden>@host/out/checkpoint-5`" in text(file, "checkpoint/saved/text_summary")
