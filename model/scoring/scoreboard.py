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
    groups = [group for group in _GROUPS if scores.get(f"{group}num_images")]
    if "unseen/" in groups and "seen/" not in groups:
        groups.remove("")  # all classes are unseen
    blocks = [_block(group, scores, baselines) for group in groups]
    legend = [f"{name}: {meaning}" for name, meaning in HEADLINES.items() if any(f"  {name} " in b for b in blocks)]
    return "\n\n".join([*blocks, "\n".join(legend)])


def _block(group: str, scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> str:
    names = list(HEADLINES)
    title = f"{group.rstrip('/') or 'all'} classes, {scores[f'{group}num_images']:,.0f} images"
    if f"{group}num_queries" in scores:
        queries, size = scores[f"{group}num_queries"], scores[f"{group}num_gallery_images"]
        title += f"; {queries:,.0f} queries are looked up in {size:,.0f} gallery images"
    if scores.get(f"{group}knn_images") == 0:
        names.remove("knn_accuracy")
    return "\n".join(
        [title + _gallery(group, scores), *rows({name: group + name for name in names}, scores, baselines)]
    )


def rows(
    names: Mapping[str, str], scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Returns the lines of a table, the first of which names its columns.

    Args:
        names: What stands in front of each line -> the name of the score.
        scores: As for `tabulate`.
        baselines: As for `tabulate`.
    """
    lines = [f"{'':<32}{'network':>9}{'95 % interval':>20}" + "".join(f"{name:>12}" for name in baselines)]
    for name, key in names.items():
        interval = ""
        if f"{key}_low95" in scores:
            interval = f"[{scores[f'{key}_low95']:.4f}, {scores[f'{key}_high95']:.4f}]"
        others = "".join(f"{baseline[key]:>12.4f}" for baseline in baselines.values())
        lines.append(f"  {name:<30}{scores[key]:>9.4f}{interval:>20}{others}")
    return lines


def _gallery(group: str, scores: Mapping[str, float]) -> str:
    """Tells among how many training images a nearest one was looked for, and of how many images."""
    size = scores.get(f"{group}knn_gallery_images")
    if size is None:  # of an older version
        return ""
    asked, left_out = scores[f"{group}knn_images"], scores[f"{group}knn_images_left_out"]
    if not asked:
        return "; no knn_accuracy, as the training images hold none of these classes"
    without = f", without {left_out:,.0f} images of classes that these lack" if left_out else ""
    of_some = f" of {asked:,.0f} of them" if asked < scores[f"{group}num_images"] else ""
    return f"; knn_accuracy{of_some} among {size:,.0f} training images{without}"
