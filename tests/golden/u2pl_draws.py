"""The random numbers of the authors' runs of U2PL, in the places where ours are drawn."""

import numpy as np
from conftest import tensor


class Dice:
    """Stands in for a np.random.Generator.

    Args:
        draws (np.ndarray): [N, 3], the integers of the boxes in the order drawn.
        uniform (float, optional): of the decision to mix.

    Attributes:
        asked (list[tuple[int, int]]): ranges asked for, the upper end excluded.
    """

    def __init__(self, draws, uniform=None):
        self.draws, self.uniform, self.asked = iter(draws.ravel()), uniform, []

    def integers(self, low, high):
        self.asked.append((low, high))
        return next(self.draws)

    def random(self):
        return self.uniform


class Replay:
    """The draws of anchors and keys, class by class, in the place of `draw_uniformly`."""

    def __init__(self, case, prefix=''):
        self.draws = iter([case[f'{prefix}draw_{number:02d}'] for number in range(int(case[f'{prefix}draw_count']))])
        self.highs = iter(case[f'{prefix}draw_high'])

    def __call__(self, anchors, keys, num_queries, num_negatives):
        drawn = [np.zeros((len(anchors), number), 'int64') for number in (num_queries, num_queries * num_negatives)]
        for row in np.flatnonzero(anchors.numpy() * keys.numpy()):
            for numbers, high in zip(drawn, (anchors, keys)):
                assert next(self.highs) == high[row].item()
                numbers[row] = next(self.draws)
        return map(tensor, drawn)

    def is_used_up(self):
        return not list(self.draws)


def rows_of(bank, number):
    """The vectors of one class in a bank, oldest first."""
    return bank.take(tensor([number]), tensor(np.arange(bank.size[number].item())[None]))[0][0].numpy()


def fill(bank, case):
    """Puts the vectors a case begins with into an empty bank."""
    for number in range(len(bank.size)):
        vectors = case[f'bank_init_{number:02d}']
        if len(vectors):
            keys = np.zeros((len(bank.size), *vectors.shape), 'float32')
            keys[number] = vectors
            bank.push(tensor(keys), tensor((np.arange(len(bank.size)) == number) * len(vectors)))
