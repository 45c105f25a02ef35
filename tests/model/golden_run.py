"""Running a golden case on a model, the same way in transformers 4.40.2 and here."""

from typing import Any

import numpy as np
import torch
from golden_cases import Case, weight
from torch import nn


def load_weights(model: nn.Module) -> nn.Module:
    """Fill every parameter by its name; the decoder's bias has two and counts as one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            name = name.replace("predictions.decoder.bias", "predictions.bias")
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
    return model


def tensors(arguments: dict[str, Any]) -> dict[str, Any]:
    """numpy arrays → tensors; flags stay."""
    return {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in arguments.items()
    }


def flat_outputs(value: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Every tensor of an output under a name such as `hidden_states.2`; None has no entry.

    A cache, in any of its forms, becomes its tensors: per layer keys, values and, with
    cross-attention, the keys and values of that.
    """
    if isinstance(value, torch.Tensor):
        return {prefix: value.detach().numpy()}
    if hasattr(value, "get_seq_length"):
        value = [[t for t in layer if t is not None] for layer in value]
    items = value.items() if hasattr(value, "items") else enumerate(value)
    found: dict[str, np.ndarray] = {}
    for key, item in items:
        if item is not None:
            found |= flat_outputs(item, f"{prefix}.{key}" if prefix else str(key))
    return found


def gradients(model: nn.Module, case: Case) -> dict[str, np.ndarray]:
    """Gradients of the loss, or of a fixed mixture of the outputs where there is none.

    Of each, one number in seven and the norm.
    """
    outputs = model(**tensors(case.arguments()))
    loss = outputs.loss if "loss" in outputs else outputs[0].square().mean() + outputs[1].mean()
    model.zero_grad()
    loss.backward()
    return {
        name: torch.cat([parameter.grad.flatten()[::7], parameter.grad.norm()[None]]).numpy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def trajectory(model: nn.Module, steps: list[Case]) -> dict[str, np.ndarray]:
    """Losses of successive AdamW steps, and per parameter (sum, norm) afterwards."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    losses = []
    for case in steps:
        loss = model.train()(**tensors(case.arguments())).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found = {"losses": np.array(losses)}
    for name, parameter in model.named_parameters():
        found[name] = np.array([parameter.sum().item(), parameter.norm().item()])
    return found
