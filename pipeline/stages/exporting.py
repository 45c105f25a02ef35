"""The stage that makes an export of the best checkpoint and registers it."""

from pipeline.export import folder as exports
from pipeline.files.storage import read_note, write_json
from pipeline.paths import RunPaths
from pipeline.progress import Say
from pipeline.settings.config import Config
from pipeline.stages import registering
from pipeline.tracking.store import is_reachable
from pipeline.training.checkpoints import files as checkpoints


def make_export(config: Config, run_id: str | None, say: Say) -> str:
    """Export the best checkpoint (`checkpoints.best`) and register it; returns the model URI.

    An export that is up to date is registered once under each name, alias and store, and again
    where its version was deleted.

    Raises:
        TrackingError: the store fails.
    """
    paths = RunPaths.of(config)
    best = checkpoints.best(paths.checkpoints)
    marker = paths.run / "export.json"
    hashes = checkpoints.read_hashes(best)
    made = {"checkpoint": best.name, "hashes": hashes, "form": exports.FORM}
    place = registering.place_of(config) | ({} if run_id else {"store": ""})
    done = read_note(marker)
    places: list[dict[str, str]] = []
    if {key: done.get(key) for key in made} == made and paths.export.exists():
        say(f"{paths.export} is up to date")
        places = done.get("places", [])
        if place in places and (uri := _registered(config, done["model_uri"], run_id)):
            return uri
    else:
        scored = "mlm_loss" in checkpoints.read_state(best)["heldout"]
        why = "has the best held-out loss" if scored else "is the newest, as nothing is held out"
        say(f"{best.name}, which {why}, to {paths.export}")
        exports.export_checkpoint(best, paths.vocab, paths.export)
    uri = str(paths.export)
    if run_id and is_reachable(config):
        uri, note = registering.register_export(config, paths.export, run_id)
        if note:
            say(note)
    elif run_id:
        say(f"{place['store']} does not answer; jobs.export registers the export later")
        place = {}
    places += [place] if place and place not in places else []
    write_json(marker, {**made, "places": places, "model_uri": uri})
    return uri


def _registered(config: Config, noted: str, run_id: str | None) -> str | None:
    """Where the export of a run is registered; None if its version was deleted.

    It is the address that was noted where no store tells.

    Raises:
        TrackingError: the store fails, so that it is not known.
    """
    if not (run_id and config.tracking.registered_model and is_reachable(config)):
        return noted
    return registering.known_address(config, RunPaths.of(config).export, run_id)
