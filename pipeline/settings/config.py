"""All settings of a run, composed of the groups of this folder."""

from typing import Any

from pydantic import BaseModel, Field, ValidationInfo, model_validator

from pipeline.errors import raise_all
from pipeline.settings.ablation import AblationSettings
from pipeline.settings.base import FolderName, Settings
from pipeline.settings.corpus import CorpusSettings, DemoSettings, PreviewSettings
from pipeline.settings.faults import FaultSettings
from pipeline.settings.finetuning import CompareSettings, FinetuneSettings, PredictSettings
from pipeline.settings.lengths import in_steps
from pipeline.settings.needs import without_effect
from pipeline.settings.plan import PlanSettings
from pipeline.settings.run import EvaluateSettings, PromoteSettings, RunSettings, TrackingSettings
from pipeline.settings.training import (
    EngineSettings,
    ModelSettings,
    OptimSettings,
    ScalingSettings,
    TrainSettings,
)

ACCEPTED = "accepted"
"""Validation context of settings that were valid when the run began: checks that were added later
are skipped, so that it can be resumed."""


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
    plan: PlanSettings = PlanSettings()
    compare: CompareSettings = CompareSettings()
    ablate: AblationSettings = AblationSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    promote: PromoteSettings = PromoteSettings()
    heads: dict[FolderName, FinetuneSettings] = Field(default_factory=dict)
    """Heads, by name, that a pretraining run ends with: from its export and from random weights."""

    @model_validator(mode="before")
    @classmethod
    def _count_in_steps(cls, values: Any) -> Any:
        """Lengths that are given in tokens, as steps."""
        return in_steps(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> "Config":
        """Settings of different groups that contradict each other."""
        if info.context == ACCEPTED:
            return self
        mistakes = without_effect(self)
        steps, warmup, decay = self.train.steps, self.optim.warmup, self.optim.decay or 0
        if warmup > steps:
            mistakes.append(
                f"optim.warmup={warmup:g} is longer than train.steps={steps}: the learning rate "
                "would never reach optim.lr; lower it, or give a share below 1"
            )
        elif sum(each if each >= 1 else each * steps for each in (warmup, decay)) > steps + 1:
            mistakes.append(
                f"optim.warmup={warmup:g} and optim.decay={decay:g} are together longer than "
                f"train.steps={steps}; lower one, or leave optim.decay out for all that follows "
                "the warm-up"
            )
        if self.train.init_state == "branch" and warmup:
            mistakes.append(
                "train.init_state=branch goes on at optim.lr, the rate that the other run has "
                "reached: set optim.warmup=0"
            )
        mistakes += [
            f"heads.{name}.from_scratch: a head of a pretraining run starts from both the export "
            "and random weights; leave it out"
            for name, head in self.heads.items()
            if head.from_scratch
        ]
        if "" in self.heads:
            mistakes.append("heads: a head needs a name")
        raise_all(ValueError, mistakes)
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
