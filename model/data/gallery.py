"""A gallery from outside -> the image files in which new images are looked up, each with the name of its class.

It is a folder of class folders, a folder with an `images.csv`, or a CSV file of that form, read as those of a data set
are. There are no splits: all images are enrolled.
"""

from pathlib import Path

from model.common.errors import UserError, explain
from model.data import class_folders, images_csv
from model.data.listing import ListedImage, Listing


def find(path: Path) -> Listing:
    """Finds the images of a gallery, at least one; no image is decoded.

    Raises:
        UserError: It is not there, or not in one of these forms.
    """
    try:
        if not path.is_dir():
            return images_csv.read_all(path)
        if (path / images_csv.NAME).exists():
            return images_csv.read_all(path / images_csv.NAME)
        return _find_class_folders(path)
    except OSError as error:
        raise UserError(
            f"{explain(error, path)}; --gallery expects a folder of class folders, or a CSV file with the columns "
            "path and label"
        ) from None


def _find_class_folders(folder: Path) -> Listing:
    splits = class_folders.find_splits(folder)
    if "all" not in splits.roots:
        inside = [root.relative_to(folder).as_posix() for root in splits.roots.values()]
        raise UserError(
            f"{folder}: has {' and '.join(f'{name}/' for name in inside)}, expected class folders; name one of these"
        )
    root, notes = splits.roots["all"], list(splits.notes)
    (found,) = class_folders.find_images([root])
    if not found.classes:
        raise UserError(f"{folder}: holds no class folder with images, expected one for each class; add them")
    class_folders.check_parents(folder, found.classes)
    if found.left_out:
        notes.append(f"{root}: no images, and left out: {class_folders.describe(found.left_out)}")
    files = [ListedImage("all", name, path) for name, paths in found.classes.items() for path in paths]
    return Listing(files, tuple(notes))
