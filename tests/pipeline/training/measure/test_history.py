import math

import pytest

from pipeline.files import journal
from pipeline.training.measure import history


def training(step: int) -> dict[str, float]:
    return {
        "step": step,
        "loss": 7.0,
        "mlm_loss": 6.3,
        "mlm_accuracy": 0.1,
        "nsp_accuracy": 0.5,
        "tokens_per_second": 12345.6,
        "seconds_left": 61.0,
    }


def test_a_resumed_run_deletes_the_records_after_its_checkpoint(tmp_path):
    for step in (10, 20, 30):
        journal.append(tmp_path / history.FILE, training(step))
    history.rewind(tmp_path, 20)
    assert [record["step"] for record in history.read(tmp_path)] == [10, 20]
    before = (tmp_path / history.FILE).stat()
    history.rewind(tmp_path, 20)  # after a stop there is nothing to delete
    assert (tmp_path / history.FILE).stat() == before


def test_a_run_without_records_has_an_empty_history(tmp_path):
    history.rewind(tmp_path, 0)
    assert history.read(tmp_path) == []


def test_the_last_losses_are_those_that_divergence_is_judged_by(tmp_path):
    assert (history.last_losses(tmp_path, 3), history.newest(tmp_path)) == ([], None)
    for step in range(1, 8):
        loss = math.nan if step == 6 else float(step)
        journal.append(tmp_path / history.FILE, {"step": step, "loss": loss})
        journal.append(tmp_path / history.FILE, {"step": step, "heldout_loss": 1.0})
    assert history.last_losses(tmp_path, 3) == [(4, 4.0), (5, 5.0), (7, 7.0)]
    assert history.newest(tmp_path, "lo") == {"step": 7, "loss": 7.0}
    assert history.read(tmp_path, "heldout_loss", "lr")[-1] == {"step": 7, "heldout_loss": 1.0}


def test_progress_lines():
    line = history.progress_line(training(10), 100)
    assert line == (
        "step 10/100 · loss 7.000 · MLM 6.300 (10.0%) · NSP 50.0% · 12,346 tokens/s · 1:01 left"
    )
    held_out = {"step": 10, "heldout_mlm_loss": 6.0, "heldout_mlm_accuracy": 0.12}
    line = "step 10/100 · held-out MLM 6.000 · accuracy 12.0%"
    assert history.progress_line(held_out, 100) == line
    profiled = {key: value for key, value in training(10).items() if "second" not in key}
    expected = "step 10/100 · loss 7.000 · MLM 6.300 (10.0%) · NSP 50.0%"
    assert history.progress_line(profiled, 100) == expected
    words = held_out | {"heldout_word_accuracy": 0.07}
    assert history.progress_line(words, 100) == f"{line}, of words 7.0%"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "0:05"), (754, "12:34"), (3661, "1:01:01"), (1e6, "11 days, 13:46:40")],
)
def test_the_time_that_is_left_has_hours_and_days(seconds, text):
    line = history.progress_line(training(10) | {"seconds_left": seconds}, 100)
    assert line.endswith(f" · {text} left")


def test_only_rank_0_writes(tmp_path):
    for rank in (1, 0):
        recorder = history.Recorder(rank, tmp_path / str(rank), 0, None)
        recorder.write(5, {"loss": 1.0})
        recorder.close()
    assert history.read(tmp_path / "0") == [{"step": 5, "loss": 1.0}]
    assert not (tmp_path / "1").exists()


def test_records_wait_for_a_storage_that_is_full(tmp_path, monkeypatch):
    """As while a checkpoint fills it, and is tried again beside the training."""
    recorder = history.Recorder(0, tmp_path, 0, None)
    extend, answers = journal.extend, iter([False, False, True])

    def fail_twice(path, records):
        if not next(answers):
            raise OSError(28, "No space left on device")
        extend(path, records)

    monkeypatch.setattr(journal, "extend", fail_twice)
    for step in (10, 20):
        recorder.write(step, {"loss": 1.0})
    assert history.read(tmp_path) == []
    recorder.close()
    assert [record["step"] for record in history.read(tmp_path)] == [10, 20]
