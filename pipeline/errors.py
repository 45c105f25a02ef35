"""Errors that the user can correct. Their messages say what is wrong, where, and what to do."""

from collections.abc import Sequence

from pipeline.passwords import without_password


class NezhaError(Exception):
    """Base class; a verb prints such an error without a traceback."""

    exit_status = 2
    """What the verb's process ends with."""

    def __str__(self) -> str:
        # Pickle makes an exception again from all its arguments, of which only the first is the
        # message.
        return without_password(str(self.args[0])) if self.args else ""


class ConfigError(NezhaError):
    """Settings that are misspelt, out of range, or impossible together or on this machine."""


class CorpusError(NezhaError):
    """Input text that is missing, unreadable, empty, or mostly garbage."""


class VocabularyError(NezhaError):
    """A vocabulary that is missing, malformed, or not the one that the shards were made with."""


class ShardError(NezhaError):
    """A shard folder that is incomplete, damaged, or of another schema."""


class CheckpointError(NezhaError):
    """A checkpoint that is incomplete, damaged, or of another run."""


class ExportError(NezhaError):
    """A model export that is missing, incomplete or does not fit the task."""


class TaskError(NezhaError):
    """Fine-tuning data that is missing or malformed."""


class TrainingError(NezhaError):
    """A run that cannot continue: a loss that is not a number, workers that keep failing."""


class Interrupted(NezhaError):
    """A run that was asked to stop and did, after writing a checkpoint."""

    exit_status = 75
    """EX_TEMPFAIL of sysexits.h: the same command goes on."""


class StorageError(NezhaError):
    """A path or URL that no file system serves, or a store that does not answer or take files."""


class TrackingError(NezhaError):
    """An MLflow store or server that cannot be used."""


def raise_all(
    kind: type[Exception],
    mistakes: Sequence[str],
    what: str = "",
    advice: str = "",
    most: int | None = None,
) -> None:
    """Raise one error of all mistakes, if there are any; of more than `most`, the first ones.

    `what` they are, such as `wrong setting(s)`, makes a first line with their number; `advice` is
    the last line.
    """
    if not mistakes:
        return
    lines = list(mistakes[:most])
    if left := len(mistakes) - len(lines):
        lines.append(f"… and {left} more")
    if what:
        lines = [f"{len(mistakes)} {what}:", *(f"  {line}" for line in lines)]
    raise kind("\n".join([*lines, *filter(None, [advice])]))
