"""Trains experiments in several ways with several seeds, and prints their scores side by side.

    python -m benchmarks.side_by_side mnist unseen_digits omniglot --seeds 1 2 3 --runs /tmp/side_by_side
    python -m benchmarks.side_by_side omniglot_parts --seeds 1 2 3 --runs /tmp/side_by_side

The ways are: on 1, 2 and 4 devices, which are logical CPUs; as 2 processes; on 2 devices of which each mines its own
part of the batch alone, as most libraries do; with a memory of past batches; and, of `omniglot_parts`, each with one
part of the recipe changed. A run that is in --runs already is not made again, and one that was cut off goes on.
"""

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
_LOCAL = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path.cwd()))
import train
from model import runner
from model.common import cli
from benchmarks.distribution import local_model_fn
runner.model_fn = local_model_fn
cli.run(train.main, "", add_options=train.add_options)
"""


@dataclass(frozen=True)
class Way:
    """How a run differs from the others of its study.

    Attributes:
        changes: Parameters that differ.
        arguments: Of `train.py`.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ("--devices", "1")


_TWO_PROCESSES, _LOCAL_MINING = "2 processes", "2 devices, local mining"
_ON_DEVICES = {
    "1 device": Way(),
    "2 devices": Way(arguments=("--devices", "2")),
    "4 devices": Way(arguments=("--devices", "4")),
    _TWO_PROCESSES: Way(arguments=()),
    _LOCAL_MINING: Way(arguments=("--devices", "2")),
}
_MEMORY = "memory of past batches"


class Study(NamedTuple):
    """What is trained, and how.

    Attributes:
        recipe: The folder of `experiments/` whose parameters it has; None for the defaults.
        changes: Parameters that differ, in all of its runs.
        ways: By name.
        metrics: What is printed of a run.
    """

    recipe: str | None
    changes: dict[str, Any]
    ways: dict[str, Way]
    metrics: list[str]


STUDIES = {
    "mnist": Study("batch_all", {"num_epochs": 4}, _ON_DEVICES, ["knn_accuracy", "recall_at_1", "map_at_r", "eer"]),
    "unseen_digits": Study(
        "unseen_digits",
        {"num_epochs": 3},
        _ON_DEVICES | {_MEMORY: Way({"memory_size": 2048, "memory_start_step": 300})},
        ["knn_accuracy", "map_at_r", "unseen/recall_at_1", "unseen/map_at_r", "unseen/eer"],
    ),
    "omniglot": Study(
        None,
        {
            "dataset": "omniglot",
            "image_size": 28,
            "batch_size": 240,
            "num_classes_per_batch": 60,
            "num_images_per_class": 4,
            "num_blocks": 4,
            "use_batch_norm": True,
            "normalize_embeddings": True,
            "margin": 0.2,
            "num_epochs": 6,
            "precision": "auto",
        },
        {"1 device": Way(), _MEMORY: Way({"memory_size": 4096, "memory_start_step": 100})},
        ["recall_at_1", "map_at_r", "roc_auc", "eer"],
    ),
    # Half of the channels and a quarter of the steps of `omniglot`, all background alphabets, the last checkpoint.
    "omniglot_parts": Study(
        "omniglot_vinyals",
        {"dataset": "omniglot", "rotated_classes": "train", "num_channels": 16, "num_epochs": 3},
        {
            "all parts": Way(),
            "one convolution a block": Way({"convolutions_per_block": 1}),
            "28 pixels": Way({"image_size": 28}),
            "no turned characters": Way({"rotated_classes": None, "num_epochs": 12}),
            "no augmentation": Way({"augmentation": "off", "augmentation_strength": 1.0}),
            "batch all": Way({"triplet_strategy": "batch_all"}),
            "no shifts at test time": Way({"test_time_augmentation": "off"}),
        },
        ["recall_at_1", "map_at_r", "roc_auc", "eer"],
    ),
}


def main() -> None:
    """Trains what is missing, and prints a table of each study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", choices=STUDIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, required=True, help="the folder for what is trained")
    options = parser.parse_args()
    print(f"$ python -m benchmarks.side_by_side {' '.join(options.studies)}")
    for name in options.studies:
        study = STUDIES[name]
        for seed, way in itertools.product(options.seeds, study.ways):
            folder = _folder(options.runs, name, way, seed)
            if not (folder / "metrics.json").exists():
                _train(study, way, seed, folder)
        _print_table(options.runs, name, options.seeds)


def _folder(runs: Path, name: str, way: str, seed: int) -> Path:
    return runs / f"{name}, {way}, seed {seed}"


def _train(study: Study, way: str, seed: int, folder: Path) -> None:
    params: dict[str, Any] = {}
    if study.recipe:
        params = json.loads((ROOT / "experiments" / study.recipe / "params.json").read_text())
    params |= study.changes | study.ways[way].changes | {"seed": seed}
    if isinstance(params.get("holdout_classes"), int):
        params["split_seed"] = seed
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params, indent=2))
    program = ["-c", _LOCAL] if way == _LOCAL_MINING else ["train.py"]
    command = [sys.executable, *program, "--model_dir", str(folder.resolve()), *study.ways[way].arguments]
    environments = _two_processes() if way == _TWO_PROCESSES else [{}]
    processes = [subprocess.Popen(command, cwd=ROOT, env={**os.environ, **more}) for more in environments]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(f"Expected {folder} to be trained. Received: exit codes {codes}")


def _two_processes() -> list[dict[str, str]]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        workers = [f"127.0.0.1:{free.getsockname()[1]}" for free in (one, other)]
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    return [{"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task})} for task in tasks]


def _print_table(runs: Path, name: str, seeds: list[int]) -> None:
    study = STUDIES[name]
    title = f"{name}: {study.recipe or 'defaults'} with {_told(study.changes)}"
    print(f"\n{title}; each seed, then mean ± standard deviation\n")
    print(f"{'':<26}" + "".join(f"{metric:<46}" for metric in study.metrics))
    for way in study.ways:
        row = f"{way:<26}"
        for metric in study.metrics:
            scores = [
                json.loads((_folder(runs, name, way, seed) / "metrics.json").read_text())["metrics"][metric]
                for seed in seeds
            ]
            each = " ".join(f"{score:.4f}" for score in scores)
            spread = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
            row += f"{f'{each}  {statistics.mean(scores):.4f}{spread}':<46}"
        print(row.rstrip(), flush=True)
    for way, how in study.ways.items():
        if how.changes:
            print(f"{way}: {_told(how.changes)}")


def _told(changes: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in changes.items())


if __name__ == "__main__":
    main()
