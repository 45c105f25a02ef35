"""Write golden/outputs.npz: what transformers 4.40.2 computes for the cases of golden_cases.py.

transformers 4.40.2 is the last release that maintained Nezha. It lives in its own environment:

    python3.11 -m venv /tmp/nezha-4.40
    /tmp/nezha-4.40/bin/pip install torch==2.13.0 transformers==4.40.2
    /tmp/nezha-4.40/bin/python tests/model/make_golden.py
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from golden_cases import CASES, CONFIG, GRADIENTS, TRAJECTORY, Case
from golden_run import flat_outputs, gradients, load_weights, tensors, trajectory

TARGET = Path(__file__).parent / "golden" / "outputs.npz"


def build(case: Case) -> Any:
    config = transformers.NezhaConfig(**(CONFIG | case.config))
    return load_weights(getattr(transformers, case.head)(config).eval())


def main() -> None:
    if transformers.__version__ != "4.40.2":
        raise SystemExit(f"this needs transformers 4.40.2, not {transformers.__version__}")
    torch.set_num_threads(1)
    found: dict[str, np.ndarray] = {}
    # NezhaForMultipleChoice of that release prints shapes.
    with contextlib.redirect_stdout(io.StringIO()):
        for case in CASES:
            model = build(case)
            with torch.no_grad():
                outputs = model(**tensors(case.arguments()))
            for name, value in flat_outputs(outputs).items():
                found[f"outputs/{case.name}/{name}"] = value
            if case.name in GRADIENTS:
                for name, value in gradients(model, case).items():
                    found[f"gradients/{case.name}/{name}"] = value
            shapes = [f"{k} {tuple(v.shape)}" for k, v in model.state_dict().items()]
            found[f"state/{case.name}"] = np.array(sorted(shapes))
        for name, value in trajectory(build(TRAJECTORY[0]), TRAJECTORY).items():
            found[f"trajectory/{name}"] = value
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(TARGET, **found)
    print(f"{len(found)} arrays, {TARGET.stat().st_size} bytes in {TARGET}")


if __name__ == "__main__":
    main()
