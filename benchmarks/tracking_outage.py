"""Time that a run loses when its MLflow server dies or freezes half-way: at most ten seconds.

    python benchmarks/tracking_outage.py

Starts a real server on this machine, runs a small recipe against it, and kills (SIGKILL) or
freezes (SIGSTOP) the server as soon as the run is recorded. The same run without tracking is the
other side of the comparison. Writes benchmarks/results/tracking_outage.json.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from robustprune.files import write_json
from robustprune.pipeline import run
from robustprune.tracking import Console

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
SMALL = ["pretrain.epochs=8", "prune.densities=[0.1]", "evaluate=[clean]"]
RESULT = Path(__file__).parent / "results" / "tracking_outage.json"


def main() -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        timed(root / "warm-up", ["tracking.enabled=false"])
        seconds = {"untracked": timed(root / "untracked", ["tracking.enabled=false"])}
        for name, blow in {"killed": signal.SIGKILL, "frozen": signal.SIGSTOP}.items():
            with Server(root / f"server-{name}") as server:
                out = root / name
                thread = threading.Thread(target=strike, args=(server, out, blow))
                thread.start()
                seconds[name] = timed(out, [f"tracking.uri={server.uri}"])
                thread.join()
    added = {name: value - seconds["untracked"] for name, value in seconds.items()}
    result = {"command": "python benchmarks/tracking_outage.py", "seconds": seconds, "added": added}
    write_json(RESULT, result)
    print(json.dumps(result, indent=1))


def timed(out: Path, overrides: list[str]) -> float:
    began = time.monotonic()
    run(RECIPE, overrides=[*SMALL, *overrides], out=out, runs=out.parent, console=Console())
    return time.monotonic() - began


def strike(server: Server, out: Path, blow: signal.Signals) -> None:
    ids = out / "state" / "mlflow.json"
    while not ids.exists() or "dense" not in json.loads(ids.read_text())["networks"]:
        time.sleep(0.1)
    os.killpg(server.process.pid, blow)


class Server:
    """``mlflow server`` on a free port of this machine."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        folder.mkdir()
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
        words += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                words, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )

    def __enter__(self) -> Server:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
            except OSError:
                time.sleep(0.5)
            else:
                return self
        raise SystemExit("the MLflow server did not start")

    def __exit__(self, *error: object) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


if __name__ == "__main__":
    main()
