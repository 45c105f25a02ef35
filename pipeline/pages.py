"""Pages of HTML."""

from importlib import resources
from typing import Any

import jinja2


def page_of(package: str, template: str, **values: Any) -> str:
    """A page from a template of Jinja that lies in the folder of a package."""
    text = resources.files(package).joinpath(template).read_text("utf-8")
    return jinja2.Environment(autoescape=True).from_string(text).render(values)
