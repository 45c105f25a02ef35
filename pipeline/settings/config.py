"""All settings of a run, composed of the groups of this folder."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, model_validator

from pipeline.settings.base import Settings
from pipeline.settings.corpus import CorpusSettings, DemoSettings, PreviewSettings
from pipeline.settings.faults import FaultSettings
from pipeline.settings.finetuning import CompareSettings, FinetuneSettings, PredictSettings
from pipeline.settings.run import PromoteSettings, RunSettings, TrackingSettings
from pipeline.settings.training import (
    EngineSettings,
    ModelSettings,
    OptimSettings,
    ScalingSettings,
    TrainSettings,
)


class Config(Settings):
    """All settings of a run."""

    run: RunSettings = RunSettings()
    demo: DemoSettings = DemoSettings()
    corpus: CorpusSettings = CorpusSettings()
    preview: PreviewSettings = PreviewSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    optim: OptimSettings = OptimSettings()
    engine: EngineSettings = EngineSettings()
    scaling: ScalingSettings = ScalingSettings()
    faults: FaultSettings = FaultSettings()
    tracking: TrackingSettings = TrackingSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    predict: PredictSettings = PredictSettings()
    compare: CompareSettings = CompareSettings()
    promote: PromoteSettings = PromoteSettings()
    heads: dict[str, FinetuneSettings] = Field(default_factory=dict)
    """Heads, by name, that a pretraining run ends with: from its export and from random weights."""

    @model_validator(mode="after")
    def _check(self) -> Config:
        """Settings of different groups that contradict each other."""
        mistakes = []
        if self.optim.warmup > self.train.steps:
            mistakes.append(
                f"optim.warmup={self.optim.warmup:g} is longer than train.steps={self.train.steps}:"
                " the learning rate would never reach optim.lr; lower it, or give a share below 1"
            )
        mistakes += [
            f"heads.{name}.from_scratch: a head of a pretraining run starts from both the export "
            "and random weights; leave it out"
            for name, head in self.heads.items()
            if head.from_scratch
        ]
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return self


def flatten(settings: BaseModel, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and values of all settings; a group in a dictionary is flattened too."""
    pairs: list[tuple[str, Any]] = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            pairs.extend(flatten(value, f"{prefix}{name}."))
        elif isinstance(value, dict) and any(isinstance(v, BaseModel) for v in value.values()):
            for key, item in value.items():
                pairs.extend(flatten(item, f"{prefix}{name}.{key}."))
        else:
            pairs.append((prefix + name, value))
    return pairs
