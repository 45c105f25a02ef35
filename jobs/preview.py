"""Show samples of a corpus: `python -m jobs.preview --config F [preview.samples=N …]`."""

from rich.console import Console

from jobs.command import Verb, main
from jobs.output import samples
from jobs.output.tables import table
from pipeline.corpus.run.origins import origins_of
from pipeline.corpus.shards import preview, report, report_page
from pipeline.corpus.shards.reader import flat_pairs
from pipeline.feed.batches import open_folder
from pipeline.feed.weights import split_weights
from pipeline.paths import RunPaths
from pipeline.runs import run_in_store
from pipeline.settings.config import Config


def plan(config: Config) -> dict[str, object]:
    paths = RunPaths.of(config)
    return {
        "read": ", ".join(_folders(config)),
        "show": f"{config.preview.samples} samples",
        "write": paths.run / "report" / "report.html",
    }


def execute(config: Config, console: Console) -> None:
    paths = RunPaths.of(config)
    reader = open_folder(*_folders(config))
    tokens = preview.read_tokens(paths.vocab, reader.manifest)
    numbers = preview.choose_samples(config.preview.samples, len(reader), config.run.seed)
    rows = reader.rows(numbers)
    pairs = flat_pairs(rows)
    masks = preview.masks_of(rows, pairs, numbers, reader.manifests, config)
    origins = origins_of(reader, numbers, pairs.documents)
    console.print(samples.LEGEND)
    for row, number in enumerate(numbers.tolist()):
        console.print()
        place = origins.get(int(pairs.documents[row]), "its file was not found")
        maskable = reader.manifest.maskable
        sample = samples.show_sample(pairs, masks, row, number, tokens, maskable, place)
        console.print(sample)
    measured = report.corpus_report(reader, tokens, config.preview.measured)
    page = report_page.write_report(measured, paths.run / "report")
    for path in page.parent.iterdir():
        run_in_store.upload(config, path)
    console.print(table("Corpus", report_page.summary(measured)))
    for manifest in reader.manifests:
        for warning in manifest.warnings:
            console.print(f"warning: {warning}")
    console.print(f"Report: {page}")


def _folders(config: Config) -> list[str]:
    return split_weights(RunPaths.of(config).training)[0]


VERB = Verb(
    help=(
        "Show samples of the run's corpus in the terminal, with words, masks, replacements, label\n"
        "and source document, and write a report on the corpus: report.html and report.json."
    ),
    groups=(
        *("run", "preview", "train.shards", "corpus.output", "corpus.vocab", "corpus.masking"),
    ),
    plan=plan,
    execute=execute,
    reads_only=True,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
