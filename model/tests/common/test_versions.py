"""The version of the code is that of its own repository, and says when files are not as committed."""

import importlib.metadata
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from model.common import versions
from model.data.dataset import Dataset, Split


def git(folder, *arguments):
    who = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org"]
    command = ["git", "-C", folder, *who, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of two files, which stands for the one of this code."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "loss.py").write_text("margin = 1\n")
    (tmp_path / "README.md").write_text("Read me.\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "All")
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    return tmp_path


def test_the_commit(repository):
    commit = git(repository, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert versions.code_version.__wrapped__() == commit
    (repository / "README.md").write_text("Read me again.\n")  # computes nothing
    (repository / "new.py").write_text("")
    assert versions.code_version.__wrapped__() == commit


def test_changed_code(repository):
    (repository / "model" / "loss.py").write_text("margin = 2\n")
    assert versions.code_version.__wrapped__() == git(repository, "rev-parse", "HEAD") + "+changes"


def test_no_version_without_a_repository_of_its_own(repository, monkeypatch):
    """An installed copy inside somebody's repository is not of that repository's commit."""
    monkeypatch.setattr(versions, "ROOT", repository / "model")
    assert versions.code_version.__wrapped__() == ""


def test_no_version_without_git(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert versions.code_version.__wrapped__() == ""


def test_a_repository_that_git_cannot_read(repository):
    (repository / ".git" / "HEAD").write_text("nonsense")
    assert versions.code_version.__wrapped__() == ""


@pytest.mark.parametrize("part", ["train.images", "train.labels", "test.images", "test.labels"])
def test_data_differ_by_one_number(part):
    def data():
        splits = [Split(np.zeros((3, 2, 2, 1), np.uint8), np.arange(3, dtype=np.int32)) for _ in range(2)]
        return Dataset("two", *splits, ("a", "b", "c"))

    other = data()
    split, name = part.split(".")
    getattr(getattr(other, split), name)[-1] += 1
    assert data().sha256 == data().sha256 != other.sha256


def test_a_tensorflow_that_was_installed_under_another_name(monkeypatch):
    def version(name):
        if name == "tensorflow":  # as after `pip install tensorflow-cpu`
            raise importlib.metadata.PackageNotFoundError(name)
        return f"{name} of the metadata"

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = versions.library_versions()
    assert found["tensorflow"] == tf.__version__
    assert found["scikit-learn"] == "scikit-learn of the metadata"
