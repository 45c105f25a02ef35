"""Settings of comparisons, for tests."""

import json

from pipeline.settings.reading.config_file import load_config


def config(storage, *more):
    return load_config(None, [f"run.storage={storage}", "run.name=suite", *more])


def task(data, name="ner", **more):
    values = {"task": name, "epochs": 1, "lr": 5e-3, "batch": 16}
    files = data[name] | {"length": 48}
    return json.dumps(values | {"data": files} | more)
