"""YAML as users write it: the numbers of YAML 1.2, and no key twice.

PyYAML has the numbers of YAML 1.1: 1e-3 is text, 010 is 8, 1:30 is 90, and 2026-01-02 is a date.
"""

import re
from typing import Any

import yaml

INT, FLOAT, TIME = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))
INTS = re.compile(r"[-+]?(0x[0-9a-fA-F]+|0o[0-7]+|[0-9][0-9_]*)$")
FLOATS = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?$"
    r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)


def load(text: str) -> Any:
    """The value of a text.

    Raises:
        yaml.YAMLError: it is no YAML, holds a tag of a Python object, or a key stands twice.
        ValueError: a number cannot be read.
    """
    return yaml.load(text, _Loader)


def dump(values: Any) -> str:
    """The text of a value; both versions of YAML read it alike."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if key.value in seen:
                what = f"{key.value} stands there twice; one would replace the other"
                raise yaml.composer.ComposerError(None, None, what, key.start_mark)
            seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version would read as a number or a date."""


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    digits = node.value.lstrip("+-")
    return int(node.value, 0 if digits.startswith(("0x", "0o")) else 10)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in found if tag not in (INT, FLOAT, TIME)]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _form in ((INT, INTS), (FLOAT, FLOATS)):
    _Loader.add_implicit_resolver(_tag, _form, list("-+.0123456789"))
    _Dumper.add_implicit_resolver(_tag, _form, list("-+.0123456789"))
_Loader.add_constructor(INT, _integer)
