"""LAMB as the paper writes it, slowly and in float64: algorithm 2 of arXiv 1904.00962."""

import torch
from torch import Tensor


class ReferenceLamb:
    """Steps on float64 copies of named weights, with given gradients."""

    def __init__(
        self,
        weights: dict[str, Tensor],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        adapt: bool = True,
    ) -> None:
        self.weights = {name: weight.detach().double() for name, weight in weights.items()}
        self.first = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.second = {name: torch.zeros_like(weight) for name, weight in self.weights.items()}
        self.betas, self.eps, self.weight_decay, self.adapt = betas, eps, weight_decay, adapt
        self.steps = 0

    def step(self, gradients: dict[str, Tensor], lr: float, clip: float = 0.0) -> None:
        """One update; vectors have neither decay nor ratio."""
        self.steps += 1
        beta1, beta2 = self.betas
        gradients = {name: gradient.double() for name, gradient in gradients.items()}
        if clip:
            norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
            divisor = max(1.0, float(norm + 1e-6) / clip)
            gradients = {name: gradient / divisor for name, gradient in gradients.items()}
        for name, weight in self.weights.items():
            gradient = gradients[name]
            first = self.first[name] = beta1 * self.first[name] + (1 - beta1) * gradient
            second = self.second[name] = beta2 * self.second[name] + (1 - beta2) * gradient**2
            corrected = first / (1 - beta1**self.steps)
            update = corrected / ((second / (1 - beta2**self.steps)).sqrt() + self.eps)
            ratio = 1.0
            if weight.ndim > 1:
                update = update + self.weight_decay * weight
                if self.adapt and weight.norm() > 0 and update.norm() > 0:
                    ratio = float(weight.norm() / update.norm())
            self.weights[name] = weight - lr * ratio * update
