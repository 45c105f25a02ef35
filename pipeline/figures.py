"""Figures of matplotlib as text."""

import io

from matplotlib.figure import Figure


def svg_of(figure: Figure) -> str:
    """A figure as an SVG element, to be put into an HTML page."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return "<svg" + out.getvalue().partition("<svg")[2]
