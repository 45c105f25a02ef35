"""The part of this repository that a registered head carries, as a package of its own.

The modules are copied under another name: a program that serves a head may have a package `model`
or `pipeline` of its own. The name has a hash of the modules: Python imports a name once, so that a
program with heads of two versions of this code would run all of them with that of the first.
"""

import ast
import re
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

from pipeline.files.hashing import hash_of

ROOT = Path(__file__).parents[3]
PACKAGE = "nezha_head"
"""First part of the name of the package that the modules are copied into."""
OWN = ("model", "pipeline")
OWN_IMPORT = re.compile(rf"^(\s*(?:from|import)\s+)({'|'.join(OWN)})(?=[.\s])", re.MULTILINE)


def write_model(module: str, folder: Path) -> tuple[Path, Path]:
    """Write a script that gives MLflow the `ServedHead` of a module, and the code that it imports.

    Returns:
        the script, and the package, both in `folder`. The package holds the module, such as
        `pipeline.finetuning.prediction.served`, and all that it imports.
    """
    texts = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in modules_of(module)}
    package, script = folder / f"{PACKAGE}_{hash_of(texts)[:12]}", folder / "model.py"
    for path, text in texts.items():
        copy = package / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(OWN_IMPORT.sub(rf"\g<1>{package.name}.\g<2>", text), "utf-8")
    (package / "__init__.py").touch()
    script.write_text(
        f"import mlflow\nfrom {package.name}.{module} import ServedHead\n\n"
        "mlflow.models.set_model(ServedHead())\n",
        "utf-8",
    )
    return script, package


def modules_of(module: str) -> list[Path]:
    """Files of a module and of the modules of ours that it imports, however indirectly."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        path = _file(waiting.pop())
        if path is None or path in found:
            continue
        found.add(path)
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        waiting += [name.rpartition(".")[0], *_imported(path, name)]
    return sorted(found)


def _file(module: str) -> Path | None:
    """The file of a module of ours; None for other modules and for names in a module."""
    if module.split(".")[0] not in OWN:
        return None
    place = ROOT.joinpath(*module.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _imported(path: Path, name: str) -> Iterator[str]:
    """Modules that a file imports, and names in them, which may be modules too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
