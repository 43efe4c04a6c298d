"""Searches for tests, whose trials take no time: a script stands for train.py."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from model.common.commands import ROOT

# Does in a moment what train.py does in minutes, and keeps count of its starts. Once MOST trials have come to their end
# no other one does.
FAKE = """
import argparse, json, os, pathlib, signal, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--model_dir", type=pathlib.Path)
parser.add_argument("--validate", action="store_true")
parser.add_argument("--data_dir")
options = parser.parse_args()
assert options.validate
params = json.loads((options.model_dir / "params.json").read_text())
with (options.model_dir / "starts").open("a") as file:
    file.write(f"{os.getpid()}\\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
rate = params.get("learning_rate", 0.001)
print("learning", rate)
if len(list(options.model_dir.parent.glob("*/validation.json"))) >= MOST:
    time.sleep(60)
if rate == 0.5:
    print("no such rate")
    sys.exit(2)
accuracy = 1 - rate + params["seed"] / 1e6
scores = {"knn_accuracy": accuracy, "recall_at_1": accuracy, "map_at_r": 0.5, "roc_auc": 0.5, "eer": 0.5}
scores |= {"global_step": 1, "knn_accuracy_low95": accuracy - 0.1, "knn_accuracy_high95": accuracy + 0.1}
(options.model_dir / "validation.json").write_text(
    json.dumps({"checkpoint": {"name": "step-00000001", "digest": "0"}, "metrics": scores, "params": params})
)
"""

# The same with an evaluation on the way: good in the first five trials and poor in later ones, which do not end.
FAKE_THAT_IS_EVALUATED = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--model_dir") + 1])
finished = len(list(folder.parent.glob("*/validation.json")))
accuracy = 0.9 if finished < 5 else 0.1
(folder / "validation").mkdir()
(folder / "validation" / "evaluations.json").write_text(json.dumps([{"global_step": 10, "knn_accuracy": accuracy}]))
if finished >= 5:
    time.sleep(60)
scores = {"knn_accuracy": accuracy, "global_step": 20}
content = {"checkpoint": {"name": "step-00000020", "digest": "0"}, "metrics": scores, "params": {"seed": 1}}
(folder / "validation.json").write_text(json.dumps(content))
"""

RATES = {"learning_rate": [0.1, 0.2, 0.3]}


def write(folder, vary, params=None, **more):
    """Writes the two files of a search and returns its folder."""
    folder.mkdir(exist_ok=True)
    digits = {"dataset": "digits", "validation_size": 0.2}
    (folder / "params.json").write_text(json.dumps({**digits, **(params or {})}))
    (folder / "search.json").write_text(json.dumps({"vary": vary, **more}))
    return folder


def starts(folder):
    """How often each run was started, by its folder."""
    found = {
        path.parent.relative_to(folder).as_posix(): len(path.read_text().split()) for path in folder.rglob("starts")
    }
    return dict(sorted(found.items()))


def run_search(parent, *arguments):
    """Starts search_hyperparams.py with the fake, and without a look at the data, as a process."""
    code = (
        "import runpy, sys; from pathlib import Path; from model.studies import search; "
        f"search._TRAIN = Path({str(parent.parent / 'fake_train.py')!r}); search._SECONDS_BETWEEN_LOOKS = 0.02; "
        "search.Search.check_data = lambda self: None; "
        f"sys.argv = ['search', '--parent_dir', {str(parent)!r}, *{list(arguments)!r}]; "
        f"runpy.run_path({str(ROOT / 'search_hyperparams.py')!r}, run_name='__main__')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid):
    try:
        os.kill(pid, 0)
        # A process that has ended keeps its number, in state Z, until its parent asks for the exit code.
        return not Path("/proc").is_dir() or Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
