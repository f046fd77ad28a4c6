"""The look at pseudo labels: which crops, and what is counted."""

from types import SimpleNamespace

import cv2
import numpy as np
import paddle
import pytest
from paddleseg.transforms import Normalize, RandomHorizontalFlip, RandomPaddingCrop
from PIL import Image

from paddleseg_semi.core.probe import Probe
from paddleseg_semi.datasets.streams.unlabeled import UnlabeledStream
from paddleseg_semi.errors import InputError
from paddleseg_semi.methods.pseudo import Pseudo

CLASSES, CLOCK = 3, SimpleNamespace(iter=0)


@pytest.fixture
def photos(tmp_path):
    """Images whose gray level tells the class: 0, 100 or 200; narrower than the crop, so that some of it is padding."""
    rng, masks = np.random.default_rng(0), {}
    for number in range(7):
        label = np.kron(rng.integers(0, CLASSES, (4, 3)), np.ones((5, 5), int)).astype('uint8')
        image, mask = str(tmp_path / f'{number}.png'), str(tmp_path / f'{number}_mask.png')
        cv2.imwrite(image, np.repeat(label[..., None] * 100, 3, 2))
        label[0, 0] = 255
        Image.fromarray(label).save(mask)
        masks[image] = mask
    return masks


def stream(masks, oracle):
    transforms = [RandomPaddingCrop([18, 18]), RandomHorizontalFlip(), Normalize(mean=[0, 0, 0], std=[1, 1, 1])]
    return UnlabeledStream(list(masks), transforms, masks=masks if oracle else None)


class Colors:
    """Reads the class off the gray level, calls class 2 class 1, and keeps what is darker than class 2."""

    def __init__(self, teacher):
        self.model = paddle.nn.Layer()
        self.deployed = paddle.nn.Layer() if teacher else self.model

    def explain(self, unlabeled, clock):
        true = (unlabeled['weak'][:, 0] * 255 / 100).round().astype('int64').clip(0, 2)
        pseudo = Pseudo(true.clip(max=1), true.astype('float32') / 2, unlabeled['valid'])
        return pseudo, (true < 2) & pseudo.valid

    def pseudo_label(self, img):
        return Pseudo(paddle.zeros([len(img), *img.shape[2:]], 'int64'), None, None)


def test_counts(photos):
    probe = Probe(stream(photos, True), 3, 5, CLASSES)
    crops = list(probe.batches())
    assert [len(batch['weak']) for batch in crops] == [3, 3, 1]
    truth, valid = (np.concatenate([batch[name].numpy() for batch in crops]) for name in ('truth', 'valid'))
    assert not valid.all() and (truth[~valid] == 255).all()
    gray = np.concatenate([batch['weak'].numpy() for batch in crops])[:, 0]
    seen = np.round(gray * 255 / 100).astype(int).clip(0, 2)
    known = valid & (truth != 255)
    np.testing.assert_array_equal(truth[known], seen[known])

    pseudo, share, oracle = probe.look(Colors(teacher=True), CLOCK)
    assert pseudo == pytest.approx({'crops': 7, 'kept': (seen < 2)[valid].mean(), 'conf': seen[valid].mean() / 2,
                                    'gap': (seen > 0)[valid].mean()})
    kept = seen[valid & (seen < 2)]
    np.testing.assert_allclose(share, [(kept == 0).mean(), (kept == 1).mean(), 0], rtol=1e-6)
    hit, many = (seen < 2)[known].mean(), [(seen == c)[known].sum() for c in range(3)]
    assert oracle == pytest.approx({'Acc': hit, 'kept_Acc': 1, 'mIoU': (1 + many[1] / (many[1] + many[2])) / 3})


def test_without_masks_and_teacher(photos):
    pseudo, _, oracle = Probe(stream(photos, False), 3, 5, CLASSES).look(Colors(teacher=False), CLOCK)
    assert oracle == {} and 'gap' not in pseudo


def test_same_crops_every_time_and_at_most_32(photos):
    many = {f'{image}': mask for image, mask in photos.items()}
    long = UnlabeledStream(list(many) * 9, [RandomPaddingCrop([18, 18]), Normalize()])
    probe = Probe(long, 5, 5, CLASSES)
    first, second = ([batch['weak'].numpy() for batch in probe.batches()] for _ in range(2))
    assert sum(map(len, first)) == 32
    for one, other in zip(first, second):
        np.testing.assert_array_equal(one, other)


def test_nothing_kept(photos):
    method = Colors(teacher=False)
    method.explain = lambda unlabeled, clock: (Colors.explain(method, unlabeled, clock)[0],
                                               paddle.zeros_like(unlabeled['valid']))
    pseudo, share, oracle = Probe(stream(photos, True), 3, 5, CLASSES).look(method, CLOCK)
    assert pseudo['kept'] == 0 and not share.any() and oracle['kept_Acc'] == 0


def test_mask_of_another_size(photos):
    path = list(photos.values())[0]
    Image.fromarray(np.zeros([3, 3], 'uint8')).save(path)
    with pytest.raises(InputError, match=r'is \[3, 3\], but its image \[20, 15\]'):
        Probe(stream(photos, True), 3, 5, CLASSES).look(Colors(teacher=False), CLOCK)
