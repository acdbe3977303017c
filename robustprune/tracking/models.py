"""Networks as MLflow models: our own file, and the name of the module that rebuilds it.

No pickle is written, and none is needed to load one:

    mlflow.set_tracking_uri("sqlite:///runs/mlflow.db")
    model = mlflow.pyfunc.load_model("models:/m-…")   # its page in the UI has the id
    logits = model.predict(images)                    # float32, (n, c, h, w) in [0, 1]

What the recipe imports, which may define the network, comes with the model as its code.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune.tracking.code import FOLDER, copy_code, requirements
from robustprune.tracking.layout import param_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.models import ModelSignature

_DATA = "data"
_LOADER = "robustprune.artifacts.pyfunc"  # by name: this floor may not import that one


def log_model(
    client: MlflowClient,
    run: Run,
    path: Path,
    *,
    params: Mapping[str, Any],
    shape: Sequence[int] | None,
    classes: int | None,
    imports: Sequence[str] = (),
    folder: Path,
) -> str:
    """Log the network in ``path`` as the model of ``run``, and return the model's id.

    Args:
        client: of the store.
        run: the network's.
        path: its ``model.safetensors``.
        params: what the model is shown with.
        shape: ``(channels, height, width)`` of an image; no signature if None.
        classes: the number of logits.
        imports: what the recipe imports; its code is logged with the model.
        folder: the run's, which has the code.
    """
    from mlflow.entities import LoggedModelOutput

    run_id = run.info.run_id
    logged = client.create_logged_model(
        run.info.experiment_id,
        name=model_name(str(run.info.run_name)),
        source_run_id=run_id,
        tags={"network": str(run.info.run_name)},
        params={key: param_text(value) for key, value in params.items()},
        model_type="robustprune",
    )
    model_id: str = logged.model_id
    try:
        with tempfile.TemporaryDirectory() as draft:
            needed = copy_code(imports, folder, Path(draft))
            _describe(Path(draft), path, run_id, model_id, _signature(shape, classes))
            (Path(draft) / "requirements.txt").write_text(requirements(needed), encoding="utf-8")
            client.log_model_artifacts(model_id, draft)
        client.log_model_artifact(model_id, str(path), _DATA)
    except Exception:
        with suppress(Exception):  # the first error is the one to tell
            client.finalize_logged_model(model_id, "FAILED")
        raise
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    return model_id


def model_name(network: str) -> str:
    """What a network's model is called; MLflow takes none of these characters."""
    return re.sub(r"""[/:.%"']""", "_", network)


def model_file(name: str) -> str:
    """Where the network's file ``name`` is in its model's artifacts."""
    return f"{_DATA}/{name}"


def logged_model(client: MlflowClient, run: Run) -> str | None:
    """The id of a run's model; None if none was logged to its end."""
    outputs = run.outputs.model_outputs if run.outputs else []
    ready = (m.model_id for m in outputs if client.get_logged_model(m.model_id).status == "READY")
    return next(ready, None)


def _describe(
    folder: Path, path: Path, run_id: str, model_id: str, signature: ModelSignature | None
) -> None:
    """Write all of the model's artifacts but the network itself, which may be large."""
    from mlflow import pyfunc
    from mlflow.models import Model

    size = path.stat().st_size
    model = Model(run_id=run_id, model_id=model_id, signature=signature, model_size_bytes=size)
    code = {"code": FOLDER} if (folder / FOLDER).exists() else {}
    pyfunc.add_to_model(model, loader_module=_LOADER, data=model_file(path.name), **code)
    model.save(folder / "MLmodel")


def _signature(shape: Sequence[int] | None, classes: int | None) -> ModelSignature | None:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    if not shape or not classes:
        return None
    images = TensorSpec(np.dtype(np.float32), (-1, *shape), name=None)
    logits = TensorSpec(np.dtype(np.float32), (-1, classes), name=None)
    return ModelSignature(inputs=Schema([images]), outputs=Schema([logits]))
