"""Settings of what happens when something fails during training."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings.base import AboveZero, Number, Positive, Seconds, Settings


class FaultSettings(Settings):
    """What a fault means for the run."""

    max_failures: Annotated[int, Number, Field(ge=-1)] = 3
    """Restarts of failed workers without a new checkpoint between them; -1: without limit."""
    hang_seconds: Seconds = 900.0
    """Workers that make no step, evaluation or checkpoint for so long are restarted."""
    spike: Literal["skip", "rewind", "stop"] = "rewind"
    """A spike of the loss: go on, go back past its data, or stop. Bad steps: go back, or stop."""
    spike_deviations: AboveZero = 8.0
    """A logged loss is a spike if it exceeds its recent mean by so many standard deviations."""
    bad_steps: Positive = 10
    """Successive steps whose gradients are not finite, after which the run has diverged."""
    damaged_shard: Literal["stop", "skip"] = "stop"
    """A missing or damaged shard: stop and name it, or train without its samples."""
    shrink_on_oom: bool = False
    """After running out of memory, go on with half the micro-batch; the global batch stays."""
