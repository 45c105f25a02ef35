"""What LAMB and the engine cost: `python -m tests.benchmarks.lamb_cost [--threads N] [--engine]`.

Without `--engine`: one optimizer step on the parameters of a base-size Nezha, against torch's
AdamW (foreach and fused), and LAMB with other block sizes. With it: a training step of a small
Nezha through DeepSpeed at every stage, against a plain loop with the same network and optimizer.

Contenders take turns, so that other processes slow all of them alike. The figure is the median of
the ratios to the first one in the same round, in CPU seconds of the process for each thread, and by
the clock.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pipeline.settings.config import Config
from pipeline.settings.training import ModelSettings
from pipeline.training import batch_split
from pipeline.training import engine as engines
from pipeline.training.lamb import optimizer as lamb
from pipeline.training.lamb import steps as lamb_steps
from pipeline.training.start.network import build_network, network_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--size", default="base", help="of the network whose weights are stepped on"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engine", action="store_true", help="measure training steps instead")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.engine:
        tables = {p: training_steps(p) for p in ("fp32", "bf16")}
    else:
        tables = {"optimizer step": optimizer_steps(arguments.size, torch.device(arguments.device))}
    results = {}
    for title, contenders in tables.items():
        results[title] = race(contenders, arguments.rounds, arguments.threads)
        print(title)
        for name, figures in results[title].items():
            shown = (f"{kind} {s * 1e3:9.1f} ms  x {r:.2f}" for kind, (s, r) in figures.items())
            print(f"  {name:24}", *shown, sep="   ")
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1))


def race(
    contenders: dict[str, Callable[[], object]], rounds: int, threads: int
) -> dict[str, dict[str, tuple[float, float]]]:
    """`cpu` and `clock`: median seconds and median ratio to the first contender.

    Two more rounds come first, to warm up.
    """
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(rounds + 2):
        for name, act in contenders.items():
            cpu, clock = _timed(act)
            spent[name].append((cpu / threads, clock))
    first = spent[next(iter(spent))]

    def figures(name: str, kind: int) -> tuple[float, float]:
        taken, others = ([times[kind] for times in row[2:]] for row in (spent[name], first))
        ratios = (own / other for own, other in zip(taken, others, strict=True))
        return statistics.median(taken), statistics.median(ratios)

    return {name: {"cpu": figures(name, 0), "clock": figures(name, 1)} for name in spent}


def _timed(act: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds and seconds by the clock."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    cpu, clock = time.process_time(), time.perf_counter()
    act()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time() - cpu, time.perf_counter() - clock


def optimizer_steps(size: str, device: torch.device) -> dict[str, Callable[[], object]]:
    settings = ModelSettings.model_validate({"size": size})
    network = build_network(network_config(settings, 21128), 0, "auto").to(device)
    generator = torch.Generator(device).manual_seed(0)
    for parameter in network.parameters():
        parameter.grad = torch.empty_like(parameter).normal_(std=1e-3, generator=generator)
    print(f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters, {size}")
    groups = [{**g, "lr": 1e-6} for g in lamb.parameter_groups(network, 0.01)]
    # An optimizer writes its defaults into the groups that it gets.
    plain = [[{k: v for k, v in g.items() if k != "trust_ratio"} for g in groups] for _ in "ab"]
    contenders: dict[str, Callable[[], object]] = {
        "AdamW foreach": torch.optim.AdamW(plain[0], foreach=True).step,
        "AdamW fused": torch.optim.AdamW(plain[1], fused=True).step,
        f"LAMB (block 2^{lamb_steps.BLOCK.bit_length() - 1})": lamb.Lamb(groups).step,
    }
    if device.type == "cpu":
        other = lamb.Lamb(groups)
        for power in (15, 19, 30):
            contenders[f"LAMB block 2^{power}"] = _with_block(other, 1 << power)
    return contenders


def _with_block(optimizer: lamb.Lamb, size: int) -> Callable[[], object]:
    def act() -> None:
        previous, lamb_steps.BLOCK = lamb_steps.BLOCK, size
        optimizer._slices.clear()
        optimizer.step()
        lamb_steps.BLOCK = previous

    return act


class Tokens(nn.Module):
    """A loss over all tokens; what is measured is the work around it."""

    def __init__(self) -> None:
        super().__init__()
        settings = ModelSettings.model_validate({"size": "tiny"})
        self.network = build_network(network_config(settings, 4096), 0, "auto")

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.network.nezha(ids).last_hidden_state.float().square().mean()


def training_steps(precision: str, batch: int = 8, length: int = 128) -> dict[str, Callable]:
    ids = torch.randint(0, 4096, (batch, length), generator=torch.Generator().manual_seed(0))
    contenders = {"plain loop": _plain_loop(precision, ids)}
    for stage in (1, 2, 3):
        config = Config.model_validate({"engine": {"zero_stage": stage}, "optim": {"lr": 1e-6}})
        split = batch_split.Split(batch, 1, 1)
        worker = engines.initialize(Tokens(), config, split, precision)

        def act(worker=worker) -> None:
            worker.backward(worker(ids))
            worker.step()

        contenders[f"stage {stage}"] = act
    return contenders


def _plain_loop(precision: str, ids: torch.Tensor) -> Callable[[], object]:
    network, master = Tokens(), Tokens()
    if precision == "fp32":
        master = network
    else:
        network.to(engines.HALF[precision])
    optimizer = lamb.Lamb(lamb.parameter_groups(master, 0.01), lr=1e-6)

    def act() -> None:
        network.zero_grad()
        network(ids).backward()
        pairs = list(zip(network.parameters(), master.parameters(), strict=True))
        if network is not master:
            for own, parameter in pairs:
                parameter.grad = None if own.grad is None else own.grad.float()
        nn.utils.clip_grad_norm_(master.parameters(), 1.0)
        optimizer.step()
        if network is not master:
            with torch.no_grad():
                for own, parameter in pairs:
                    own.copy_(parameter)

    return act


if __name__ == "__main__":
    main()
