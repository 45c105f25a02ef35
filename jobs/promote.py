"""Make a registered version the champion: `python -m jobs.promote promote.version=3`."""

from rich.console import Console

from jobs.command import Verb, main
from pipeline.settings.config import Config
from pipeline.tracking.store import shown_uri
from pipeline.tracking.versions import CHAMPION, promote


def plan(config: Config) -> dict[str, object]:
    chosen = config.promote
    return {f"make {CHAMPION}": f"{chosen.model}/{chosen.version}", "in": shown_uri(config)}


def execute(config: Config, console: Console) -> None:
    made, before = promote(config, config.promote.model, str(config.promote.version))
    text = f"models:/{config.promote.model}@{CHAMPION} is version {made}"
    console.print(f"{text}; it was version {before}" if before else text)


VERB = Verb(
    help=(
        "Move the alias `champion` to a version of a registered model, whatever its scores are.\n"
        "A better version on the same held-out data gets it by itself."
    ),
    groups=("promote", "run.storage", "tracking.uri"),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
