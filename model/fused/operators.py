"""Kernels as operators of torch, which compilers, fake tensors and tensor subclasses then know.

Each has a first derivative and no more. Where that is not enough, attn_implementation="eager" uses
operators of torch alone, which know every transform.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NoReturn

import torch
from torch.autograd import forward_ad
from torch.library import CustomOpDef, custom_op

NAMESPACE = "nezha"


def operator(
    fake: Callable[..., Any], tags: Sequence[torch.Tag] = ()
) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Make the decorated function the operator nezha::NAME; its first argument is a tensor.

    fake: makes results of the right shapes, dtypes and strides without computing them.
    tags: what compilers must know of it.
    """

    def define(function: Callable[..., Any]) -> CustomOpDef:
        @wraps(function)
        def without_autocast(*args: Any) -> Any:
            device = args[0].device.type
            if not torch.is_autocast_enabled(device):
                return function(*args)
            # Its products would have other types than the buffers that they are written to.
            with torch.autocast(device, enabled=False):
                return function(*args)

        def refuse(*_: Any) -> NoReturn:
            raise RuntimeError(
                f"{name} has no second derivative; set attn_implementation='eager' to have one"
            )

        name = _unused_name(function.__name__)
        made = custom_op(name, without_autocast, mutates_args=(), tags=tags)
        made.register_fake(fake)
        made.register_autograd(refuse)
        return made

    return define


def _unused_name(name: str) -> str:
    """nezha::name, with a number where another copy of this code, of an export, has taken it."""
    taken, number = getattr(torch.ops, NAMESPACE), 1
    while hasattr(taken, name if number == 1 else f"{name}_{number}"):
        number += 1
    return f"{NAMESPACE}::{name}" + (f"_{number}" if number > 1 else "")


def only_torch_operators() -> bool:
    """Whether torch.export or torch.jit traces: their programs may hold torch's operators alone."""
    # is_exporting() of torch 2.11 is also true where torch.compile traces.
    return torch.compiler._is_exporting_flag or torch.jit.is_tracing()


def transforms_are_active() -> bool:
    """Whether torch.func transforms or forward-mode derivatives are active.

    Our operators would give wrong results there, such as forward-mode derivatives of zero.
    """
    return not torch.compiler.is_compiling() and (
        torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    )


def check_transforms() -> None:
    """Raise RuntimeError where transforms are active."""
    if transforms_are_active():
        raise RuntimeError(
            "transforms of torch.func and forward-mode derivatives need attn_implementation='eager'"
        )
