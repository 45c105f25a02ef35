"""The label of what a loss leaves out, in pretraining and in fine-tuning."""

IGNORED = -100
"""torch's cross-entropy ignores it, unless told otherwise."""
