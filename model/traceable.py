"""Modules whose traces can be saved and loaded."""


class Traceable:
    """A module that TorchScript calls by this name, wherever the code of its class lies.

    transformers imports the code of an export from a folder named after a hash. A name that begins
    with a digit, or has a `-`, can be written to a saved trace but not read from it.
    """

    _jit_override_qualname = "__torch__.nezha.Module"
