import collections
import os
import pickle

import numpy as np
import pytest
import torch

from robustprune.artifacts.pickles import read_pickle
from robustprune.errors import UsageError
from tests.artifacts.planted import Planted

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def write(path, content, *, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@FORMATS
def test_tensors_plain_values_and_numpys_scalars_are_read(tmp_path, zipped):
    content = {
        "state_dict": collections.OrderedDict(weight=torch.arange(6.0).view(2, 3)),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "best": np.float64(51.25),
        "others": [np.float32(0.5), np.int64(3), np.bool_(True), None, 1, "text", (2.5, {"a"})],
    }
    found = read_pickle(write(tmp_path / "a.pt", content, zipped=zipped))
    assert torch.equal(found["state_dict"]["weight"], content["state_dict"]["weight"])
    assert torch.equal(found["parameter"], torch.ones(2))
    assert (found["best"], found["others"]) == (content["best"], content["others"])


@pytest.mark.parametrize("home", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_scalars_of_old_and_new_numpy_are_read(tmp_path, home):
    path = write(tmp_path / "a.pt", {"best": np.float64(1.5)}, zipped=False)
    own = np.float64(0).__reduce__()[0].__module__.encode()
    path.write_bytes(path.read_bytes().replace(own, home.encode()))
    assert home.encode() in path.read_bytes()
    assert read_pickle(path) == {"best": 1.5}


@FORMATS
def test_what_a_pickle_asks_for_is_named_and_never_done(tmp_path, zipped):
    target = tmp_path / "planted"
    path = write(tmp_path / "a.pt", {"state_dict": {}, "x": Planted(target)}, zipped=zipped)
    with pytest.raises(UsageError, match=r"refused, because it asks to call '(posix|nt)\.mkdir'"):
        read_pickle(path)
    assert not target.exists()
    torch.load(path, weights_only=False)  # it would have worked
    assert target.exists()


def test_a_plain_pickle_is_never_opened_either(tmp_path):
    target, path = tmp_path / "planted", tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(Planted(target)))
    with pytest.raises(UsageError, match=r"(?s)holds more than data \(\S.*Nothing in it was exec"):
        read_pickle(path)
    assert not target.exists()


def test_a_whole_module_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"asks to call 'torch\.nn\.modules\.linear\.Linear'"):
        read_pickle(write(tmp_path / "a.pt", torch.nn.Linear(2, 2)))


@FORMATS
@pytest.mark.parametrize("share", [0, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path, zipped, share):
    path = write(tmp_path / "a.pt", {"weight": torch.rand(1000)}, zipped=zipped)
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(UsageError, match=r"is not a whole file of torch.save"):
        read_pickle(path)
