"""Networks as MLflow models: our own file, and the name of the module that rebuilds it.

No pickle is written, and none is needed to load one with ``mlflow.pyfunc.load_model``. The files
that the recipe imports, which may define the network, come with the model as its code; modules that
it imports must be there where the model is loaded. Importing this imports MLflow.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient, pyfunc
from mlflow.entities import LoggedModelOutput, Run
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from robustprune.tracking.layout import CODE_FOLDER, CODE_IMPORTS
from robustprune.version import __version__

DATA = "data"
"""The folder of a model's artifacts that the network's file is in."""
_LOADER = "robustprune.artifacts.pyfunc"  # by name: this floor may not import that one
_NEEDED = ("mlflow", "numpy", "pydantic", "pyyaml", "safetensors", "timm", "torch", "zstandard")
_OWN = f"""\
# and robustprune {__version__}, which no package index has: install it from source,
# and load or serve the model in that environment (--env-manager local)
"""


def log_model(
    client: MlflowClient,
    run: Run,
    path: Path,
    images: Mapping[str, Any] | None,
    imports: Sequence[str],
    copies: Path,
) -> str:
    """Log the network in ``path`` as the model of ``run``, and return the model's id.

    The model has the run's parameters. Its signature is of ``images``, an entry of the datasets in
    ``results.json``; ``imports`` are the recipe's, and the files among them are in ``copies``.
    """
    run_id, network = run.info.run_id, str(run.data.tags["network"])
    logged = client.create_logged_model(
        run.info.experiment_id,
        name=re.sub(r"""[/:.%"']""", "_", network),  # MLflow takes none of these
        source_run_id=run_id,
        tags={"network": network},
        params=run.data.params,
        model_type="robustprune",
    )
    model_id: str = logged.model_id
    about = Model(run_id=run_id, model_id=model_id, model_size_bytes=path.stat().st_size)
    if images is not None:
        shapes = ((-1, *images["shape"]), (-1, images["classes"]))
        taken, given = (Schema([TensorSpec(np.dtype(np.float32), shape)]) for shape in shapes)
        about.signature = ModelSignature(inputs=taken, outputs=given)
    try:
        with tempfile.TemporaryDirectory() as draft:  # all but the network, which may be large
            code = _copy_code(imports, copies, Path(draft))
            pyfunc.add_to_model(about, loader_module=_LOADER, data=f"{DATA}/{path.name}", code=code)
            about.save(Path(draft) / "MLmodel")
            # An index has no builds such as +cpu.
            lines = [f"{name}=={version(name).partition('+')[0]}\n" for name in _NEEDED]
            (Path(draft) / "requirements.txt").write_text("".join([*lines, _OWN]), encoding="utf-8")
            client.log_model_artifacts(model_id, draft)
        client.log_model_artifact(model_id, str(path), DATA)
    except Exception:
        with suppress(Exception):  # the first error is the one to tell
            client.finalize_logged_model(model_id, "FAILED")
        raise
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    return model_id


def logged_model(client: MlflowClient, run: Run) -> str | None:
    """The id of a run's model; None if none was logged to its end."""
    outputs = run.outputs.model_outputs if run.outputs else []
    ready = (m.model_id for m in outputs if client.get_logged_model(m.model_id).status == "READY")
    return next(ready, None)


def _copy_code(imports: Sequence[str], copies: Path, model: Path) -> str | None:
    """Put what a recipe imports where the model's loader finds it; None if it imports nothing."""
    if not imports:
        return None
    folder = model / CODE_FOLDER
    folder.mkdir()
    if copies.is_dir():
        shutil.copytree(copies, folder, dirs_exist_ok=True)
    entries = [Path(name).name if name.endswith(".py") else name for name in imports]
    (folder / CODE_IMPORTS).write_text(json.dumps(entries), encoding="utf-8")
    return CODE_FOLDER
