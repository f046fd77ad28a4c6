"""The fully connected CRF (Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011), on NumPy and SciPy; the library `pydensecrf` takes over where it is installed."""

import numpy as np
from scipy import sparse
from scipy.special import softmax

try:
    from pydensecrf import densecrf
except ImportError:
    densecrf = None

_LEAST = 1e-5  # a probability is at least this before its logarithm is taken


def dense_crf(prob, image, iters=10, gaussian=(3, 3), bilateral=(80, 13, 10)):
    """Mean-field inference: pixels near each other, all the more if their colors agree, come to share their labels.

    .. math:: q \\leftarrow softmax(\\log p + \\sum_m w_m N_m^{-1/2} K_m N_m^{-1/2} q), \\quad N = diag(K 1)

    Args:
        prob (np.ndarray): [K, H, W] float32: the probability, or any score from 0 to 1, of K labels.
        image (np.ndarray): [H, W, 3] uint8.
        iters (int, optional): mean-field steps; 0 gives `prob`, normalized. Default: 10.
        gaussian (tuple, optional): of the kernel on places, its standard deviation in pixels and its weight.
        bilateral (tuple, optional): of the kernel on places and colors, its standard deviations in pixels and in gray
            levels, and its weight.

    Returns:
        np.ndarray: [K, H, W] float32, probabilities. The library and the own inference agree within 5e-4.

    Raises:
        ValueError: image and prob differ in size, or the image is not 8-bit RGB.
    """
    return next(dense_crfs([prob], image, iters, gaussian, bilateral))


def dense_crfs(probs, image, iters=10, gaussian=(3, 3), bilateral=(80, 13, 10)):
    """Yields what :func:`dense_crf` gives for each of a list of `probs` of one image, whose lattices are built once."""
    for prob in probs:
        if image.shape != (*prob.shape[1:], 3) or image.dtype != np.uint8:
            raise ValueError(f'prob {prob.shape} needs an image of {(*prob.shape[1:], 3)} uint8, not {image.shape} '
                             f'{image.dtype}')
    if densecrf is None:
        infer, kernels = _infer, _kernels(image, gaussian, bilateral)
    else:
        infer, kernels = _infer_by_library, (image, gaussian, bilateral)
    for prob in probs:
        log_prob = np.log(prob.clip(_LEAST, 1)).reshape(len(prob), -1)
        yield infer(log_prob, iters, *kernels).reshape(prob.shape)


def _infer(log_prob, iters, *kernels):
    log_prob = np.ascontiguousarray(log_prob.T, 'float32')                                  # [pixels, K]
    q = softmax(log_prob, axis=1)
    for _ in range(iters):
        q = softmax(sum((kernel(q) for kernel in kernels), log_prob), axis=1)
    return np.ascontiguousarray(q.T)


def _infer_by_library(log_prob, iters, image, gaussian, bilateral):
    height, width = image.shape[:2]
    crf = densecrf.DenseCRF2D(width, height, len(log_prob))
    crf.setUnaryEnergy(np.ascontiguousarray(-log_prob, 'float32'))
    crf.addPairwiseGaussian(sxy=gaussian[0], compat=gaussian[1])
    crf.addPairwiseBilateral(sxy=bilateral[0], srgb=bilateral[1], rgbim=np.ascontiguousarray(image),
                             compat=bilateral[2])
    return np.array(crf.inference(iters), 'float32')


def _kernels(image, gaussian, bilateral):
    places = np.mgrid[:image.shape[0], :image.shape[1]].reshape(2, -1)[::-1].astype('float32')     # x and y
    colors = image.reshape(-1, 3).T.astype('float32')
    return [_Kernel(places / gaussian[0], gaussian[1]),
            _Kernel(np.concatenate([places / bilateral[0], colors / bilateral[1]]), bilateral[2])]


class _Kernel:
    """Gaussian filtering on a permutohedral lattice (Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the
    Permutohedral Lattice", 2010), normalized by N^(-1/2) on both sides.

    Points are spread over the corners of the simplices they lie in, corners are blurred along the d + 1 axes of the
    lattice, and points read off what has arrived at their corners.

    Args:
        points (np.ndarray): [d, n] float32, in standard deviations.
        weight (float): factor of the result.
    """

    def __init__(self, points, weight):
        self.shares, self.neighbors = _lattice(points)                                      # [n, corners], sparse
        norm = self(np.ones([points.shape[1], 1], 'float32'))[:, 0] + 1e-20
        self.shares.data *= np.repeat(np.sqrt(weight / norm).astype('float32'), len(points) + 1)

    def __call__(self, values):
        """[n, K] float32 → [n, K] float32."""
        corners = np.zeros([self.shares.shape[1] + 1, values.shape[1]], 'float32')  # the last is where none is: 0
        corners[:-1] = self.shares.T @ values
        for before, after in self.neighbors:
            corners[:-1] += 0.5 * (corners[before] + corners[after])
        return self.shares @ corners[:-1]


def _lattice(points):
    """The simplices around points.

    Returns:
        tuple[sparse.csr_matrix, list]: barycentric weights of their corners, [n, corners] float32; and per axis the
        numbers [corners] of the corners before and after each, `corners` where there is none.
    """
    d, n = points.shape
    # Points of the lattice have d + 1 integer coordinates of sum 0, equal modulo d + 1. Blurred by (1/2, 1, 1/2) along
    # every axis, a value spreads like a Gaussian of standard deviation 1 of the points before this map.
    axes = np.arange(1, d + 1, dtype='float32')[:, None]
    scaled = points * np.float32((2 / 3) ** 0.5 * (d + 1)) / np.sqrt(axes * (axes + 1))
    place = np.zeros([d + 1, n], 'float32')
    place[:-1] = scaled[::-1].cumsum(0)[::-1]
    place[1:] -= axes * scaled

    origin = np.ceil(place / (d + 1) - 0.5).astype('int64') * (d + 1)                       # nearest multiples of d + 1
    offset = place - origin
    rank = np.repeat(origin.sum(0, keepdims=True) // (d + 1), d + 1, 0)                     # largest offset first
    for i in range(d + 1):
        for j in range(i):
            first = offset[j] >= offset[i]
            rank[i] += first
            rank[j] += ~first
    turn = (d + 1) * ((rank < 0).astype('int64') - (rank > d))                              # makes the sum of origin 0
    rank, origin = rank + turn, origin + turn

    ordered, axis = np.empty_like(place), np.empty_like(rank)                               # the axis of every rank
    np.put_along_axis(ordered, d - rank, (place - origin) / (d + 1), 0)
    np.put_along_axis(axis, d - rank, np.arange(d + 1)[:, None], 0)
    weights = np.diff(ordered, axis=0, prepend=ordered[-1:] - 1)                            # [d + 1, n]

    low = origin[:d].min(1, keepdims=True) - 2 * (d + 1)                                    # neighbors of corners fit
    size = origin[:d].max(1) + 2 * (d + 1) - low[:, 0] + 1
    stride = np.concatenate([[1], size[:-1].cumprod(), [0]])                                # d numbers in one key
    step = stride.sum() - (d + 1) * stride                                                  # from corner to corner
    keys = np.concatenate([[stride[:d] @ (origin[:d] - low)], step[axis[:-1]]]).cumsum(0)   # [d + 1, n]
    corners = np.unique(keys)
    number = np.searchsorted(corners, keys.T)  # a quarter of the time of return_inverse

    shares = (weights.T / (1 + 2. ** -d) ** 0.5).ravel().astype('float32')
    shares = sparse.csr_matrix((shares, number.ravel(), np.arange(0, n * (d + 1) + 1, d + 1)), (n, len(corners)))
    return shares, [(_find(corners, corners - one), _find(corners, corners + one)) for one in step]


def _find(keys, wanted):
    """Positions of wanted keys among sorted ones; len(keys) where there is none."""
    place = np.searchsorted(keys, wanted)
    return np.where(keys[place.clip(max=len(keys) - 1)] == wanted, place, len(keys))
