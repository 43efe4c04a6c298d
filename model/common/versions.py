"""What results come from: code, libraries, hardware, data. Where these differ, so may numbers."""

import functools
import hashlib
import importlib
import importlib.metadata
import math
import platform
import subprocess
from dataclasses import dataclass

from model.common.commands import ROOT


@dataclass(frozen=True)
class Provenance:
    """What scores depend on beside the parameters, and what the training cost.

    Attributes:
        trained_by: `code_version` of the last training step.
        evaluated_by: `code_version` of the evaluation.
        versions: `library_versions` of the evaluation.
        hardware: What it ran on, as `devices.describe` says it.
        data_sha256: Of all images and labels, as `Dataset.sha256` gives it.
        train_seconds: Of the training steps and of mining for them, at the pace of those that were timed; None where
            none was.
        images_per_second: Images that the network saw in one of these seconds.
    """

    trained_by: str
    evaluated_by: str
    versions: dict[str, str]
    hardware: str
    data_sha256: str
    train_seconds: float | None = None
    images_per_second: float | None = None

    def __post_init__(self) -> None:
        if not all(
            isinstance(text, str) for text in (self.trained_by, self.evaluated_by, self.hardware, self.data_sha256)
        ):
            raise TypeError(f"Expected text in all fields that name something. Received: {self}")
        for cost in (self.train_seconds, self.images_per_second):
            if cost is not None and (isinstance(cost, bool) or not 0 <= cost < math.inf):
                raise ValueError(f"Expected numbers from 0 up, or None, of what training took. Received: {self}")


@functools.cache
def code_version() -> str:
    """Returns the git commit of this code, with "+changes" where files are not as committed; "" outside of git."""
    if not (ROOT / ".git").exists():  # an enclosing repository is not ours
        return ""
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no", "*.py"])
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+changes" if changes else "")


@functools.cache
def source_sha256() -> str:
    """Returns a digest of this program, without its tests: what it kept is made anew once it has changed."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "model").rglob("*.py")):
        if "tests" not in path.parts:
            found.update(path.read_bytes())
    return found.hexdigest()


def library_versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that decide what is computed."""
    libraries = {"tensorflow": "tensorflow", "keras": "keras", "numpy": "numpy", "scikit-learn": "sklearn"}
    versions = {library: _version(library, module) for library, module in libraries.items()}
    return {"python": platform.python_version(), **versions}


def _version(library: str, module: str) -> str:
    """Returns the version of a library; where it was installed under another name, as tensorflow-cpu, what it says."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return str(importlib.import_module(module).__version__)
