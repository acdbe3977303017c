"""DeepSparse as a side of sparse.py: this file runs in an interpreter that has it.

Questions come as lines of JSON on standard input, and are answered by one on standard output:
``{"load": FILE.onnx, "images": FILE.npy, "logits": FILE.npy, "threads": 1}`` compiles the network
for so many images, runs it and writes what it gives; ``{"passes": 5}`` times it. An answer is the
seconds of each pass, or ``{"error": …}``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import numpy as np


class Peer:
    """A process of DeepSparse, on the side of who asks. One network at a time.

    Args:
        python: an interpreter that has DeepSparse.
        threads: of a pass.
    """

    def __init__(self, python: Path, threads: int) -> None:
        self._threads = threads
        self._process = subprocess.Popen(
            [str(python), "-P", __file__],  # -P: nothing of this folder is imported by its name
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # remarks
            text=True,
            env={**os.environ, "NM_DISABLE_ANALYTICS": "1", "PYTHONPATH": ""},
        )

    def load(self, network: Path, images: np.ndarray) -> np.ndarray:
        """Compile an ONNX file for a batch of images, and return its logits of them."""
        files = {key: str(network.with_suffix(f".{key}.npy")) for key in ("images", "logits")}
        np.save(files["images"], images)
        self._ask({"load": str(network), "threads": self._threads, **files})
        return np.load(files["logits"])

    def passes(self, count: int) -> list[float]:
        """Time passes of that batch; seconds."""
        return list(self._ask({"passes": count}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline() or '{"error": "it ended"}')
        except OSError:
            answer = {"error": "it ended"}
        if "error" in answer:
            raise RuntimeError(f"DeepSparse: {answer['error']}")
        return answer["seconds"]


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    engine, images = None, []
    for line in sys.stdin:
        question = json.loads(line)
        seconds = []
        try:
            if "load" in question:
                from deepsparse import Engine

                engine = None  # its memory goes before the next one's comes
                images = [np.load(question["images"])]
                engine = Engine(
                    question["load"], batch_size=len(images[0]), num_cores=question["threads"]
                )
                np.save(question["logits"], engine.run(images)[0])
            for _ in range(question.get("passes", 0)):
                began = time.perf_counter()
                engine.run(images, val_inp=False)
                seconds.append(time.perf_counter() - began)
            answer = {"seconds": seconds}
        except Exception as error:  # of another's library
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
