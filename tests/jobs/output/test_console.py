"""Text of users is printed as it is, whatever stands in it."""

import io

import pytest

from jobs.output.console import plain_console
from jobs.output.progress import ConsoleProgress
from jobs.output.tables import table

LIKE_MARKUP = ["a[-b]*.txt", "[/quote]以上内容", "runs[v2]", "[bold]x[/bold]", ":100:", "[link=x"]


@pytest.mark.parametrize("text", LIKE_MARKUP)
def test_text_that_looks_like_markup_is_printed_as_it_is(text):
    console = plain_console(file=io.StringIO(), force_terminal=False, width=80)
    console.print(text)
    console.print(table(text, {text: text}))
    progress = ConsoleProgress(console)
    progress.say(text)
    progress.stage(text)
    assert console.file.getvalue().count(text) == 6


@pytest.mark.parametrize("text", LIKE_MARKUP)
def test_a_live_line_too(text):
    console = plain_console(file=io.StringIO(), force_terminal=True, width=80)
    progress = ConsoleProgress(console)
    progress.update(text, text)
    progress.close()
    assert f"{text}: {text}" in console.file.getvalue()
