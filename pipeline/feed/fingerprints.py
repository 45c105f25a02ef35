"""Whether a run goes on in the data, and in the order, that it was trained with."""

from collections.abc import Mapping
from typing import Any

from pipeline.errors import CheckpointError, ShardError


class FingerprintError(ShardError, CheckpointError):
    """The data or its order differs from what a checkpoint was trained with."""


def require_same_data(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that two `fingerprint_fields` are equal.

    Raises:
        FingerprintError: they differ; the message names each such field with both values.
    """
    differing = [name for name in {**saved, **now} if saved.get(name) != now.get(name)]
    if differing:
        lines = [f"{name}: was {saved.get(name)}, is {now.get(name)}" for name in differing]
        raise FingerprintError(
            "the checkpoint was trained on other data or in another order:\n  "
            + "\n  ".join(lines)
            + "\nto go on, set these back; to start a new run, choose another run.name"
        )


def require_same_order(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a branch goes on in the data of the run that it leaves; its masks may be others.

    Raises:
        FingerprintError: as `require_same_data`.
    """
    require_same_data({**saved, "masking": now["masking"]}, now)
