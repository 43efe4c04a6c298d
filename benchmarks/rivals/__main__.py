"""How fast this project trains on MNIST, beside PyTorch with pytorch-metric-learning at its best.

    pip install -r requirements-bench.txt
    python -m benchmarks.rivals speed
    python -m benchmarks.rivals quality --seeds 1 2 3 4 5 --runs FOLDER

`speed` lets all contenders take turns, a block of steps each, every one in a process of its own that does nothing while
the others work. A line gives images/s, the median of the turns with its quartiles, and the share of the limit: the
operations of the convolutions and the dense layer in a step, beside what the cores of this machine reach in the fastest
plain convolution, in the same precision, TensorFlow's or PyTorch's. `benchmarks/rivals/pytorch.py` says what the rivals
are.

`quality` trains `mnist_fast` to its end, by train.py and by the strongest rival, one after the other, and tells after
how many seconds of training the accuracy of the nearest neighbour, looked at after each epoch outside of that time, was
first at least 0.9900, 0.9930 and 0.9950.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.rivals import machine
from benchmarks.rivals.cases import ROOT, Case, operations_of_a_step
from benchmarks.rivals.serving import Contender

_CASES = [
    *(Case("base_model", size) for size in (64, 160, 256, 1024)),
    *(Case("mnist_best", size) for size in (64, 160, 256, 1024)),
    Case("mnist_fast", 160),
]
_TARGETS = (0.9900, 0.9930, 0.9950)


class Way(NamedTuple):
    """A contender.

    Attributes:
        module: What is run.
        arguments: Of it, beside the case.
        precision: In which the convolutions calculate.
    """

    module: str
    arguments: Sequence[str]
    precision: str


_OURS, _THEIRS = "benchmarks.rivals.ours", "benchmarks.rivals.pytorch"


def _pytorch(*switches: str) -> Way:
    return Way(_THEIRS, ["--switches", *switches], "bfloat16" if "bfloat16" in switches else "float32")


_WAYS = {
    "ours, float32": Way(_OURS, ["--precision", "float32"], "float32"),
    "ours, bfloat16": Way(_OURS, ["--precision", "mixed_bfloat16"], "bfloat16"),
    "PyTorch, plain": _pytorch(),
    "+ channels_last": _pytorch("channels_last"),
    "+ fused Adam, bfloat16": _pytorch("channels_last", "fused", "bfloat16"),
    "+ compile": _pytorch("channels_last", "fused", "bfloat16", "compile"),
    "+ cube, not compiled": _pytorch("channels_last", "fused", "bfloat16", "cube"),
    "+ cube, compile": _pytorch("channels_last", "fused", "bfloat16", "cube", "compile"),
}
_STRONGEST = "+ cube, compile"  # of all above, with the batches of `mnist_fast`: benchmarks/results/rivals.txt


def main() -> None:
    """Measures and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    speed = commands.add_parser("speed", help="images/s in turns")
    speed.add_argument("--cases", nargs="+", metavar="EXPERIMENT:BATCH_SIZE", help="some of those in the table")
    speed.add_argument("--turns", type=int, default=9)
    speed.add_argument("--images", type=int, default=20_000, help="of a turn, about")
    quality = commands.add_parser("quality", help="seconds to an accuracy")
    quality.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    quality.add_argument("--runs", type=Path, required=True, help="the folder for what is trained")
    options = parser.parse_args()
    if options.command == "quality":
        _print_quality(options.seeds, options.runs)
        return
    limits = machine.limits()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; billions of operations a second:")
    for precision, (product, convolution) in limits.items():
        print(f"{precision:<10}matrix product {product / 1e9:>8,.0f}    convolution {convolution / 1e9:>8,.0f}")
    for case in _CASES:
        if options.cases is None or f"{case.experiment}:{case.batch_size}" in options.cases:
            _print_speed(case, options.turns, options.images, {name: limit for name, (_, limit) in limits.items()})


def _print_speed(case: Case, turns: int, images: int, limits: dict[str, float]) -> None:
    is_large = case.batch_size >= 1024
    # Ours sends the indices of 64 batches to the device at once. With large batches the triplets take a rival seconds,
    # and the cube, of a billion numbers, far longer.
    steps = -(-images // case.batch_size)
    ours, theirs = -(-steps // 64) * 64, min(steps, 2) if is_large else steps
    ways = {name: way for name, way in _WAYS.items() if not (is_large and "cube" in way.arguments)}
    blocks = {name: ours if way.module == _OURS else theirs for name, way in ways.items()}
    contenders = {
        name: Contender(way.module, [*case.arguments, "--block", str(blocks[name]), *way.arguments])
        for name, way in ways.items()
    }
    try:
        for contender in contenders.values():
            contender.block()  # compiles
        seconds = [{name: contender.block() for name, contender in contenders.items()} for _ in range(turns)]
    finally:
        for contender in contenders.values():
            contender.close()
    print(f"\n{case.experiment}, B = {case.batch_size}; {turns} turns, of {ours} steps and of {theirs}\n")
    print(f"{'':<26}{'images/s':>10}   {'quartiles':<16}{'of the limit':>12}")
    operations = operations_of_a_step(case.params()) / case.batch_size
    rates = {name: [case.batch_size * blocks[name] / turn[name] for turn in seconds] for name in ways}
    for name, way in ways.items():
        low, median, high = statistics.quantiles(rates[name], n=4)
        share = median * operations / limits[way.precision]
        print(f"{name:<26}{median:>10,.0f}   {f'{low:,.0f} to {high:,.0f}':<16}{share:>12.1%}", flush=True)
    is_ours = {name: way.module == _OURS for name, way in ways.items()}
    fastest = max((name for name in ways if not is_ours[name]), key=lambda name: statistics.median(rates[name]))
    for name in filter(is_ours.get, ways):
        ratios = [ours / theirs for ours, theirs in zip(rates[name], rates[fastest], strict=True)]
        print(f"{name}: {statistics.median(ratios):.2f} times the rate of {fastest!r}")


# --------------------------------------------------------------------------------------------------- time to a quality


def _print_quality(seeds: Sequence[int], runs: Path) -> None:
    case = Case("mnist_fast", 160)
    print(f"{case.experiment}: seconds of training until the accuracy of the nearest neighbour is at least\n")
    print(f"{'':<26}{'seed':>6}" + "".join(f"{target:>10.4f}" for target in _TARGETS) + f"{'at the end':>20}")
    for seed in seeds:
        curves = {
            "ours, bfloat16": _train_ours(case, seed, runs / f"ours-{seed}"),
            _STRONGEST: _train_rival(case, seed, _WAYS[_STRONGEST], runs / f"rival-{seed}.json"),
        }
        for name, curve in curves.items():
            reached = [
                next((f"{point['seconds']:.1f}" for point in curve if point["accuracy"] >= target), "-")
                for target in _TARGETS
            ]
            end = f"{curve[-1]['seconds']:.1f} s, {curve[-1]['accuracy']:.4f}"
            print(f"{name:<26}{seed:>6}" + "".join(f"{value:>10}" for value in reached) + f"{end:>20}", flush=True)


def _train_ours(case: Case, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Trains by train.py with a checkpoint after each epoch, and looks at each of them."""
    params = case.params()
    steps = -(-60_000 // params.batch_size)
    changes = {"seed": seed, "save_checkpoints_steps": steps, "keep_checkpoint_max": params.num_epochs + 1}
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "params.json").exists():
        (folder / "params.json").write_text(json.dumps(case.params(**changes).differences()))
    subprocess.run([sys.executable, ROOT / "train.py", "--model_dir", folder], cwd=ROOT, check=True, stdout=sys.stderr)
    looked = subprocess.run(
        [sys.executable, "-m", "benchmarks.rivals.look", str(folder)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [json.loads(line) for line in looked.stdout.splitlines() if line.startswith("{")]


def _train_rival(case: Case, seed: int, way: Way, kept: Path) -> list[dict[str, Any]]:
    if not kept.exists():
        command = [sys.executable, "-m", way.module, *case.arguments, "--seed", str(seed), *way.arguments]
        kept.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return [json.loads(line) for line in kept.read_text().splitlines() if line.startswith("{")]


if __name__ == "__main__":
    main()
