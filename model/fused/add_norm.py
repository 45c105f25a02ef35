"""LayerNorm(dropout(x) + residual), as one Triton kernel where it fits."""

from torch import Tensor, nn

from .dropout import dropout
from .dropout_rates import new_seed
from .operators import check_transforms, only_torch_operators

try:
    from .triton_add_norm import fits, triton_add_norm

    HAS_TRITON = True
except ImportError:  # torch brings no Triton for CPUs and for some systems
    HAS_TRITON = False


class AddNorm(nn.LayerNorm):
    """A LayerNorm that adds a residual first."""

    def forward(  # type: ignore[override]
        self, x: Tensor, residual: Tensor, rate: float = 0.0, fused: bool = True
    ) -> Tensor:
        """LayerNorm(dropout(x) + residual); x, residual [..., H], and x loses a share `rate`.

        fused: whether operators other than those of torch may be used, with the rate rounded to a
            256th.
        """
        if (
            fused
            and HAS_TRITON
            and x.dtype == residual.dtype == self.weight.dtype
            and fits(x, rate)
            and not only_torch_operators()
        ):
            check_transforms()
            seed = new_seed() if rate else None
            weights = self.weight, self.bias, self.eps
            return triton_add_norm(x, residual, *weights, rate, seed)[0]
        return super().forward((dropout(x, rate) if rate else x) + residual)
