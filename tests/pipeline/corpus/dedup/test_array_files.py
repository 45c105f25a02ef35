"""Arrays in files."""

from pathlib import Path

import numpy as np

from pipeline.corpus.dedup.array_files import map_array, write_array


def test_an_array_is_mapped_as_all_mounts_allow(tmp_path):
    """A preparation with held-out text ended with `No such device` on some mounts (FUSE, 9p)."""
    path = tmp_path / "numbers.npy"
    write_array(str(path), np.arange(3))
    array = map_array(str(path))
    (rights,) = (
        line.split()[1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(path))
    )
    assert rights.endswith("p")  # private
    assert array.tolist() == [0, 1, 2]
