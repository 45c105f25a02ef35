"""What a recipe learns for each minute of computing, against plain transformers.

    python -m tests.benchmarks.learning FOLDER [--minutes 8] [--threads 2]
    python -m tests.benchmarks.learning FOLDER --config FILE --minutes 2 --prepare   # without a GPU
    python -m tests.benchmarks.learning FOLDER --config FILE --minutes 2 --peer-lr 4e-4   # with one
    python -m tests.benchmarks.learning FOLDER --config FILE --minutes 2 --sides ours \
        --set train.init_from=EXPORT train.init_adapt=true

Both train on the same corpus, with the same vocabulary, threads and size of the network. Ours
runs with the settings of `--config` and `--set`: its objective, masks, optimizer and loop. The peer
is a BertForMaskedLM of the same size, trained by transformers' Trainer with its AdamW, its linear
schedule and its collator (15 % of the tokens, each alone), on samples of one segment; `--peer-lr`
sets its rate. Each run ends after the given minutes, which its schedule knows. Held-out loss is
that of the same samples of one segment with the same whole-word masks, in nats for each masked
token. Minutes are CPU time of the whole training process, without its start and the evaluations. On
a GPU, where the peer trains in bf16, they are minutes of the clock.

Runs that are there are kept, so the command goes on after an interruption. It prints the curves and
writes them to `FOLDER/learning.json` and `FOLDER/learning.png`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from pipeline.corpus.shards.reader import ShardFolder
from pipeline.feed.batches import heldout, open_folder
from pipeline.feed.unigram import unigram_loss
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import load_config
from pipeline.training import loop
from pipeline.training.start.network import network_config
from tests.small_run import fit

SAMPLES, MICRO_BATCH = 1024, 16
"""Held-out samples, and those of one forward pass."""
PROBE_STEPS = 200
"""Steps that tell how many fit the minutes."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
UNIT = "CPU minutes" if DEVICE == "cpu" else "minutes on a GPU"


def now() -> float:
    """CPU seconds of this process, threads included; with a GPU seconds of the clock."""
    if DEVICE == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class Clock:
    """Time, without what is done while it is stopped."""

    def __init__(self) -> None:
        self._apart, self._started = 0.0, now()

    def minutes(self) -> float:
        return (now() - self._started - self._apart) / 60

    def without(self, action: Callable[[], Any]) -> Any:
        """What the action returns; its time does not count."""
        before = now()
        result = action()
        self._apart += now() - before
        return result


def settings(chosen: argparse.Namespace, name: str, *overrides: str) -> Config:
    """The configuration with a run folder of its own, and the common files."""
    folder = chosen.folder
    return load_config(
        chosen.config,
        [
            f"run.storage={folder}",
            f"run.name={name}",
            f"corpus.vocab={vocabulary(chosen)}",
            f"train.shards=[{folder / 'pairs' / 'shards'}]",
            f"train.eval_shards={folder / 'single' / 'heldout'}",
            f"train.eval_samples={SAMPLES}",
            f"scaling={{cpus_per_worker: {chosen.threads}}}",
            "train.profile_every=0",
            *chosen.set,
            *overrides,
        ],
    )


def vocabulary(chosen: argparse.Namespace) -> str:
    """The one that the configuration names, or else that of the prepared corpus."""
    return load_config(chosen.config).corpus.vocab or str(chosen.folder / "pairs" / "vocab.txt")


def prepare(chosen: argparse.Namespace) -> None:
    """The corpus as the recipe has it, and one of single segments with the same vocabulary."""
    vocab = vocabulary(chosen)
    single = ["corpus.pairs={task: none, dupe_factor: 1}", f"corpus.vocab={vocab}"]
    single += ["corpus.masking={mode: dynamic}"]
    for name, own in (("pairs", []), ("single", single)):
        if not (chosen.folder / name / "shards" / "manifest.json").exists():
            command = [sys.executable, "-m", "jobs.prepare", "--config", chosen.config]
            place = [f"run.storage={chosen.folder}", f"run.name={name}"]
            subprocess.run([*command, *place, *own], check=True)


def train_ours(chosen: argparse.Namespace, steps: int, name: str) -> list[list[float]]:
    """CPU minutes and held-out losses of this project's loop."""
    every = max(1, steps // chosen.points)
    config = settings(
        chosen,
        name,
        f"train.steps={steps}",
        f"train.eval_every={every}",
        f"train.checkpoint_every={steps}",
    )
    points, clock = [], Clock()
    optimizer_step, evaluate = loop._optimizer_step, loop.evaluate

    def first_step(*arguments: Any) -> Any:
        nonlocal clock
        clock, loop._optimizer_step = Clock(), optimizer_step
        return optimizer_step(*arguments)

    def timed(*arguments: Any) -> dict[str, float]:
        minutes = clock.minutes()
        scores = clock.without(lambda: evaluate(*arguments))
        points.append([minutes, scores["mlm_loss"]])
        return scores

    loop._optimizer_step, loop.evaluate = first_step, timed
    fit(config)
    return points


def train_peer(chosen: argparse.Namespace, steps: int, name: str) -> list[list[float]]:
    """CPU minutes and held-out losses of transformers' BERT, Trainer and collator."""
    import transformers

    config = settings(chosen, name)
    reader = ShardFolder(str(chosen.folder / "single" / "shards"))
    shape = network_config(config.model, reader.manifest.vocab_size)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    dropout = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    torch.manual_seed(config.run.seed)
    torch.set_num_threads(chosen.threads)
    network = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=shape.vocab_size, **{key: getattr(shape, key) for key in (*names, *dropout)}
        )
    )
    vocab = Path(config.corpus.vocab).read_text("utf-8").split("\n")
    tokens = {token: number for number, token in enumerate(vocab) if token}
    rows = reader.rows(np.arange(len(reader)), words=False, masks=False)
    data = [
        {"input_ids": ids[:length].tolist()}
        for ids, length in zip(rows.input_ids, rows.lengths, strict=True)
    ]
    folder = RunPaths.of(config).heldout
    batches = list(heldout(str(folder), MICRO_BATCH, SAMPLES, 0, 1))
    every, points, clock = max(1, steps // chosen.points), [], Clock()

    def evaluate() -> float:
        network.eval()
        total = 0.0
        with torch.no_grad():
            for batch in batches:
                given = (
                    *(batch.input_ids, batch.token_type_ids, batch.attention_mask),
                    batch.labels,
                )
                ids, types, mask, labels = (torch.from_numpy(x).to(DEVICE) for x in given)
                logits = network(input_ids=ids, token_type_ids=types, attention_mask=mask).logits
                total += float(
                    F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
                )
        network.train()
        return total / sum(len(batch.masked_labels) for batch in batches)

    class Points(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            nonlocal clock
            clock = Clock()

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step % every == 0 or state.global_step == steps:
                minutes = clock.minutes()
                points.append([minutes, clock.without(evaluate)])

    trainer = transformers.Trainer(
        network,
        transformers.TrainingArguments(
            output_dir=str(RunPaths.of(config).run / "trainer"),
            max_steps=steps,
            per_device_train_batch_size=config.train.global_batch,
            learning_rate=chosen.peer_lr,
            warmup_steps=round(0.05 * steps),
            weight_decay=0.01,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=DEVICE == "cpu",
            bf16=DEVICE != "cpu",
            seed=config.run.seed,
        ),
        data_collator=transformers.DataCollatorForLanguageModeling(
            transformers.BertTokenizer(vocab=tokens), mlm_probability=0.15
        ),
        train_dataset=data,
        callbacks=[Points()],
    )
    trainer.train()
    return points


SIDES = {"ours": train_ours, "transformers": train_peer}
LABELS = {"ours": "NEZHA, our recipe", "transformers": "BERT, transformers' Trainer"}


def curve(chosen: argparse.Namespace, side: str) -> list[list[float]]:
    """A side's curve, from a process of its own; a probe of some steps tells how many fit."""
    file = chosen.folder / f"{side}-{chosen.minutes:g}.json"
    if not file.exists():
        (half, _), (whole, _), *_ = _in_process(chosen, side, PROBE_STEPS, "probe", points=2)
        rest = (chosen.minutes - half) / (whole - half)  # the first steps are slower
        steps = max(chosen.points, round((1 + rest) * PROBE_STEPS / 2))
        points = _in_process(chosen, side, steps, f"{chosen.minutes:g}", chosen.points)
        file.write_text(json.dumps(points))
    return json.loads(file.read_text())


def _in_process(
    chosen: argparse.Namespace, side: str, steps: int, kind: str, points: int
) -> list[list[float]]:
    command = [sys.executable, "-m", "tests.benchmarks.learning", str(chosen.folder)]
    for name in ("config", "threads", "peer_lr"):
        command += [f"--{name.replace('_', '-')}", str(getattr(chosen, name))]
    command += ["--points", str(points), "--side", side, "--steps", str(steps)]
    command += ["--set", *chosen.set]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    environment |= {"OMP_NUM_THREADS": str(chosen.threads)}
    command += ["--name", f"{side}-{kind}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", default="jobs/configs/demo.yaml")
    parser.add_argument("--minutes", type=float, default=8.0, help=f"{UNIT} of each side")
    parser.add_argument("--prepare", action="store_true", help="the corpora alone, which need Ray")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--points", type=int, default=10, help="evaluations of a run")
    parser.add_argument("--peer-lr", type=float, default=1e-3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[*SIDES])
    parser.add_argument("--set", nargs="*", default=[], help="settings over those of --config")
    parser.add_argument("--side", choices=SIDES, help="used by the command itself")
    parser.add_argument("--steps", type=int, help="used by the command itself")
    parser.add_argument("--name", help="used by the command itself")
    chosen = parser.parse_args()
    chosen.folder = chosen.folder.absolute()
    if chosen.side:
        print(json.dumps(SIDES[chosen.side](chosen, chosen.steps, chosen.name)))
        return
    prepare(chosen)
    if chosen.prepare:
        return
    curves = {side: curve(chosen, side) for side in chosen.sides}
    single = chosen.folder / "single"
    batches = heldout(str(single / "heldout"), MICRO_BATCH, SAMPLES, 0, 1)
    reference = unigram_loss(open_folder(str(single / "shards")), batches)
    table = Table("", UNIT, "loss", title="Held-out loss, nats a masked token")
    for side, points in curves.items():
        for minutes, loss in points:
            table.add_row(side, f"{minutes:.2f}", f"{loss:.3f}")
    Console().print(table)
    Console().print(f"token frequencies alone: {reference:.3f}")
    (chosen.folder / "learning.json").write_text(json.dumps(curves | {"unigram": reference}))
    _draw(curves, reference, chosen.folder / "learning.png")


def _draw(curves: dict[str, list[list[float]]], reference: float, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel=UNIT, ylabel="held-out masked-token loss (nats)")
    for side, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=LABELS[side])
    axes.axhline(reference, color="gray", linestyle=":", label="token frequencies alone")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
