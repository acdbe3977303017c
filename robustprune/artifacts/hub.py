"""Networks in folders as the Hugging Face hub has them: a file, a config and a model card.

huggingface_hub, which timm brings along, does the work: `HubModel` is its mixin.
"""

from __future__ import annotations

from collections.abc import Mapping
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
from torch import Tensor, nn

from robustprune.artifacts import backends
from robustprune.artifacts.backends import timm
from robustprune.artifacts.card import card_of, title
from robustprune.artifacts.reading import read_model
from robustprune.artifacts.saved import SavedModel
from robustprune.artifacts.sizes import kept_weights
from robustprune.errors import UsageError, first_line
from robustprune.families import metric_of
from robustprune.files import write_json

FORMATS = ("packed", "dense", "timm")
"""Backends of which a hub's ``model.safetensors`` may be."""

_FILE = "model.safetensors"


class HubModel(ModelHubMixin):
    """A network with ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    Args:
        saved: the network, as `robustprune.artifacts.reading.read_model` gives it.
        format: what ``model.safetensors`` is: ``packed``, ``dense`` or ``timm``, which timm loads
            by itself: ``timm.create_model("hf-hub:me/name", pretrained=True)``.
    """

    def __init__(self, saved: SavedModel, format: str = "packed") -> None:
        if format not in FORMATS:
            choices = ", ".join(FORMATS)
            raise UsageError(f"format '{format}' is none of a hub's folders. Choices: {choices}.")
        self.saved, self.format = saved, format
        self._notes: list[str] = []
        self._folder: Path | None = None

    @property
    def model(self) -> nn.Module:
        """The plain network, in eval mode."""
        return self.saved.model

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of images in [0, 1]."""
        found: Tensor = self.model(images)
        return found

    def _save_pretrained(self, save_directory: Path) -> None:
        backend = backends.create(self.format)
        self._notes = backend.export(self.saved, save_directory / _FILE)
        self._folder = save_directory
        known = self.saved.metadata
        about: dict[str, Any] = {key: known[key] for key in ("model", "density") if key in known}
        document: dict[str, Any] = {"library_name": "robustprune", "format": self.format, **about}
        if self.format == "timm":
            document |= timm.config(self.saved.metadata["model"])
        write_json(save_directory / "config.json", document)

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> HubModel:
        """Read a network of a folder or a repository; see `ModelHubMixin.from_pretrained`.

        Raises:
            UsageError: a file of it is damaged.
        """
        try:
            found: HubModel = super().from_pretrained(*args, **options)
        except (JSONDecodeError, UnicodeDecodeError, RecursionError, AttributeError) as error:
            raise UsageError(f"config.json is damaged: {first_line(error)}.") from None
        return found

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **others: Any,
    ) -> HubModel:
        """Read ``model.safetensors`` of a folder or a repository; nothing in it is executed."""
        path = Path(model_id, _FILE)
        if not Path(model_id).is_dir():
            where: Any = {"revision": revision, "cache_dir": cache_dir, "token": token}
            where |= {"force_download": force_download, "local_files_only": local_files_only}
            path = Path(hf_hub_download(model_id, _FILE, **where))
        return cls(read_model(path))

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card of the file that was written, with what was measured as metadata."""
        assert self._folder is not None
        backend = backends.create(self.format)
        text = card_of(self.saved, self._folder / _FILE, backend, self._notes)
        return ModelCard(f"---\n{card_data(self.saved).to_yaml()}\n---\n\n{text}")


def card_data(saved: SavedModel) -> ModelCardData:
    """Metadata of a card: accuracies with their attacks, and the density."""
    about, layers = saved.metadata, kept_weights(saved)
    density = sum(one.kept for one in layers) / max(sum(one.total for one in layers), 1)
    data = str((about.get("data") or {}).get("name", "unknown"))
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=data,
            dataset_name=data,
            dataset_split=about.get("split", "test"),
            metric_type="accuracy",
            metric_value=value,
            metric_name=name,
            metric_args=how,
        )
        for name, value, how in _measured(about)
    ]
    return ModelCardData(
        library_name="robustprune",
        pipeline_tag="image-classification",
        tags=["pruning", "adversarial-robustness"],
        model_name=title(saved),
        eval_results=results or None,
        datasets=[data] if data != "unknown" else None,
        density=round(density, 6),
    )


def _measured(about: Mapping[str, Any]) -> list[tuple[str, float, dict[str, Any]]]:
    """Accuracies by metric, with the evaluator's options.

    Nothing where an alarm refutes them, or where weights were rounded since.
    """
    stale = about.get("alarms") or about.get("values") == "fp16"
    metrics = {} if stale else about.get("metrics") or {}
    evaluators = {metric_of(document): document for document in about.get("evaluate") or []}
    found = []
    for name in metrics:
        if f"{name}_interval" not in metrics:
            continue
        how = {
            k: v for k, v in evaluators.get(name, {}).items() if isinstance(v, str | int | float)
        }
        told = how | {"images": metrics[f"{name}_n"]}
        found.append((name, round(float(metrics[name]), 6), told))
    return found
