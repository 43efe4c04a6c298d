"""The scores of an experiment as a table to read."""

from collections.abc import Mapping

from model.scoring.protocol import HEADLINES

_GROUPS = ("", "seen/", "unseen/")


def tabulate(scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the headline scores as text: for all classes, for seen and unseen ones, and what they mean.

    Args:
        scores: By name, as `Estimator.evaluate` returns them; 95 % intervals stand in brackets.
        baselines: By the name of a baseline, its scores.
    """
    blocks = [_block(group, scores, baselines) for group in _GROUPS if scores.get(f"{group}num_images")]
    return "\n\n".join([*blocks, "\n".join(f"{name}: {meaning}" for name, meaning in HEADLINES.items())])


def _block(group: str, scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> str:
    title = f"{group.rstrip('/') or 'all'} classes, {scores[f'{group}num_images']:,.0f} images"
    lines = [f"{title:<32}{'network':>9}{'95 % interval':>20}" + "".join(f"{name:>12}" for name in baselines)]
    for name in HEADLINES:
        key = group + name
        interval = ""
        if f"{key}_low95" in scores:
            interval = f"[{scores[f'{key}_low95']:.4f}, {scores[f'{key}_high95']:.4f}]"
        others = "".join(f"{baseline[key]:>12.4f}" for baseline in baselines.values())
        lines.append(f"  {name:<30}{scores[key]:>9.4f}{interval:>20}{others}")
    return "\n".join(lines)
