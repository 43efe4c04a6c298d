"""What is known of an export, and the README that says it: shapes, types, the resize rule, threshold, and ten lines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.exports.formats import FORMATS

_RATES = ("verification_threshold", "false_accept_rate", "false_reject_rate")


@dataclass(frozen=True)
class Threshold:
    """The euclidean distance up to which two images are taken for the same class, and how often that is wrong.

    Attributes:
        distance: The threshold.
        false_accept_rate: Of pairs of different classes.
        false_reject_rate: Of pairs of one class.
        images: "unseen" if the test images of classes that were never trained on chose and judged it, as two new images
            are of such classes; else "test".
    """

    distance: float
    false_accept_rate: float
    false_reject_rate: float
    images: str = "test"

    @classmethod
    def of(cls, scores: Mapping[str, float], group: str) -> "Threshold":
        """Returns that of an evaluation by which `predict.py --pair` decides.

        Args:
            scores: By name.
            group: What stands before the names: `Record.calibrated_group`.
        """
        distance, accepted, rejected = (scores[group + name] for name in _RATES)
        return cls(distance, accepted, rejected, "unseen" if group else "test")


@dataclass(frozen=True)
class Facts:
    """What there is to know of an export.

    Attributes:
        format: Of `FORMATS`.
        dataset: What was learned from.
        step: Of the checkpoint.
        digest: Of the checkpoint.
        image_shape: Height, width and channels of an image.
        image_fit: As in `Params`.
        image_bits: As in `Params`.
        num_images: How many images the gallery has; None of a network.
        embedding_size: D.
        has_unit_length: Whether all embeddings have length 1.
        test_time_augmentation: As in `Params`.
        is_scored: Whether this checkpoint was evaluated.
        threshold: None if it was not, or if its test images have too few pairs of one class.
        num_compared: Images of which embeddings were compared with the network's own.
        difference: The largest one of any of their numbers.
        precision: Of the training.
        difference_in_training: The largest one from the embeddings in that precision; None if it was float32.
    """

    format: str
    dataset: str
    step: int
    digest: str
    image_shape: tuple[int, int, int]
    image_fit: str
    image_bits: int
    num_images: int | None
    embedding_size: int
    has_unit_length: bool
    test_time_augmentation: str
    is_scored: bool
    threshold: Threshold | None
    num_compared: int
    difference: float
    precision: str
    difference_in_training: float | None

    def as_json(self) -> dict[str, Any]:
        """Returns what programs read."""
        threshold = self.threshold
        return {
            "format": self.format,
            "dataset": self.dataset,
            "checkpoint": {"step": self.step, "digest": self.digest},
            "images": {"shape": [None, *self.image_shape], "dtype": "uint8", "fit": self.image_fit},
            "embeddings": {
                "shape": [self.num_images, self.embedding_size],
                "dtype": "float32",
                "unit_length": self.has_unit_length,
            },
            "threshold": threshold
            and {
                "euclidean_distance": threshold.distance,
                "false_accept_rate": threshold.false_accept_rate,
                "false_reject_rate": threshold.false_reject_rate,
                "of": threshold.images,
            },
            "largest_difference": self.difference,
            "largest_difference_to_training": self.difference_in_training,
            "images_compared": self.num_compared,
        }


def text(facts: Facts) -> str:
    """Returns the README of an export, in Markdown."""
    parts = [
        f"# {facts.dataset}, {FORMATS[facts.format].title}",
        f"The checkpoint of step {facts.step:,}, digest {facts.digest[:16]}. `export.json` tells programs the same.",
        _of_gallery(facts) if facts.format == "embeddings" else _of_network(facts),
        _of_distances(facts),
        _of_comparison(facts),
        _of_use(facts),
    ]
    return "\n\n".join(parts) + "\n"


def example(facts: Facts) -> str:
    """Returns ten lines that use an export, are started in its folder, and need nothing of this project."""
    if facts.format == "embeddings":
        return _SEARCH
    imports, opens, embeds = _BY_FORMAT[facts.format]
    height, width, channels = facts.image_shape
    size = f"({width}, {height})"
    resized = {
        "stretch": f"image.resize({size}, Image.Resampling.BILINEAR)",
        "crop": f"ImageOps.fit(image, {size}, Image.Resampling.BILINEAR)",
        "pad": f"ImageOps.pad(image, {size}, Image.Resampling.BILINEAR, color=0)",
    }[facts.image_fit]
    distance = "np.linalg.norm(a - b)"
    verdict = f'"same" if {distance} <= {facts.threshold.distance:.6g} else "different", ' if facts.threshold else ""
    return f"""{imports}
from PIL import Image, ImageOps

def load(path):  # {facts.image_shape} uint8
    image = ImageOps.exif_transpose(Image.open(path)).convert("{"L" if channels == 1 else "RGB"}")
    return np.asarray({resized}).reshape({height}, {width}, {channels})

{opens}
a, b = {embeds}
print({verdict}{distance})
"""


_TWO = "np.stack([load(path) for path in sys.argv[1:3]])"
# The imports, what opens the file, and what embeds two images.
_BY_FORMAT = {
    "saved_model": (
        "import sys\nimport numpy as np, tensorflow as tf",
        'network = tf.saved_model.load("1")',
        f'network.serve(tf.constant({_TWO}))["embeddings"].numpy()',
    ),
    "litert": (
        "import sys\nimport numpy as np\nfrom ai_edge_litert.interpreter import Interpreter",
        'embed = Interpreter("model.tflite").get_signature_runner()',
        f'embed(images={_TWO})["embeddings"]',
    ),
    "onnx": (
        "import sys\nimport numpy as np, onnxruntime",
        'network = onnxruntime.InferenceSession("model.onnx")',
        f'network.run(["embeddings"], {{"images": {_TWO}}})[0]',
    ),
}
_SEARCH = """import csv, sys
import faiss, numpy as np

embeddings = np.load("embeddings.npy")
with open("images.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
    images = list(csv.DictReader(file))
index = faiss.IndexFlatL2(embeddings.shape[1])  # or qdrant_client, with Distance.EUCLID
index.add(embeddings)
squared, found = index.search(embeddings[[int(sys.argv[1])]], 6)  # itself, and the five nearest
for distance, row in zip(squared[0] ** 0.5, found[0]):
    print(row, *(images[row][what].encode("unicode_escape").decode() for what in ("label", "name")), distance)
"""


def _of_network(facts: Facts) -> str:
    height, width, channels = facts.image_shape
    color = "grey" if channels == 1 else "red, green, blue"
    fit = {
        "stretch": "both sides are stretched",
        "crop": "the shorter side is resized and the middle cut out",
        "pad": "the longer side is resized and black added",
    }[facts.image_fit]
    bits = ""
    if channels == 1:
        bits = f" Grey values of 16 bits are divided by {2 ** (facts.image_bits - 8)}, to 255 at most."
    views = {
        "off": "",
        "mirror": " An image and its mirror image are embedded and averaged in it.",
        "shifts": " An image and eight shifted ones are embedded and averaged in it.",
    }[facts.test_time_augmentation]
    return f"""| | name | shape | type |
|---|---|---|---|
| input | `images` | (N, {height}, {width}, {channels}), any N | uint8, 0 to 255, {color} |
| output | `embeddings` | (N, {facts.embedding_size}) | float32{", of length 1" if facts.has_unit_length else ""} |

Scaling to [0, 1] and all else that the network expects is inside.{views}

Images of another size: {fit}, to {width} x {height} (width x height), bilinear and antialiased, as `Image.resize` of
Pillow does. Other libraries resize otherwise: embeddings then differ. Photos are set upright by EXIF first, and
transparent pixels laid on black.{bits} The ten lines below set images upright, and expect 8 bits and nothing
transparent. Images have to look as those that were learned from, also in
polarity, size and place of what they show: what `predict.py` does to drawings on a plain background is not inside."""


def _of_gallery(facts: Facts) -> str:
    length = ", of length 1" if facts.has_unit_length else ""
    return f"""| file | what is in it |
|---|---|
| `embeddings.npy` | ({facts.num_images}, {facts.embedding_size}) float32{length}, a row for each image |
| `images.csv` | UTF-8: `id` (the row, from 0), `name` (the file below the folder of the data, or its number), `label` |

All training images, embedded in float32; images that were turned have no names. Look new images up by embeddings of the
same checkpoint: the other exports of this digest give them."""


def _of_distances(facts: Facts) -> str:
    of_length_1 = " Neighbours by cosine are the same, as embeddings have length 1." if facts.has_unit_length else ""
    compared = f"Embeddings are compared by their euclidean distance.{of_length_1}"
    threshold = facts.threshold
    if threshold is None:
        lacking = "the test images have too few pairs of one class" if facts.is_scored else "it was not evaluated"
        return f"{compared} This checkpoint has no threshold, as {lacking}."
    distance, accepted, rejected = threshold.distance, threshold.false_accept_rate, threshold.false_reject_rate
    judged = "test images" + " of classes that were never trained on" * (threshold.images == "unseen")
    return f"""{compared} Two images are taken for the same class up to
**{distance:.6g}** (searches that give squared distances, such as `IndexFlatL2` of faiss: {distance**2:.6g}),
chosen by one half of the {judged} and judged by the other: of pairs of different classes {accepted:.2%} were
accepted, of pairs of one class {rejected:.2%} rejected."""


def _of_comparison(facts: Facts) -> str:
    said = (
        f"When this was written, it was read again and {compared(facts)} were compared\n"
        f"with the network's own embeddings in float32: the largest difference was {facts.difference:.2g}."
    )
    if facts.difference_in_training is None:
        return said
    return (
        f"{said}\nThe convolutions of the training, and of the evaluation, were in {facts.precision}: from those\n"
        f"embeddings the largest difference was {facts.difference_in_training:.2g}."
    )


def compared(facts: Facts) -> str:
    """Returns which images were compared, as "256 test images"."""
    kind = {"test": "test images", "train": "training images"}[FORMATS[facts.format].compared]
    return f"{facts.num_compared} {kind}"


def _of_use(facts: Facts) -> str:
    packages = {
        "saved_model": "tensorflow pillow",
        "litert": "ai-edge-litert pillow",
        "onnx": "onnxruntime pillow",
        "embeddings": "faiss-cpu",
    }[facts.format]
    arguments = "the number of an image" if facts.format == "embeddings" else "two image files"
    return f"""With `pip install {packages}`, started in this folder with {arguments}:

```python
{example(facts)}```"""
