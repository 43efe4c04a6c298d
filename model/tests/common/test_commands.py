"""Commands that are shown can be pasted into a shell."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from model.common import commands

NAMES = ["experiments/mine", "my run (1)", "it's; rm -rf $HOME", "-n", 'größe\n"x" `y` *?[!', "~"]


def test_where_the_scripts_lie():
    assert {"train.py", "evaluate.py", "model"} <= {path.name for path in commands.ROOT.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_passes_on_what_was_meant(tmp_path, name):
    (tmp_path / "show.py").write_text("import sys; print(ascii(sys.argv))")
    (tmp_path / "python").symlink_to(sys.executable)
    shown = commands.command("show.py", Path(name), "--checkpoint", name)
    result = subprocess.run(
        ["/bin/sh", "-c", f"PATH={shlex.quote(str(tmp_path))}; {shown}"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout == f"{['show.py', '--model_dir', name, '--checkpoint', name]!a}\n"


def test_a_command_reads_as_one_types_it():
    assert (
        commands.command("evaluate.py", Path("experiments/mine")) == "python evaluate.py --model_dir experiments/mine"
    )
    assert (
        commands.command("train.py", Path("mine"), "--check", data_dir=Path("my data"))
        == "python train.py --model_dir mine --data_dir 'my data' --check"
    )


def test_tensorboard_is_called_by_its_name_where_that_is_found(tmp_path, monkeypatch):
    program = tmp_path / "tensorboard"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commands.tensorboard_command(Path("my runs")) == "tensorboard --logdir 'my runs'"
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    name, *arguments = shlex.split(commands.tensorboard_command(Path("my runs")))
    assert Path(name) == Path(sys.executable).parent / "tensorboard" and arguments == ["--logdir", "my runs"]
