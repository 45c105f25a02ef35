"""Make a saved model self-contained: its folder carries the code that `auto_map` names.

A reader then needs torch and transformers only, and `trust_remote_code=True`. transformers finds
files that lie side by side and import each other as `from .name import x`, so that the modules of
this package are written without their folders.
"""

import re
import sys
from pathlib import Path

from .. import AUTO_CLASSES
from ..configuration_nezha import NezhaConfig

CLASSES: dict[str, type] = {
    "AutoConfig": NezhaConfig,
    **{auto.__name__: network for auto, network in AUTO_CLASSES.items()},
}
AUTO_MAP = {
    auto: f"{one.__module__.rpartition('.')[2]}.{one.__name__}" for auto, one in CLASSES.items()
}
"""Auto class → module.class, as config.json holds it."""

RELATIVE_IMPORT = re.compile(r"^(\s*from\s+)(\.+)([\w.]+)(?=\s+import\b)", re.MULTILINE)

NAMED = """

# transformers copies the files that the text of a file imports: a folder saved from any of the
# classes can then be loaded as all of them. Nothing is imported when the code runs.
if False:
    {}
"""


def flat_code() -> dict[str, str]:
    """File name → text of every module that the classes of AUTO_MAP import, however indirectly.

    A module that defines a class of AUTO_MAP names the other such modules, so that transformers
    copies all of them when it saves a model of any of the classes.

    Raises ValueError where two modules in different folders have the same name.
    """
    waiting = [Path(str(sys.modules[one.__module__].__file__)) for one in CLASSES.values()]
    paths: dict[str, Path] = {}
    texts: dict[str, str] = {}
    while waiting:
        path = waiting.pop()
        if paths.setdefault(path.name, path) != path:
            raise ValueError(f"{path} and {paths[path.name]} need different names in an export")
        if path.name not in texts:
            text = path.read_text("utf-8")
            imports = RELATIVE_IMPORT.finditer(text)
            waiting += [_imported(path, found[2], found[3]) for found in imports]
            texts[path.name] = RELATIVE_IMPORT.sub(_flattened, text)
    modules = sorted({place.partition(".")[0] for place in AUTO_MAP.values()})
    for module in modules:
        texts[f"{module}.py"] += NAMED.format(
            "\n    ".join(f"from .{other} import *  # noqa" for other in modules if other != module)
        )
    return texts


def _imported(path: Path, dots: str, module: str) -> Path:
    """The file that `from ..module import x` in the file `path` names."""
    return path.parents[len(dots) - 1].joinpath(*module.split(".")).with_suffix(".py")


def _flattened(found: re.Match[str]) -> str:
    return f"{found[1]}.{found[3].rpartition('.')[2]}"


def write_remote_code(folder: Path | str, config: NezhaConfig) -> None:
    """Write the code into `folder`, and `config` with the entries of all classes.

    Call it after `save_pretrained`, which writes a config.json with at most one entry.
    """
    for name, text in flat_code().items():
        (Path(folder) / name).write_text(text, "utf-8")
    config.auto_map = dict(AUTO_MAP)
    config.save_pretrained(folder)
