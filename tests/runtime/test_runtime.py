"""The runtime gives a network's logits, needs no torch, and says what is wrong in a line."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest

from ..documents.markdown import blocks
from ..kernels.networks import SHAPE, residual
from ..kernels.reference import ReferenceProgram
from .conftest import CLASSES, ROOT, built

pytestmark = pytest.mark.slow
MAIN = "import runpy; runpy.run_module('robustprune_runtime', run_name='__main__', alter_sys=True)"


def images(number: int = 5) -> np.ndarray:
    return np.random.default_rng(1).random((number, *SHAPE), np.float32)


def test_logits_are_those_of_the_network_without_torch(python, file, tmp_path):
    np.save(tmp_path / "images.npy", images())
    done = python(
        """
import numpy as np
import robustprune_runtime
model = robustprune_runtime.load(sys.argv[1], threads=2)
np.save(sys.argv[3], model(np.load(sys.argv[2])))
assert np.array_equal(model(np.load(sys.argv[2]).astype(float)), np.load(sys.argv[3]))
heavy = {"torch", "timm", "robustprune", "scipy", "pydantic"}
print(model.shape, model.classes, model.metadata["density"], heavy & sys.modules.keys())
""",
        str(file),
        str(tmp_path / "images.npy"),
        str(tmp_path / "logits.npy"),
    )
    assert done.stderr == ""
    assert done.stdout == f"{SHAPE} {CLASSES} 0.1 set()\n"
    expected = ReferenceProgram(residual(), SHAPE)(images())
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-4, atol=1e-5)


def test_images_of_another_shape_or_type_are_told(python, file):
    done = python(
        """
import numpy as np
import robustprune_runtime
model = robustprune_runtime.load(sys.argv[1])
for images in (np.zeros(model.shape), np.zeros((1, 3, 9, 8)), np.zeros((1, 3, 8, 8), np.uint8)):
    try:
        model(images)
    except ValueError as error:
        print(error)
""",
        str(file),
    )
    assert done.stdout.splitlines() == [
        "images have shape (3, 8, 8), not (N, 3, 8, 8)",
        "images have shape (1, 3, 9, 8), not (N, 3, 8, 8)",
        "images are of type uint8, not float32 in [0, 1]",
    ]


def test_the_command_classifies(python, file, tmp_path):
    logits = ReferenceProgram(residual(), SHAPE)(images())
    for shown in (images(), images()[0]):
        np.save(tmp_path / "images.npy", shown)
        done = python(MAIN, str(file), str(tmp_path / "images.npy"))
        assert (done.returncode, done.stderr) == (0, "")
        expected = logits if shown.ndim == 4 else logits[:1]
        names = [line.split()[0] for line in done.stdout.splitlines()]
        assert names == [CLASSES[answer] for answer in expected.argmax(1)]


@pytest.mark.slow
def test_the_command_measures(python, file):
    done = python(MAIN, str(file), "--bench")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["loaded", "batch", "batch"]


def test_the_command_tells_what_is_wrong_in_a_line(python, file, tmp_path):
    (tmp_path / "damaged.sparse").write_bytes(file.read_bytes()[:-1])
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    rows = [
        ((tmp_path / "none.sparse", "--bench"), "there is no file"),
        ((tmp_path / "damaged.sparse", "--bench"), "is damaged"),
        ((file, tmp_path / "none.npy"), "No such file"),
        ((file, tmp_path / "objects.npy"), "allow_pickle=False"),
    ]
    for words, message in rows:
        done = python(MAIN, *map(str, words))
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_the_wheel_holds_the_kernels_as_they_are(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for source in (ROOT / "robustprune/kernels").glob("*.py"):
            assert archive.read(f"robustprune_runtime/kernels/{source.name}") == source.read_bytes()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("robustprune/", "kernels/")) for name in names)


def test_the_license_is_that_of_the_repository():
    assert (ROOT / "runtime/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.slow
def test_a_source_distribution_builds_the_same_wheel(sources, wheel, tmp_path):
    make = "from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", make, str(tmp_path)]
    subprocess.run(command, cwd=sources, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    built(archive, tmp_path)
    (again,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(wheel) as two:
        assert set(one.namelist()) == set(two.namelist())


@pytest.mark.parametrize("page", ["runtime/README.md", "docs/how-to/runtime.md"])
def test_python_of_the_documents_runs(python, file, page):
    for block in blocks(page, "py"):
        code = f"import os; os.chdir({str(file.parent)!r})\n{block.text}"
        done = python(code)
        assert (done.returncode, done.stderr) == (0, "")
