"""The model card: what a file holds, what was measured of it and how, and what is not claimed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustprune.arithmetic import written
from robustprune.artifacts.backends import Backend
from robustprune.artifacts.backends.base import CERTIFICATES
from robustprune.artifacts.saved import SavedModel
from robustprune.artifacts.sizes import dense_bytes, information_bound, kept_weights, left_dense
from robustprune.artifacts.surgery import describe_cuts
from robustprune.families import metric_of
from robustprune.files import write_text

_ATTACKS = {"pgd", "transfer", "autoattack", "torchattacks"}


def card_path(export: Path) -> Path:
    """``net.onnx`` has its card in ``net.onnx.md``."""
    return export.with_name(f"{export.name}.md")


def write_card(saved: SavedModel, path: Path, backend: Backend, notes: Sequence[str]) -> None:
    """Write the card of an exported file beside it; ``notes`` are what `Backend.export` gave."""
    write_text(card_path(path), card_of(saved, path, backend, notes))


def card_of(saved: SavedModel, path: Path, backend: Backend, notes: Sequence[str]) -> str:
    """The card of an exported file, as Markdown."""
    saved = replace(saved, metadata=backend.metadata(saved))
    about = saved.metadata
    size = f"{path.stat().st_size:,} bytes, format {backend.registered_name}"
    lines = [
        f"# {title(saved)}",
        *("", f"`{path.name}`, {size}.", *notes),
        *("", "## Network", "", *_network(saved, inside=backend.normalises)),
        *("", "## Training", "", *_training(about)),
        *("", "## Measured", "", *_measured(about)),
        *("", "## Not claimed", "", *_limits(about)),
    ]
    if code := backend.loading(saved, path):
        lines += ["", "## Loading", "", "```python", code, "```"]
    return "\n".join(lines) + "\n"


def title(saved: SavedModel) -> str:
    """The name of a network: its recipe's, or its architecture's, and its own."""
    about = saved.metadata
    return f"{about.get('recipe', about['model']['name'])}: {about.get('network', 'network')}"


def _network(saved: SavedModel, *, inside: bool) -> Iterator[str]:
    about, layers = saved.metadata, kept_weights(saved)
    kept, total = sum(layer.kept for layer in layers), sum(layer.total for layer in layers)
    yield f"- Architecture: {_options(about['model'])}"
    if cuts := describe_cuts(about):
        yield f"- Cut for good, after which the rest stands: {cuts}."
    where = "inside" if inside else "by whoever runs it, outside,"
    yield f"- Images: in [0, 1]; normalised {where} where mean and std are not 0 and 1."
    if classes := about.get("classes"):
        names = ", ".join(classes[:20]) + (" …" if len(classes) > 20 else "")
        yield f"- Classes in the order of its outputs, {len(classes):,}: {names}."
    density = kept / max(total, 1)
    yield f"- Weights kept: {kept:,} of {total:,} prunable ones, density {density:.4g}."
    if dense := left_dense(saved):
        yield f"- Layers left dense: {', '.join(dense)}."
    if about.get("values") == "fp16":
        yield "- Its weights were rounded to half precision after what is said below was measured."
    yield (
        f"- Size: {dense_bytes(saved):,} bytes as dense tensors; what is kept and where takes "
        f"{information_bound(saved):,.0f} before values are compressed."
    )


def _training(about: Mapping[str, Any]) -> Iterator[str]:
    labels = {"imported": "Imported from", "weights": "Started from"}
    for key in ("data", "objective", "pruner", *labels):
        if found := about.get(key):
            told = _options(found) if isinstance(found, Mapping) else found
            yield f"- {labels.get(key, key.capitalize())}: {told}"
    if about.get("turnover") is not None:
        yield f"- Turnover: {about['turnover']:.3f} of the kept weights were chosen by learning."
    if "best_prec1" in about.get("imported", {}):
        yield "  (`best_prec1` is what that file says of itself; it was not measured here.)"
    if "max_steps" in about:
        yield f"- **Training was cut at {about['max_steps']} steps per stage.**"
    if about.get("seed") is not None:
        yield f"- Seed {about['seed']}; versions: {_options(about.get('versions') or {})}"
    if not any(about.get(key) for key in ("objective", "imported", "weights")):
        yield "- Not known: the file does not say how it was trained."


def _measured(about: Mapping[str, Any]) -> Iterator[str]:
    metrics = about.get("metrics") or {}
    evaluators = {metric_of(document): document for document in about.get("evaluate") or []}
    names = [name for name in metrics if f"{name}_n" in metrics]
    if not names:
        yield "Nothing was measured of this network, as far as its file says."
        return
    split = about.get("split", "test")  # those of validation may have chosen the network
    yield f"On the first {split} images of the dataset, by the evaluators of its recipe:"
    yield from ("", "| metric | value | 95 % interval | images | how |", "|---|---:|---|---:|---|")
    for name in names:
        interval = " to ".join(f"{end:.3f}" for end in metrics.get(f"{name}_interval") or [])
        how = _options(evaluators.get(name) or {})
        yield f"| {name} | {metrics[name]:.4g} | {interval} | {metrics[f'{name}_n']} | {how} |"
    if about.get("alarms"):
        yield from ("", "**An attack broke images that a certificate verified: claim nothing.**")


def _limits(about: Mapping[str, Any]) -> Iterator[str]:
    measured = {e["name"] for e in about.get("evaluate") or [] if about.get("metrics")}
    yield "- Robustness to anything but the attacks and balls above, or on other data."
    if measured & _ATTACKS:
        yield "- Attacks bound robust accuracy from above: a stronger one may find more."
    if not measured & CERTIFICATES:
        yield "- No bound on the network itself was computed: nothing is verified."
    if "smoothing" in measured:
        yield "- Smoothing certifies what it makes of the network, not the network itself."
    yield "- Accuracy after conversion to another precision or runtime was not measured."


def _options(found: Mapping[str, Any]) -> str:
    """``name, option value, …``; nothing that is left at None."""
    pairs = [f"{k} {_shown(v)}" for k, v in found.items() if k != "name" and v not in (None, {})]
    return ", ".join([*([str(found["name"])] if "name" in found else []), *pairs])


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_options(value)})"
    return written(value) if isinstance(value, float) else str(value)
