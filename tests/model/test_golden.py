"""Every output, gradient and training step against transformers 4.40.2 (see make_golden.py)."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import model as nezha

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # make_golden.py imports these by their bare names, too

from golden_cases import CASES, CONFIG, GRADIENTS, TRAJECTORY, Case  # noqa: E402
from golden_run import flat_outputs, gradients, load_weights, tensors, trajectory  # noqa: E402

BY_NAME = {case.name: case for case in CASES}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(HERE / "golden" / "outputs.npz") as stored:
        return dict(stored)


def build(case: Case, attention: str) -> Any:
    config = nezha.NezhaConfig(**(CONFIG | case.config), attn_implementation=attention)
    return load_weights(getattr(nezha, case.head)(config).eval())


def under(golden: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:next_sentence_label", "ignore:NezhaForMaskedLM")
def test_outputs(case: Case, attention: str, golden: dict[str, np.ndarray]) -> None:
    model = build(case, attention)
    with torch.no_grad():
        found = flat_outputs(model(**tensors(case.arguments())))
    expected = under(golden, f"outputs/{case.name}/")
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], **CLOSE, err_msg=name)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name: str, attention: str, golden: dict[str, np.ndarray]) -> None:
    found = gradients(build(BY_NAME[name], attention), BY_NAME[name])
    expected = under(golden, f"gradients/{name}/")
    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], **CLOSE, err_msg=key)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_ten_steps_of_training(attention: str, golden: dict[str, np.ndarray]) -> None:
    found = trajectory(build(TRAJECTORY[0], attention), TRAJECTORY)
    expected = under(golden, "trajectory/")
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(found["losses"], expected["losses"], **CLOSE)
    for name in expected:
        # A key bias shifts all scores of a query alike: its gradient is rounding noise, which
        # Adam scales up to full steps.
        if not name.endswith("self.key.bias"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:NezhaForMaskedLM")
def test_state_dict_keys_and_shapes(case: Case, golden: dict[str, np.ndarray]) -> None:
    state = build(case, "eager").state_dict()
    found = sorted(f"{name} {tuple(value.shape)}" for name, value in state.items())
    assert found == golden[f"state/{case.name}"].tolist()
