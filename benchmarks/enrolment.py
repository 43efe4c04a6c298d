"""Does a network that enrols new classes err as often as it says?

    python -m benchmarks.enrolment --model_dir experiments/omniglot --data_dir data/omniglot

enrols ten classes of the test images with one image each, by `predict.py --gallery`, and asks for all their other
images and for all images of a hundred other classes. These 110 are drawn anew ten times, and each time the threshold is
chosen and judged by the test classes that are left, so that no image that asks has had a say in it. The classes of the
test images have to be others than those of the training images. Printed are the rates that `predict.py` promises beside
those that are found, of each draw and over all of them.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
NUM_ENROLLED, NUM_STRANGERS = 10, 100


def main() -> None:
    """Prints a line for each rate and draw, and one for all draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, required=True, help="with train/ and test/")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    parser.add_argument("--draws", type=int, default=10)
    options = parser.parse_args()
    print(
        "false accept rate asked for, draw: FPIR promised [95 %] and found; FNIR promised [95 %] and found", flush=True
    )
    of_draws = []
    for draw in range(options.draws):
        of_draws.append(_try(options.model_dir.resolve(), options.data_dir.resolve(), options.rates, draw))
        for rate, row in zip(options.rates, of_draws[-1], strict=True):
            print(f"{rate:g}, {draw}: {_told(row, 'positive')}; {_told(row, 'negative')}", flush=True)
    for rate, *rows in zip(options.rates, *of_draws, strict=True):
        for kind, name in (("positive", "FPIR"), ("negative", "FNIR")):
            promised, found = ([row[f"{kind}_{what}"] for row in rows] for what in ("promised", "found"))
            inside = sum(row[f"{kind}_low95"] <= row[f"{kind}_found"] <= row[f"{kind}_high95"] for row in rows)
            print(
                f"{rate:g}, all: {name} promised {_spread(promised)}, found {_spread(found)}, inside the interval in "
                f"{inside} of {len(rows)}",
                flush=True,
            )


def _try(model_dir: Path, data_dir: Path, rates: Sequence[float], draw: int) -> list[dict[str, float]]:
    """Enrols, asks, and counts, for each of the rates."""
    classes = sorted({path.parent for path in (data_dir / "test").rglob("*.png")})
    order = np.random.default_rng(draw).permutation(len(classes))
    enrolled = [classes[i] for i in order[:NUM_ENROLLED]]
    strangers = [classes[i] for i in order[NUM_ENROLLED : NUM_ENROLLED + NUM_STRANGERS]]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shutil.copytree(model_dir, work / "model", ignore=shutil.ignore_patterns("eval", "events*"))
        _link(data_dir / "train", work / "data" / "train")
        for path in sorted(set(classes) - set(enrolled) - set(strangers)):
            _link(path, work / "data" / "test" / path.relative_to(data_dir / "test"))
        own: list[Path] = []
        for path in enrolled:
            first, *others = sorted(path.glob("*.png"))
            _link(first, work / "gallery" / path.relative_to(data_dir / "test") / first.name)
            own += others
        others = [file for path in strangers for file in sorted(path.glob("*.png"))]
        # In a folder of names that keep their order, as a command line takes only so many files.
        for number, file in enumerate([*own, *others]):
            _link(file, work / "asked" / f"{number:05}.png")
        answers = [_ask(work, rate) for rate in rates]
    expected = [file.parent.relative_to(data_dir / "test").as_posix() for file in own]
    return [_count(answer, expected, len(others)) for answer in answers]


def _count(answer: dict[str, Any], expected: Sequence[str], num_strangers: int) -> dict[str, float]:
    """Returns the rates promised and found, of images of enrolled classes, and of strangers' behind them."""
    refusal = answer["refusal"]
    named = [image["predicted"] for image in answer["images"]]
    wrong = [name != right for name, right in zip(named[: len(expected)], expected, strict=True)]
    return {
        "positive_found": sum(name is not None for name in named[len(expected) :]) / num_strangers,
        "negative_found": sum(wrong) / len(expected),
        **{
            f"{kind}_{short}": refusal[f"false_{kind}_identification_rate{end}"]
            for kind in ("positive", "negative")
            for short, end in (("promised", ""), ("low95", "_low95"), ("high95", "_high95"))
        },
    }


def _ask(work: Path, rate: float) -> dict[str, Any]:
    arguments = ["--model_dir", "model", "--data_dir", "data", "--gallery", "gallery", "--json", "asked"]
    command = [sys.executable, str(ROOT / "predict.py"), *arguments, "--false_accept_rate", str(rate)]
    asked = subprocess.run(command, cwd=work, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(asked.stdout)
    return answer


def _link(path: Path, at: Path) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(path)


def _told(row: dict[str, float], kind: str) -> str:
    low, high = row[f"{kind}_low95"], row[f"{kind}_high95"]
    return f"{row[f'{kind}_promised']:.4f} [{low:.4f}, {high:.4f}] {row[f'{kind}_found']:.4f}"


def _spread(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.4f} ± {spread:.4f}"


if __name__ == "__main__":
    main()
