"""Imports run one way, and the corpus side stays free of torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# These import nothing of ours. All of pipeline may import them, and `pipeline.files`.
LEAVES = (
    "pipeline.background",
    "pipeline.cluster.interfaces",
    "pipeline.cpu",
    "pipeline.errors",
    "pipeline.figures",
    "pipeline.labels",
    "pipeline.pages",
    "pipeline.passwords",
    "pipeline.precision",
    "pipeline.progress",
    "pipeline.tables",
)
# Each package may import itself, the leaves, `pipeline.files` and what stands here.
ALLOWED = {
    "pipeline.files": (),
    "pipeline.settings": (),
    "pipeline.paths": ("pipeline.settings",),
    "pipeline.doctor": (
        "pipeline.cluster.ray_cluster",
        "pipeline.corpus.shards",
        "pipeline.feed.opening",
        "pipeline.paths",
        "pipeline.settings",
        "pipeline.tracking",
    ),
    "pipeline.runs.store_copy": (),
    "pipeline.runs.named_model": (
        "pipeline.paths",
        "pipeline.runs.store_copy",
        "pipeline.settings",
        "pipeline.tracking.registry",
        "pipeline.tracking.store",
    ),
    "pipeline.runs.run_in_store": (
        "pipeline.paths",
        "pipeline.runs.store_copy",
        "pipeline.settings",
    ),
    "pipeline.cluster.ray_cluster": ("pipeline.settings",),
    "pipeline.cluster.remote_disk": (
        "pipeline.cluster.ray_cluster",
        "pipeline.paths",
    ),
    "pipeline.cluster.remote_files": ("pipeline.cluster.remote_disk",),
    "pipeline.cluster.peers": (),
    "pipeline.cluster.groups": ("pipeline.cluster.peers", "pipeline.cluster.ray_cluster"),
    "pipeline.cluster.calls": (
        "pipeline.cluster.groups",
        "pipeline.cluster.peers",
        "pipeline.cluster.ray_cluster",
        "pipeline.cluster.remote_disk",
        "pipeline.cluster.remote_files",
        "pipeline.settings",
    ),
    "pipeline.tracking": (
        "model",
        "pipeline.settings",
    ),
    "pipeline.corpus": (
        "pipeline.cluster.ray_cluster",
        "pipeline.cluster.remote_disk",
        "pipeline.cluster.remote_files",
        "pipeline.settings",
    ),
    "pipeline.feed": (
        "pipeline.corpus",
        "pipeline.paths",
        "pipeline.settings",
    ),
    "pipeline.training": (
        "model",
        "pipeline.cluster.ray_cluster",
        "pipeline.cluster.remote_disk",
        "pipeline.cluster.remote_files",
        "pipeline.corpus.randomness",
        "pipeline.corpus.samples.vocabulary",
        "pipeline.corpus.shards",
        "pipeline.doctor",
        "pipeline.feed",
        "pipeline.paths",
        "pipeline.runs.named_model",
        "pipeline.settings",
        "pipeline.tracking",
    ),
    "pipeline.finetuning": (
        "model",
        "pipeline.cluster.calls",
        "pipeline.cluster.peers",
        "pipeline.cluster.ray_cluster",
        "pipeline.cluster.remote_disk",
        "pipeline.cluster.remote_files",
        "pipeline.corpus.decoding",
        "pipeline.export.lineage",
        "pipeline.export.tokenizer",
        "pipeline.settings",
    ),
    "pipeline.finetuning.examples": (
        "pipeline.corpus.decoding",
        "pipeline.finetuning.submission",
        "pipeline.finetuning.tasks",
        "pipeline.settings",
    ),
    "pipeline.sample": ("pipeline.corpus",),
    "pipeline.export": (
        "model",
        "pipeline.corpus",
        "pipeline.feed",
        "pipeline.paths",
        "pipeline.settings",
        "pipeline.training",
    ),
    "pipeline.sizing": (
        "model",
        "pipeline.cluster.ray_cluster",
        "pipeline.corpus.shards",
        "pipeline.feed",
        "pipeline.paths",
        "pipeline.settings",
        "pipeline.training",
    ),
    "pipeline.comparing": (
        "model",
        "pipeline.cluster.calls",
        "pipeline.corpus.shards",
        "pipeline.export",
        "pipeline.feed",
        "pipeline.finetuning",
        "pipeline.paths",
        "pipeline.runs.named_model",
        "pipeline.settings",
        "pipeline.tracking",
        "pipeline.training",
    ),
    "pipeline.runs": (
        "pipeline.feed",
        "pipeline.paths",
        "pipeline.settings",
        "pipeline.tracking.pictures",
        "pipeline.training",
    ),
    "pipeline": ("model",),
    "jobs": (
        "model",
        "pipeline",
    ),
}
RULES = (
    {package: (*others, *LEAVES, "pipeline.files") for package, others in ALLOWED.items()}
    | dict.fromkeys(LEAVES, ())
    | {"model": (), "pipeline.errors": ("pipeline.passwords",)}
)


def modules():
    for package in ("jobs", "pipeline", "model"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imported(path: Path, name: str):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name if path.name == "__init__.py" else name.rpartition(".")[0]
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1] + ([base] if base else []))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: str(value))
def test_imports_run_one_way(name, path):
    package = max((rule for rule in RULES if within(name, rule)), key=len)
    stray = [
        target
        for target in imported(path, name)
        if target.split(".")[0] in ("jobs", "pipeline", "model")
        and not any(within(target, allowed) for allowed in (package, *RULES[package]))
    ]
    assert not stray, f"{name} must not import {stray}"


def test_corpus_and_settings_load_without_torch():
    names = [name for name, _ in modules() if within(name, "pipeline.corpus")]
    code = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
