"""Trains small experiments and prints fingerprints of what came out, to compare two versions of this code.

    python -m benchmarks.same_bits > after.txt
    python -m benchmarks.same_bits --root ../an_older_checkout > before.txt
    diff before.txt after.txt

Each line: the experiment, the SHA-256 of its final checkpoint and of its scores. Of the checkpoint all weights, all
variables of the optimizer, random states and mined triplets count, and what evaluations found best; not what only tells
how and when a run was made. Of `metrics.json` the metrics, the choice of the checkpoint and the data count, to the last
bit.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

DATA: dict[str, dict[str, Any]] = {
    "digits": {"dataset": "digits", "image_size": None, "num_epochs": 10},
    "mnist": {"dataset": "mnist", "num_epochs": 1},
}

# Everything that a run can be made of: every kind of loss, of batches and of state.
SETTINGS: dict[str, dict[str, Any]] = {
    "batch_all": {},
    "batch_hard": {"triplet_strategy": "batch_hard", "use_batch_norm": True, "augmentation": "affine"},
    "semi_hard_cosine": {"triplet_strategy": "batch_semi_hard", "distance": "cosine"},
    "random_semi_hard_validation": {"triplet_strategy": "batch_random_semi_hard", "validation_size": 0.1},
    "offline": {"triplet_strategy": "offline_semi_hard"},
    "holdout_classes": {"holdout_classes": [8, 9], "num_classes_per_batch": 8, "num_images_per_class": 8},
}

_OF_THE_RUN = ("global_step", "watched_metric", "best_value", "best_step", "evaluations_without_best")


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose train.py is run")
    options = parser.parse_args()
    for data, common in DATA.items():
        for name, changes in SETTINGS.items():
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "params.json").write_text(json.dumps({**common, **changes}))
                command = [sys.executable, "train.py", "--model_dir", folder]
                if data != "digits":  # which come with scikit-learn
                    command += ["--data_dir", str(ROOT / "data" / data)]
                subprocess.run(command, cwd=options.root, check=True, stdout=subprocess.DEVNULL)
                print(f"{data:<8}{name:<30}{_of_checkpoint(Path(folder))}  {_of_scores(Path(folder))}", flush=True)


def _of_checkpoint(model_dir: Path) -> str:
    """Returns a fingerprint of the newest checkpoint."""
    import tensorflow as tf

    newest = max((model_dir / "checkpoints").glob("step-*"))
    reader = tf.train.load_checkpoint(str(newest / "tensors"))
    found = hashlib.sha256()
    for name in sorted(reader.get_variable_to_shape_map()):
        group, _, rest = name.partition("/")
        if group != "run" or rest in _OF_THE_RUN:
            tensor = reader.get_tensor(name)
            content = tensor if isinstance(tensor, bytes) else tensor.tobytes()
            found.update(f"{name} {getattr(tensor, 'shape', ())}".encode() + content)
    return f"{newest.name} {found.hexdigest()[:16]}"


def _of_scores(model_dir: Path) -> str:
    """Returns a fingerprint of `metrics.json`, and the first of its scores."""
    content = json.loads((model_dir / "metrics.json").read_text())
    counted = [content["metrics"], content.get("validation"), content["provenance"]["data_sha256"]]
    digest = hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()
    return f"{digest[:16]} 1-NN {content['metrics']['knn_accuracy']:.4f}"


if __name__ == "__main__":
    main()
