"""The scores of an experiment as a table to read."""

import math
from collections.abc import Iterable, Mapping

from model.scoring.protocol import HEADLINES

_GROUPS = ("", "seen/", "unseen/")


# A title, and the lines of its table: what each cell says. The first line names the columns.
Table = tuple[str, list[list[str]]]


def tabulate(scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the headline scores as text: for all classes, for seen and unseen ones, and what they mean.

    Args:
        scores: By name, as `Estimator.evaluate` returns them; 95 % intervals stand in brackets.
        baselines: By the name of a baseline, its scores.
    """
    found = tables(scores, baselines)
    blocks = ["\n".join([title, *map(_line, cells)]) for title, cells in found]
    legend = [f"{name}: {meaning}" for name, meaning in meanings(found).items()]
    return "\n\n".join([*blocks, "\n".join(legend)])


def tables(scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> list[Table]:
    """Returns the headline scores as `tabulate` lays them out, a table for each group of classes.

    Example:
        >>> [(title, lines)] = tables({"num_images": 4.0, "eer": 0.25}, {"raw pixels": {"eer": 0.5}})
        >>> title, lines[0], lines[-1]
        ('all classes, 4 images', ['', 'network', '95 % interval', 'raw pixels'], ['eer', '0.2500', '', '0.5000'])
    """
    groups = [group for group in _GROUPS if scores.get(f"{group}num_images")]
    if "unseen/" in groups and "seen/" not in groups:
        groups.remove("")  # all classes are unseen
    return [_table(group, scores, baselines) for group in groups]


def meanings(found: Iterable[Table]) -> dict[str, str]:
    """Returns what the headline scores that stand in some tables mean, by name.

    Example:
        >>> meanings([("all classes", [["", "network"], ["roc_auc", "0.9"]])])
        {'roc_auc': 'a pair of one class is nearer than a pair of two'}
    """
    named = {cells[0] for _, lines in found for cells in lines}
    return {name: meaning for name, meaning in HEADLINES.items() if name in named}


def _table(group: str, scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> Table:
    names = list(HEADLINES)
    title = f"{group.rstrip('/') or 'all'} classes, {scores[f'{group}num_images']:,.0f} images"
    if f"{group}num_queries" in scores:
        queries, size = (scores.get(f"{group}{name}", math.nan) for name in ("num_queries", "num_gallery_images"))
        title += f"; {queries:,.0f} queries are looked up in {size:,.0f} gallery images"
    if scores.get(f"{group}knn_images") == 0:
        names.remove("knn_accuracy")
    return title + _gallery(group, scores), _cells({name: group + name for name in names}, scores, baselines)


def rows(
    names: Mapping[str, str], scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Returns the lines of a table, the first of which names its columns.

    Args:
        names: What stands in front of each line -> the name of the score.
        scores: As for `tabulate`.
        baselines: As for `tabulate`.

    Example:
        >>> head, line = rows({"error": "error"}, {"error": 0.25}, {"raw pixels": {"error": 0.5}})
        >>> line.split()
        ['error', '0.2500', '0.5000']
    """
    return [_line(cells) for cells in _cells(names, scores, baselines)]


def _cells(
    names: Mapping[str, str], scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]
) -> list[list[str]]:
    """Returns what the lines say; NaN where a file of another version lacks a score."""
    lines = [["", "network", "95 % interval", *baselines]]
    for name, key in names.items():
        interval = ""
        if f"{key}_low95" in scores:
            interval = f"[{scores[f'{key}_low95']:.4f}, {scores.get(f'{key}_high95', math.nan):.4f}]"
        others = (f"{baseline.get(key, math.nan):.4f}" for baseline in baselines.values())
        lines.append([name, f"{scores.get(key, math.nan):.4f}", interval, *others])
    return lines


def _line(cells: list[str]) -> str:
    name, score, interval, *others = cells
    return f"  {name:<30}{score:>9}{interval:>20}" + "".join(f"{other:>12}" for other in others)


def _gallery(group: str, scores: Mapping[str, float]) -> str:
    """Tells among how many training images a nearest one was looked for, and of how many images."""
    size = scores.get(f"{group}knn_gallery_images")
    if size is None:  # of an older version
        return ""
    asked, left_out = (scores.get(f"{group}{name}", math.nan) for name in ("knn_images", "knn_images_left_out"))
    if not asked:
        return "; no knn_accuracy, as the training images hold none of these classes"
    without = f", without {left_out:,.0f} images of classes that these lack" if left_out else ""
    of_some = f" of {asked:,.0f} of them" if asked < scores[f"{group}num_images"] else ""
    return f"; knn_accuracy{of_some} among {size:,.0f} training images{without}"
