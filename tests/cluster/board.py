"""Draw the Grafana board from a Prometheus server, where there is no Grafana.

    python -m tests.cluster.board --prometheus http://127.0.0.1:9090 --minutes 15 FILE.png

Each panel becomes a picture of what its expressions return, in the board's own layout. A panel
without data says so: the board then asks for what nobody publishes.
"""

import argparse
import json
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BOARD = Path(__file__).parents[2] / "cluster" / "grafana" / "nezha.json"
COLUMNS, POINTS = 24, 120
"""Width of Grafana's grid, and points of a curve."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=15, help="time shown, up to now")
    parser.add_argument("--run", default=".*", help="value of the board's variable `run`")
    chosen = parser.parse_args()
    board = json.loads(BOARD.read_text("utf-8"))
    panels = [panel for panel in board["panels"] if panel.get("targets")]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(14, rows / 3), layout="constrained")
    grid = figure.add_gridspec(rows, COLUMNS)
    empty = []
    for panel in panels:
        place = panel["gridPos"]
        down = slice(place["y"], place["y"] + place["h"])
        axes = figure.add_subplot(grid[down, place["x"] : place["x"] + place["w"]])
        found = [
            series
            for target in panel["targets"]
            for series in ask(chosen.prometheus, target["expr"], chosen.run, chosen.minutes)
        ]
        draw(axes, panel, found)
        if not found:
            empty.append(panel["title"])
    figure.savefig(chosen.picture, dpi=75)
    print(f"{len(panels)} panels in {chosen.picture}; without data: {', '.join(empty) or 'none'}")
    return 0


def ask(server: str, expression: str, run: str, minutes: float) -> list[dict[str, Any]]:
    """The series that an expression returns: `metric` (labels) and `values` (time, text)."""
    now = time.time()
    query = {
        "query": re.sub(r"\$\{?run\}?", run, expression),
        "start": now - 60 * minutes,
        "end": now,
        "step": max(1.0, 60 * minutes / POINTS),
    }
    url = f"{server}/api/v1/query_range?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def draw(axes: Any, panel: dict[str, Any], found: list[dict[str, Any]]) -> None:
    """Draw one panel; a panel of kind `stat` shows the last value."""
    axes.set_title(panel["title"], fontsize=9, loc="left")
    if not found:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color="gray")
    if not found or panel["type"] == "stat":
        axes.axis("off")
    for series in found:
        times, values = zip(*((t, float(v)) for t, v in series["values"]), strict=True)
        if panel["type"] == "stat":
            axes.text(0.5, 0.5, f"{values[-1]:g}", ha="center", va="center", fontsize=24)
        else:
            minutes = [(t - time.time()) / 60 for t in times]
            axes.plot(minutes, values, linewidth=1, label=name(series["metric"]))
    if found and panel["type"] != "stat":
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=6, loc="upper left")


def name(labels: dict[str, str]) -> str:
    """A metric's name without what all have, and the run or node that it is of."""
    short = re.sub("^ray_(nezha_|node_)?", "", labels.get("__name__", ""))
    return f"{short} {labels.get('run') or labels.get('ip', '')}"


if __name__ == "__main__":
    sys.exit(main())
