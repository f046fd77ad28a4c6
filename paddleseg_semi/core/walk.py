"""Random walks that carry the scores of an image to where it shows the same: AffinityNet (Ahn and Kwak, CVPR 2018) and,
with class boundaries instead of features, IRN (Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation
with Inter-pixel Relations", CVPR 2019).

The papers square the dense matrix of transitions; here the scores themselves take all the steps of the walk, through a
sparse matrix. Time and memory grow with the number of pixels, not with its square.
"""

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
from scipy import sparse

from paddleseg_semi.core.cams import with_background
from paddleseg_semi.datasets.maps import CELL, cell_means
from paddleseg_semi.models.affinity import affinities, fitting_radius, from_sources, half_disk
from paddleseg_semi.models.modes import evaluating


def refine(net, img, cams, alpha=6, beta=8, log_steps=6, radius=5):
    """Lets the maps of an image walk where its features are alike.

    Args:
        net (nn.Layer): an `AffinityNet`.
        img (np.ndarray): [3, H, W] float32, as the network was trained on.
        cams (np.ndarray): [K, H, W] float32, 0..1, maps of the classes it shows; there may be none.
        alpha (float, optional): see :func:`cell_scores`. Default: 6.
        beta, log_steps (optional): see :func:`walk`. Default: 8, 6.
        radius (int, optional): pairs are nearer than this, in cells; as in training. Default: 5.

    Returns:
        np.ndarray: [K + 1, H, W] float32, scores of background and classes.
    """
    height, width = img.shape[1:]
    scores = cell_scores(cams, alpha)
    steps = half_disk(fitting_radius(radius, *scores.shape[1:]))
    if steps:
        padded = F.pad(paddle.to_tensor(img).unsqueeze(0), [0, -width % CELL, 0, -height % CELL])
        with evaluating(net), paddle.no_grad():
            scores = walk(scores, affinities(net(padded)[0], steps)[0].numpy(), steps, beta, log_steps)
    return enlarged(scores, height, width)


def cell_scores(cams, alpha):
    """The mean scores of cells of 8x8 pixels; what sticks out at the right and at the bottom scores 0.

    Args:
        cams (np.ndarray): [K, H, W] float32, 0..1.
        alpha (float): the background scores (1 - max cam) ** alpha: the higher, the less there is of it.

    Returns:
        np.ndarray: [K + 1, ceil(H / 8), ceil(W / 8)] float32, the background first.
    """
    height, width = cams.shape[1:]
    scores = with_background(range(1, len(cams) + 1), cams, alpha)[1]
    return cell_means(np.pad(scores, [(0, 0), (0, -height % CELL), (0, -width % CELL)]))


def enlarged(scores, height, width):
    """np.ndarray: scores [K, h, w] of cells, bilinearly at every pixel of [K, height, width]."""
    size = scores.shape[2] * CELL, scores.shape[1] * CELL
    return np.stack([cv2.resize(each, size, interpolation=cv2.INTER_LINEAR)[:height, :width] for each in scores])


def walk(scores, affinity, steps, beta=8, log_steps=6):
    """Scores after a random walk over neighbors.

    .. math:: s \\leftarrow s T^{2^{log\\_steps}}, \\quad T_{ij} = A_{ij}^\\beta / \\sum_k A_{kj}^\\beta

    Args:
        scores (np.ndarray): [K, h, w] float32.
        affinity (np.ndarray): [P, h', w'], 0..1: A, of each source and the pixel each step leads to; 1 with itself and
            0 for all other pairs.
        steps (list[tuple[int, int]]): P of them; see `models.affinity.half_disk`.
        beta (float, optional): the higher, the fewer pairs still count as alike. Default: 8.
        log_steps (int, optional): the walk has 2 ** log_steps steps. Default: 6.

    Returns:
        np.ndarray: [K, h, w] float32.
    """
    return _walk(scores, _symmetric(affinity, beta, steps, *scores.shape[1:]), log_steps)


def walk_between(scores, edge, radius=5, beta=10, log_steps=8):
    """The walk of IRN: pixels are alike unless a boundary runs between them, and none starts on a boundary.

    Args:
        scores (np.ndarray): [K, h, w] float32.
        edge (np.ndarray): [h, w] float32, 0..1, where classes end.
        radius, beta, log_steps (optional): as in :func:`refine` and :func:`walk`. Default: 5, 10, 8.

    Returns:
        np.ndarray: [K, h, w] float32.
    """
    # A frame of boundary lets border pixels see all of their neighbors inside.
    framed = np.pad(edge, [(0, radius), (radius, radius)], constant_values=1)
    steps = half_disk(radius)
    pairs = _symmetric(edge_affinities(framed, steps), beta, steps, *framed.shape)
    inside = np.zeros(framed.shape, bool)
    inside[:edge.shape[0], radius:-radius] = True
    return _walk(scores * (1 - edge), pairs[inside.ravel()][:, inside.ravel()], log_steps)


def edge_affinities(edge, steps):
    """How free of boundaries the way to each neighbor is.

    .. math:: a_{ij} = 1 - \\max_{k \\in strip(i, j)} e_k

    Args:
        edge (np.ndarray): [h, w] float32, 0..1.
        steps (list[tuple[int, int]]): P of them.

    Returns:
        np.ndarray: [P, h', w'] float32, between each source and the pixel each step leads to.
    """
    at = from_sources(edge, steps)
    return np.stack([1 - np.max([at(*cell) for cell in strip(*step)], axis=0) for step in steps])


def strip(dy, dx):
    """list[tuple[int, int]]: the cells (y, x) less than one away from the line from (0, 0) to (dy, dx), both included,
    farthest first."""
    rows, columns = (range(min(end, 0), max(end, 0) + 1) for end in (dy, dx))
    cells = [(y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < dy * dy + dx * dx]
    return sorted(cells, key=lambda cell: -abs(cell[0]) - abs(cell[1]))


def _symmetric(affinity, beta, steps, height, width):
    """Sparse [n, n] float64 of n = height * width pixels: the pairs to the power of beta, both ways round, and ones on
    the diagonal."""
    at = from_sources(np.arange(height * width, dtype='int32').reshape(height, width), steps)
    target = np.stack([at(*step) for step in steps])
    source = np.broadcast_to(at(0, 0), target.shape)
    values = affinity.astype('float64').ravel() ** beta
    half = sparse.csr_matrix((values, (source.ravel(), target.ravel())), (height * width, height * width))
    return half + half.T + sparse.identity(height * width, format='csr')


def _walk(scores, pairs, log_steps):
    # T is symmetric but for the division of its columns, so as a matrix of rows it averages over neighbors. In float32
    # the sums of rows, not quite 1, would add up over hundreds of steps.
    average = sparse.diags(1 / np.asarray(pairs.sum(1))[:, 0]) @ pairs
    values = np.ascontiguousarray(scores.reshape(len(scores), -1).T, 'float64')
    for _ in range(2 ** log_steps):
        values = average @ values
    return values.T.reshape(scores.shape).astype('float32')
