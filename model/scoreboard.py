"""The scores of an experiment as a table to read."""

from collections.abc import Mapping

from model.protocol import HEADLINES

_GROUPS = ("", "seen/", "unseen/")


def tabulate(scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the headline scores as text: a block for all classes and, where there are any, for seen and unseen ones.

    Args:
        scores: By name, as `Estimator.evaluate` returns them; 95 % intervals stand in brackets.
        baselines: By the name of a baseline, its scores.
    """
    blocks = [_block(group, scores, baselines) for group in _GROUPS if f"{group}num_images" in scores]
    return "\n\n".join(blocks)


def _block(group: str, scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> str:
    title = f"{group.rstrip('/') or 'all'} classes, {scores[f'{group}num_images']:,.0f} images"
    lines = [f"{title:<30}{'95 % interval':>26}" + "".join(f"{name:>13}" for name in baselines)]
    for name in HEADLINES:
        key = group + name
        interval = ""
        if f"{key}_low95" in scores:
            interval = f"[{scores[f'{key}_low95']:.4f}, {scores[f'{key}_high95']:.4f}]"
        others = "".join(f"{baseline[key]:>13.4f}" for baseline in baselines.values())
        lines.append(f"  {name:<18}{scores[key]:>10.4f}{interval:>26}{others}")
    return "\n".join(lines)
