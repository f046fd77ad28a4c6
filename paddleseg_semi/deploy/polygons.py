"""The outlines of classes, exact to the pixel."""

import cv2
import numpy as np


def outlines(classes, skip=(), tolerance=0.0):
    """Finds a polygon around every connected region of a class (diagonal neighbors are connected).

    Vertices lie on the corners of pixels: pixel (0, 0) is the square from 0, 0 to 1, 1. A hole is part of the one
    ring of its region, which goes there and comes back along the same line; so with tolerance 0 both the even-odd and
    the nonzero rule fill exactly the pixels of the region, and the signed area of the ring is their number.

    Args:
        classes (ndarray): uint8 [h, w].
        skip (Collection[int]): classes without polygons.
        tolerance (float): how far, in pixels, a simplified outline may be from the true one.

    Yields:
        tuple: the class, and its ring, float64 [K, 2] of x, y.
    """
    for number in np.flatnonzero(np.bincount(classes.ravel(), minlength=256)):
        if number in skip:
            continue
        doubled = cv2.resize(cv2.inRange(classes, int(number), int(number)), None, fx=2, fy=2,
                             interpolation=cv2.INTER_NEAREST)  # columns 2x and 2x + 1 are the edges of pixel x
        rings, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        rings = [_to_corners(ring, tolerance) for ring in rings]
        for i, (_, _, hole, parent) in enumerate(tree[0]):
            if parent != -1 or len(rings[i]) < 3:
                continue
            holes = []
            while hole != -1:
                holes.append(rings[hole])
                hole = tree[0][hole][0]
            yield int(number), _with_holes(rings[i], [ring for ring in holes if len(ring) > 2])


def area(ring):
    """float: how many pixels a ring encloses, its holes not counted."""
    x, y = ring.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _to_corners(ring, tolerance):
    """A contour of the doubled mask → float [K, 2]: the corners of pixels it goes along, without those in between."""
    ring = (ring[:, 0] + 1) // 2
    if tolerance:
        ring = cv2.approxPolyDP(ring.astype('int32'), tolerance, closed=True)[:, 0]
    ring = ring[(ring != np.roll(ring, 1, 0)).any(1)]
    if len(ring):
        before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
        ring = ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return ring.astype(float)


def _with_holes(ring, holes):
    """Joins holes to a ring, leftmost first: from a hole's upper left corner straight left to what is there."""
    starts = [int(np.lexsort((hole[:, 1], hole[:, 0]))[0]) for hole in holes]
    for (x, y), hole in sorted(((tuple(hole[start]), np.roll(hole, -start, 0)) for hole, start in zip(holes, starts)),
                               key=lambda pair: pair[0]):
        (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, 0).T
        with np.errstate(divide='ignore', invalid='ignore'):
            met = np.where((y0 <= y) != (y1 <= y), x0 + (y - y0) * (x1 - x0) / (y1 - y0), np.inf)
        met[met > x] = -np.inf
        edge = int(met.argmax())
        if met[edge] == -np.inf:
            continue  # simplified, the hole is no longer inside
        gate = [[met[edge], y]]
        ring = np.concatenate([ring[:edge + 1], gate, hole, hole[:1], gate, ring[edge + 1:]])
    return ring
