"""A run's record as Ray metrics, and the board that shows them."""

import json
import re
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline.training.launch import ray_metrics

ROOT = Path(__file__).parents[4]
BOARD = json.loads((ROOT / "cluster/grafana/nezha.json").read_text("utf-8"))


class Gauge:
    """Stands for Ray's gauge; Ray's own names may have letters, digits, `_` and `:`."""

    values: ClassVar[dict] = {}

    def __init__(self, name, tag_keys):
        assert re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", name)
        assert tag_keys == ("run",)
        self.name = name

    def set(self, value, tags):
        assert tags == {"run": "r"}
        self.values[self.name] = value


@pytest.fixture
def published(monkeypatch):
    monkeypatch.setattr(ray_metrics, "Gauge", Gauge)
    monkeypatch.setattr(Gauge, "values", {})
    clock = [100.0]
    monkeypatch.setattr(ray_metrics.time, "monotonic", lambda: clock[0])
    return Gauge.values, clock


def test_records_and_goodput(published):
    values, clock = published
    metrics = ray_metrics.RunMetrics("r")
    metrics.begin(100)
    clock[0] += 50
    metrics.add({"step": 110, "loss": 6.5, "step_seconds": 2.0, "time/data": 0.1})
    assert values["nezha_loss"] == 6.5
    assert values["nezha_time_data"] == 0.1
    assert values["nezha_goodput"] == pytest.approx(20 / 50)
    metrics.happened("restart")
    metrics.happened("start")
    clock[0] += 50
    metrics.add({"step": 105, "step_seconds": 2.0})  # trained a second time
    assert values["nezha_goodput"] == pytest.approx(20 / 100)
    assert values["nezha_restarts"] == 1
    values.clear()
    metrics.add({"step": 111})
    assert values["nezha_restarts"] == 1


def test_the_board_asks_for_what_is_published():
    expressions = [
        target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", [])
    ]
    asked = {name for line in expressions for name in re.findall(r"ray_nezha_(\w+)", line)}
    known = {"restarts", "goodput", "loss", "mlm_loss", "heldout_mlm_loss", "tokens_per_second"}
    known |= {"mfu", "tflops_per_worker", "time_data", "time_communication", "step_seconds"}
    known |= {f"speed_checkpoint_{what}_seconds" for what in ("wait", "copy", "write")}
    assert asked <= known | {"gradient_norm", "lr"}
    assert {"loss", "tokens_per_second", "mfu", "time_data", "restarts", "goodput"} <= asked
    assert any("ray_node_gpus_utilization" in line for line in expressions)  # Ray's own
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in BOARD["panels"])
