"""NezhaConfig: the settings of a NEZHA network (https://arxiv.org/abs/1909.00204).

Names and defaults are those of `nezha-cn-base` in transformers 4.40.2.
"""

from typing import Any

from transformers.utils.versions import require_version

# Before the imports that older releases do not have: an export carries this file.
require_version("transformers>=5.17", "The code of this Nezha needs a newer transformers.")

from huggingface_hub.dataclasses import strict  # noqa: E402
from transformers import BertConfig  # noqa: E402
from transformers.activations import ACT2FN  # noqa: E402


@strict
class NezhaConfig(BertConfig):
    """A BERT configuration in which a clipped relative distance replaces absolute positions.

    `max_relative_position`: distances beyond it share one position vector; 0 means no positions.
    `absolute_positions`: whether BERT's learned position vectors are added to the embeddings too.
    `max_position_embeddings`: the length the weights were trained for; longer inputs are fine,
        because the relative position vectors are a function and not parameters. Of absolute
        positions it is the number.
    `classifier_dropout`: dropout before a task head; None means `hidden_dropout_prob`.
    The other fields are those of `transformers.BertConfig`.
    """

    model_type = "nezha"

    vocab_size: int = 21128
    max_relative_position: int = 64
    absolute_positions: bool = False
    classifier_dropout: float | int | None = 0.1
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 3

    def __post_init__(self, **kwargs: Any) -> None:
        """Raise ValueError for sizes that a network cannot have."""
        super().__post_init__(**kwargs)
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )
        if self.attention_head_size % 2:
            raise ValueError(
                f"the head size, hidden_size / num_attention_heads, is {self.attention_head_size}; "
                "it must be even, because position vectors are pairs of a sine and a cosine"
            )
        if self.max_relative_position < 0:
            raise ValueError(
                f"max_relative_position must be at least 0, got {self.max_relative_position}"
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(
                f"hidden_act is {self.hidden_act!r}, which transformers does not have; it has "
                f"{', '.join(sorted(ACT2FN))}"
            )
        if self.add_cross_attention and not self.is_decoder:
            raise ValueError("add_cross_attention=True needs is_decoder=True")

    @property
    def attention_head_size(self) -> int:
        """Width of one head, d."""
        return self.hidden_size // self.num_attention_heads
