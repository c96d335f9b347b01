"""Makes the runs of Lightning and of Keras that tests/integration/test_reading_foreign.py reads.

The runs are committed, because the two libraries are large. To make them anew, in an environment
with `lightning`, `tensorflow` and `tensorboard`:

    python tests/foreign_runs/make_runs.py

It also writes `expected.json`: what the libraries themselves report of each run.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).parent


def lightning_run(place: Path) -> dict[str, Any]:
    """Fits a small model for two epochs, and resumes it from the checkpoint of the first."""
    import lightning
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch.utils.data import DataLoader, TensorDataset

    class Line(lightning.LightningModule):
        def __init__(self, width: int = 3, rate: float = 0.1) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(width, 1)
            self.losses: list[tuple[int, float]] = []

        def training_step(self, batch: Any, index: int) -> Any:
            loss = self.layer(batch[0]).sub(batch[1]).pow(2).mean()
            self.log("train_loss", loss)
            self.losses.append((self.global_step, float(loss)))
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_loss", self.layer(batch[0]).sub(batch[1]).pow(2).mean())

        def on_train_epoch_end(self) -> None:
            tensorboard = self.logger.experiment
            tensorboard.add_histogram("weights", self.layer.weight, self.current_epoch)
            tensorboard.add_text("note", f"epoch {self.current_epoch}", self.current_epoch)
            picture = torch.full((3, 4, 5), self.current_epoch / 10)
            tensorboard.add_image("picture", picture, self.current_epoch)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.hparams.rate)

    torch.manual_seed(0)
    inputs = torch.randn(16, 3)
    data = DataLoader(TensorDataset(inputs, inputs.sum(dim=1, keepdim=True)), batch_size=2)

    def fit(model: Any, checkpoint: str | None) -> Any:
        keeper = ModelCheckpoint(dirpath=place / "kept", save_top_k=-1, filename="{epoch}")
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=TensorBoardLogger(place, name=None, version="version_0"),
            callbacks=[keeper],
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, data, data, ckpt_path=checkpoint)
        return model

    fit(Line(), None)
    # The second epoch was written already: a stock writer writes its steps once more.
    resumed = fit(Line(), str(place / "kept" / "epoch=0.ckpt"))
    shutil.rmtree(place / "kept")
    (place / "version_0" / "hparams.yaml").unlink()
    return {"lightning": lightning.__version__, "resumed_losses": resumed.losses}


def keras_run(place: Path) -> dict[str, Any]:
    """Fits a small model with the callbacks of TensorBoard and of its HParams dashboard."""
    import keras
    import numpy as np
    import tensorflow as tf
    from tensorboard.plugins.hparams import api as hparams_api

    keras.utils.set_random_seed(0)
    inputs = np.random.default_rng(0).standard_normal((16, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="line")])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse", metrics=["mae"])
    tensorboard = keras.callbacks.TensorBoard(place, histogram_freq=1, write_graph=False)
    settings = {"rate": 0.1, "optimizer": "sgd", "nesterov": False}
    history = model.fit(
        inputs,
        inputs.sum(axis=1, keepdims=True),
        validation_split=0.25,
        batch_size=4,
        epochs=3,
        verbose=0,
        callbacks=[tensorboard, hparams_api.KerasCallback(str(place / "trial"), settings)],
    )
    with tf.summary.create_file_writer(str(place / "other")).as_default():
        for step in range(3):
            tf.summary.scalar("double", tf.constant(step / 3, tf.float64), step=step)
            tf.summary.scalar("whole", tf.constant(step, tf.int64), step=step)
            tf.summary.scalar("nothing", 0.0, step=step, description="Always **zero**.")
            pictures = np.full((2, 4, 5, 3), step, np.uint8)
            tf.summary.image("pictures", pictures, step=step)
            tf.summary.text("words", ["first", "second"], step=step)
            tf.summary.histogram("numbers", np.arange(100.0) * step, step=step, buckets=10)
    weights = model.get_layer("line").get_weights()[0]
    return {
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "history": history.history,
        "settings": settings,
        "last_weights": [float(weights.min()), float(weights.max()), weights.size],
    }


def main() -> None:
    """Makes the runs that are named on the command line, or both."""
    expected_file = HERE / "expected.json"
    expected = json.loads(expected_file.read_text()) if expected_file.exists() else {}
    for name, make in {"lightning": lightning_run, "keras": keras_run}.items():
        if name in (sys.argv[1:] or [name]):
            shutil.rmtree(HERE / name, ignore_errors=True)
            expected[name] = make(HERE / name)
    expected_file.write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
