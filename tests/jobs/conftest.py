"""Settings that a verb reads are in its list: others are told to have no effect."""

import sys

import pytest

from jobs import command
from pipeline.settings.base import Settings
from tests.pipeline.finetuning.conftest import export  # noqa: F401

READ_ALL = ("pipeline.settings", "pipeline.paths", "jobs.command", "tests.")
"""Modules that read settings which the verb may not need: checks, all paths, the help text."""


@pytest.fixture(autouse=True)
def _lists_are_complete(monkeypatch):
    """Notes what a verb reads of its settings, and of copies of them, in this process."""
    known, verbs, unlisted = {}, [], set()

    def note(group, prefix):
        known[id(group)] = group, prefix
        for name, value in vars(group).items():
            if isinstance(value, Settings):
                note(value, f"{prefix}{name}.")
        return group

    def read(self, name):
        value = object.__getattribute__(self, name)
        _, prefix = known.get(id(self), (None, None))
        if prefix is None or name not in type(self).model_fields or isinstance(value, Settings):
            return value
        reader = sys._getframe(1).f_globals["__name__"]
        if not reader.startswith(READ_ALL) and not command.reads(verbs[-1], prefix + name):
            unlisted.add(f"{verbs[-1].help[:30]}…: {prefix}{name}, which {reader} reads")
        return value

    def copy(self, **named):
        made = model_copy(self, **named)
        return note(made, known[id(self)][1]) if id(self) in known else made

    load, tell, model_copy = command.load_config, command._tell_unread, Settings.model_copy
    monkeypatch.setattr(command, "load_config", lambda *given: note(load(*given), ""))
    monkeypatch.setattr(
        command, "_tell_unread", lambda verb, given: verbs.append(verb) or tell(verb, given)
    )
    monkeypatch.setattr(Settings, "model_copy", copy)
    monkeypatch.setattr(Settings, "__getattribute__", read, raising=False)
    yield
    monkeypatch.undo()
    assert not unlisted
