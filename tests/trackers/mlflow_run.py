"""MLflow: `mlflow.pytorch.autolog()`, with a database in the current directory."""

from collections.abc import Callable

import mlflow
from mlflow.utils.autologging_utils.metrics_queue import flush_metrics_queue


def recorded_scalars(train: Callable[[], None]) -> list[tuple[str, int, float]]:
    """Trains inside a run and reads the run's metrics back."""
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.pytorch.autolog(log_every_n_step=1)
    with mlflow.start_run() as run:
        train()
        flush_metrics_queue()
    client = mlflow.MlflowClient()
    return [
        (key, metric.step, metric.value)
        for key in client.get_run(run.info.run_id).data.metrics
        for metric in client.get_metric_history(run.info.run_id, key)
    ]
