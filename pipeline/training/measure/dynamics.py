"""Norms, trust ratios and loss scale of an optimizer step, as numbers to log.

Other figures come from the batches (`training.objective.STATISTICS`), the held-out text
(`training.evaluation`, `activity`), the clock (`throughput`, `time_shares`) and `noise_scale`.
"""

import math
import re
from collections import defaultdict
from statistics import mean, quantiles
from typing import Any

from pipeline.training.engine import gradient_norm, optimizer_of


def dynamics(engine: Any) -> dict[str, float]:
    """Of the last step; any rank may call it. It reads a few numbers from the device.

    Returns:
        `gradient_norm` before clipping, `skipped_steps`; under fp16 `loss_scale`. With LAMB also
        `trust_ratio_p10`, `_p50` and `_p90` over the weight matrices and, for each layer group
        (`layer_00` …, `embeddings`, …), `trust_ratio/GROUP` (mean over its matrices) and
        `weight_norm/GROUP` and `update_norm/GROUP` (see `Ratio`; of all its matrices together).
    """
    values = {"gradient_norm": gradient_norm(engine), "skipped_steps": float(engine.skipped_steps)}
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    if scaler is not None and scaler.dynamic:
        values["loss_scale"] = float(scaler.cur_scale)
    ratios = optimizer_of(engine).ratios()
    groups = defaultdict(list)
    for ratio in ratios:
        groups[layer_group(ratio.name)].append(ratio)
    for name, members in groups.items():
        values[f"trust_ratio/{name}"] = mean(ratio.trust_ratio for ratio in members)
        values[f"weight_norm/{name}"] = math.hypot(*(ratio.weight_norm for ratio in members))
        values[f"update_norm/{name}"] = math.hypot(*(ratio.update_norm for ratio in members))
    if len(ratios) > 1:
        deciles = quantiles((ratio.trust_ratio for ratio in ratios), n=10, method="inclusive")
        values |= {f"trust_ratio_p{tenth}0": deciles[tenth - 1] for tenth in (1, 5, 9)}
    return values


def layer_group(name: str) -> str:
    """`network.nezha.encoder.layer.3.output.dense.weight` → `layer_03`, others by their module."""
    layer = re.search(r"\blayer\.(\d+)\.", name)
    if layer:
        return f"layer_{int(layer[1]):02d}"
    known = re.search(r"\b(embeddings|pooler|predictions|seq_relationship)\b", name)
    return known[1] if known else name.split(".")[0]
