"""How long commands take to answer, and what they import for it.

    python benchmarks/startup.py

Seconds beyond a bare ``python -c pass`` for what must answer at once, and the ratio to
``python -c "import timm"`` for ``check``, which builds the network. Processes take turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from ratio import alternate, ratio, table, write

ROOT = Path(__file__).parents[1]
MAIN = "import sys; from robustprune.cli import main; sys.exit(main(sys.argv[1:]))"
WATCHED = ("torch", "timm", "mlflow", "accelerate", "torchattacks", "auto_LiRPA")
QUICK = ("--help", "YAML error", "schema error")


def main() -> None:
    arguments = _arguments()
    with TemporaryDirectory() as folder:
        torn, wrong = Path(folder) / "torn.yaml", Path(folder) / "wrong.yaml"
        recipe = (ROOT / "recipes/quickstart.yaml").read_text()
        torn.write_text(recipe + "\n  : [")
        wrong.write_text(recipe + "\ncolour: red\n")
        commands = {
            "python -c pass": ["-c", "pass"],
            "--help": ["-c", MAIN, "--help"],
            "YAML error": ["-c", MAIN, "check", str(torn)],
            "schema error": ["-c", MAIN, "check", str(wrong)],
            "import timm": ["-c", "import timm"],
            "check": ["-c", MAIN, "check", str(ROOT / "recipes/quickstart.yaml")],
        }
        sides = {name: lambda words=words: _run(words) for name, words in commands.items()}
        times = alternate(sides, rounds=arguments.rounds)
        loaded = {name: _loaded(words) for name, words in commands.items()}
    bare = statistics.median(times["python -c pass"])
    rows = []
    for name in (*QUICK, "import timm", "check"):
        seconds = statistics.median(times[name])
        row = {"what": name, "seconds": seconds, "beyond_bare": seconds - bare}
        row |= {"of_timm": ratio(times, name, "import timm"), "imports": loaded[name]}
        rows.append({**row, "times": times[name]})
    keys = ("seconds", "beyond_bare", "of_timm")
    cells = [
        [row["what"], *(f"{row[key]:.2f}" for key in keys), ", ".join(row["imports"]) or "none"]
        for row in rows
    ]
    heads = ["what", "s", "s beyond `python -c pass`", "× import timm", "imports of those watched"]
    text = f"Watched: {', '.join(WATCHED)}.\n\n{table(heads, cells)}"
    command = " ".join(["python benchmarks/startup.py", *sys.argv[1:]])
    write("startup", "Start-up", command, rows, text)


def _run(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], capture_output=True, cwd=ROOT)


def _loaded(words: list[str]) -> list[str]:
    """Which of the watched packages a process has imported when it ends."""
    told = "import atexit, sys; atexit.register(lambda: print('\\n@', *sys.modules)); "
    done = subprocess.run(
        [sys.executable, "-c", told + words[1], *words[2:]],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    modules = set(done.stdout.rpartition("\n@ ")[2].split())
    return [name for name in WATCHED if name in modules]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
