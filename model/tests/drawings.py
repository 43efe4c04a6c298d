"""Digits that nobody photographed: lines drawn by a program, for tests of images from outside a data set."""

import math

from PIL import Image, ImageDraw

STROKES = {
    0: [[(0.5 + 0.2 * math.sin(t * math.pi / 8), 0.5 - 0.4 * math.cos(t * math.pi / 8)) for t in range(17)]],
    1: [[(0.55, 0.1), (0.45, 0.9)]],
    2: [[(0.25, 0.3), (0.35, 0.12), (0.6, 0.1), (0.75, 0.28), (0.65, 0.5), (0.25, 0.88), (0.8, 0.88)]],
    3: [[(0.25, 0.15), (0.55, 0.1), (0.72, 0.25), (0.6, 0.42), (0.42, 0.48), (0.65, 0.55), (0.75, 0.72), (0.6, 0.88),
         (0.25, 0.85)]],
    4: [[(0.45, 0.08), (0.22, 0.6), (0.78, 0.6)], [(0.58, 0.4), (0.5, 0.92)]],
    5: [[(0.75, 0.1), (0.35, 0.1), (0.3, 0.45), (0.55, 0.42), (0.72, 0.6), (0.62, 0.82), (0.25, 0.88)]],
    6: [[(0.65, 0.08), (0.4, 0.35), (0.28, 0.65), (0.38, 0.88), (0.6, 0.88), (0.7, 0.7), (0.55, 0.55), (0.32, 0.65)]],
    7: [[(0.22, 0.15), (0.75, 0.12), (0.6, 0.45), (0.42, 0.92)]],
    8: [[(0.68, 0.2), (0.5, 0.1), (0.34, 0.22), (0.42, 0.42), (0.62, 0.58), (0.68, 0.78), (0.5, 0.9), (0.32, 0.78),
         (0.4, 0.56), (0.64, 0.38), (0.68, 0.2)]],
    9: [[(0.7, 0.25), (0.5, 0.1), (0.32, 0.25), (0.38, 0.45), (0.6, 0.45), (0.7, 0.25), (0.66, 0.6), (0.55, 0.92)]],
}  # fmt: skip


def draw(digit, size=(280, 280), ink=255, paper=0, pen=0.1):
    """A digit as somebody might draw it, in grey, in the upper left part of a picture of (width, height)."""
    picture = Image.new("L", size, paper)
    side = 0.6 * min(size)
    brush, width = ImageDraw.Draw(picture), max(1, round(side * pen))
    for stroke in STROKES[digit]:
        points = [(0.05 * size[0] + x * side, 0.15 * size[1] + y * side) for x, y in stroke]
        brush.line(points, ink, width, joint="curve")
        for x, y in (points[0], points[-1]):
            brush.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=ink)
    return picture
