"""The commands of this program as a person types them."""

import shlex
import shutil
import sys
from pathlib import Path

# Where the scripts lie.
ROOT = Path(__file__).parents[2]


def command(script: str, model_dir: Path, *arguments: str, data_dir: Path | None = None) -> str:
    """Returns how a script is called for an experiment.

    Args:
        script: Its name, such as "evaluate.py".
        model_dir: Folder of the experiment.
        *arguments: What else it is told.
        data_dir: The --data_dir that the command was given which shows this one; None where it was given none.

    Example:
        >>> command("evaluate.py", Path("experiments/mine"), "--checkpoint", "last")
        'python evaluate.py --model_dir experiments/mine --checkpoint last'
    """
    data = [] if data_dir is None else ["--data_dir", str(data_dir)]
    return shlex.join(["python", script, "--model_dir", str(model_dir), *data, *arguments])


def tensorboard_command(logdir: Path) -> str:
    """Returns how TensorBoard is called: by its name, or by its path if its environment is not activated."""
    program = "tensorboard" if shutil.which("tensorboard") else str(Path(sys.executable).with_name("tensorboard"))
    return shlex.join([program, "--logdir", str(logdir)])
