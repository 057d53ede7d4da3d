"""The example of docs/inference.md: a program without dlrm answers the same from the files of an export."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dlrm.checkpoint.reader import open_reader
from dlrm.inference.export.write import new_export
from dlrm.inference.exported.predictor import open_predictor
from tests.support.exports import write_export
from tests.unit.inference.export.lowered import lowered
from tests.unit.inference.saved_models import random_features, save_model

SCRIPT = Path(__file__).resolve().parents[4] / "scripts" / "read_export.py"
WITHOUT_DLRM = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("dlrm", "torchrec", "fbgemm_gpu"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
for line in sys.stdin.read().splitlines():
    sys.argv = ["read_export.py", *line.split("\\t")]
    exec(compile(open({str(SCRIPT)!r}).read(), "read_export.py", "exec"), {{}})
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """By precision: what dlrm answers, and what the example does. One process, since torch starts slowly."""
    folder = tmp_path_factory.mktemp("read")
    saved = save_model(folder, '--model.tables={"cat_1": {"pooling": "mean"}}', "--model.embedding_init_bound=1.0")
    with new_export(str(folder / "fp32"), overwrite=False) as writer:
        write_export(open_reader(saved.path), writer, max_file_bytes=3000)
    features = random_features(saved.schema, 50)
    np.savez(folder / "features.npz", dense=features.dense_BN.numpy(), ids=features.ids_BS.numpy())
    precisions = ("fp32", "fp16", "int8", "int4")
    for precision in precisions[1:]:
        lowered(folder / "fp32", folder / precision, precision)
    lines = [f"{folder / name}\t{folder / 'features.npz'}\t{folder / name}.npy" for name in precisions]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_DLRM],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return {
        name: (open_predictor(folder / name).probabilities(features), np.load(folder / f"{name}.npy"))
        for name in precisions
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_the_example_answers_as_dlrm_does(precision, answers):
    expected_BT, found_BT = answers[precision]
    torch.testing.assert_close(torch.from_numpy(found_BT), expected_BT, rtol=0, atol=1e-6)
    exact_BT, _ = answers["fp32"]
    assert expected_BT.std() > 0.01
    assert precision == "fp32" or not torch.equal(expected_BT, exact_BT)
