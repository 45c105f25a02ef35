"""The points of a metric that MLflow holds."""

import mlflow

from pipeline.tracking.store import tracking_uri


def points(config, run_id, name):
    client = mlflow.MlflowClient(tracking_uri(config))
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
