"""Seconds, processor seconds and memory of whole commands, of this checkout and of another one in turns.

    python -m benchmarks.commands --runs FOLDER
    python -m benchmarks.commands --runs FOLDER --before ../an_older_checkout

Each checkout trains an experiment, once, and then is asked what people ask: the scores, one image for the first time
and again, the pictures without t-SNE and with it. A line has the median of the turns, the fastest and the slowest, and
processor seconds and memory of the process, the latter the highest of all turns. The other checkout runs in its own
`.venv` if it has one.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

# In a process of its own: Linux counts what this one has ever taken as taken by the commands that it starts.
_WRITE_IMAGE = """
import sys
from PIL import Image
from model.data import datasets
from model.params import Params
image = datasets.load(Params.from_json(sys.argv[1]).dataset).test.images[0]
Image.fromarray(image.squeeze()).save(sys.argv[2])
"""


class Spent(NamedTuple):
    """What a command took."""

    seconds: float
    processor_seconds: float
    megabytes: float


class Question(NamedTuple):
    """What is asked of a trained experiment.

    Attributes:
        name: What the table calls it.
        script: The command.
        arguments: Beside `--model_dir`.
        is_first: Whether nothing is there that an earlier command kept.
    """

    name: str
    script: str
    arguments: Sequence[str | Path] = ()
    is_first: bool = False


def main() -> None:
    """Trains, asks in turns, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="the folder for what is trained")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="of another version")
    parser.add_argument("--experiment", default="mnist_fast", help="a folder of experiments/")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    runs, path = options.runs.resolve(), ROOT / "experiments" / options.experiment / "params.json"
    checkouts = {"before": options.before.resolve()} if options.before else {}
    checkouts["now"] = ROOT
    image = runs / "one.png"
    runs.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-c", _WRITE_IMAGE, path, image], cwd=ROOT, check=True)
    spent: dict[str, dict[str, list[Spent]]] = {}
    for name, checkout in checkouts.items():
        if not (runs / name / "metrics.json").exists():
            spent.setdefault("train", {})[name] = [_train(checkout, path, runs / name)]
    for turn in range(options.turns):
        for question in _questions(image):
            for name in sorted(checkouts, reverse=turn % 2 == 1):
                took = _ask(checkouts[name], question, runs / name)
                spent.setdefault(question.name, {}).setdefault(name, []).append(took)
    made_by = f"$ python -m benchmarks.commands --experiment {options.experiment} --turns {options.turns}"
    print(f"{made_by}      # {os.cpu_count()} cores\n")
    print(f"{'':<22}{'':<8}{'seconds':>8}  {'':<14}{'processor':>10}{'MB':>8}")
    for title, by_checkout in spent.items():
        for name, turns in by_checkout.items():
            print(f"{title:<22}{name:<8}{_told(turns)}")


def _questions(image: Path) -> list[Question]:
    return [
        Question("help", "train.py", ["--help"]),
        Question("evaluate", "evaluate.py"),
        Question("predict, first time", "predict.py", [image], is_first=True),
        Question("predict, again", "predict.py", [image]),
        Question("visualize --no_tsne", "visualize_embeddings.py", ["--no_tsne"]),
        Question("visualize", "visualize_embeddings.py"),
    ]


def _train(checkout: Path, params: Path, model_dir: Path) -> Spent:
    shutil.rmtree(model_dir, ignore_errors=True)
    model_dir.mkdir()
    content = json.loads(params.read_text())
    content.pop("$schema", None)  # a path that holds in experiments/ alone
    (model_dir / "params.json").write_text(json.dumps(content))
    return _run(checkout, "train.py", ["--model_dir", model_dir])


def _ask(checkout: Path, question: Question, model_dir: Path) -> Spent:
    if question.is_first:
        shutil.rmtree(model_dir / "eval", ignore_errors=True)
    return _run(checkout, question.script, ["--model_dir", model_dir, *question.arguments])


def _run(checkout: Path, script: str, arguments: Sequence[str | Path]) -> Spent:
    """Runs a command of a checkout.

    Raises:
        RuntimeError: It failed.
    """
    own = checkout / ".venv" / "bin" / "python"
    python = own if own.exists() and checkout != ROOT else sys.executable
    started = time.perf_counter()
    process = subprocess.Popen([python, script, *arguments], cwd=checkout, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"Expected {checkout / script} to succeed. Received: exit code {process.returncode}")
    return Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _told(turns: Sequence[Spent]) -> str:
    seconds = [took.seconds for took in turns]
    middle, processor = statistics.median(seconds), statistics.median(took.processor_seconds for took in turns)
    extremes = f"{min(seconds):.1f} to {max(seconds):.1f}"
    return f"{middle:>8.1f}  {extremes:<14}{processor:>10.1f}{max(took.megabytes for took in turns):>8,.0f}"


if __name__ == "__main__":
    main()
