"""How a network looks at an image when it is tested: in evaluation, prediction, labelling and export alike."""

import dataclasses
import math

import paddle.nn.functional as F
from paddleseg.core import infer

from paddleseg_semi.errors import InputError


@dataclasses.dataclass(frozen=True)
class Testing:
    """The keys of `test_config` in a recipe, and the flags of the same names.

    Attributes:
        aug_eval (bool): average over `scales`, `flip_horizontal` and `flip_vertical`.
        scales (float|Sequence[float]): of the sides of an image, each above 0.
        is_slide (bool): a window of `crop_size` moved by `stride`, each (width, height) in pixels.
        shrinking (bool): windows at the right and lower border are smaller, and probabilities are added, as UniMatch
            and iMAS test on Cityscapes; False: they are shifted back inside, as PaddleSeg's.
        size_divisor (int, optional): the network sees an image, or a window of it, each side resized to the nearest
            multiple; the logits are resized back, both bilinear with aligned corners. Default: of any size.
        average_probs (bool): windows, scales and flips average probabilities; False: logits.

    Raises:
        InputError: a scale that is not above 0, a window that leaves gaps or has no size.
    """

    __test__ = False  # its name is not that of a test
    aug_eval: bool = False
    scales: float | tuple = 1.
    flip_horizontal: bool = False
    flip_vertical: bool = False
    is_slide: bool = False
    crop_size: tuple | None = None
    stride: tuple | None = None
    shrinking: bool = False
    size_divisor: int | None = None
    average_probs: bool = False

    def __post_init__(self):
        object.__setattr__(self, 'scales', tuple(check_scales(self.scales)))
        if self.is_slide:
            check_window(self.crop_size, self.stride)

    @classmethod
    def of(cls, section):
        """Testing: what a `test_config` says; its other keys are passed over."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in section.items() if key in names})

    @property
    def sums_probs(self):
        """bool: what comes out are probabilities, or sums of them; False: logits."""
        return self.average_probs or self.is_slide and self.shrinking

    def said(self):
        """dict: what is not as it is by default."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)
                if getattr(self, field.name) not in (field.default, (field.default,))}

    def infer(self, model, img, trans_info=None):
        """PaddleSeg's inference.

        Args:
            model (nn.Layer): in eval mode; returns a list of logits, the main one [N, C, h, w] first.
            img (Tensor): [N, 3, H, W].
            trans_info (list, optional): what its transforms did to its size, to be undone.

        Returns:
            tuple[Tensor, Tensor]: classes [N, 1, H, W], and logits or probabilities [N, C, H, W].
        """
        options = self._window()
        if self.aug_eval:
            return infer.aug_inference(self.network(model), img, trans_info=trans_info, scales=list(self.scales),
                                       flip_horizontal=self.flip_horizontal, flip_vertical=self.flip_vertical,
                                       **options)
        return infer.inference(self.network(model), img, trans_info=trans_info, **options)

    def network(self, model):
        """What PaddleSeg's inference is given instead of the network.

        Args:
            model (nn.Layer): returns a list of logits, the main one [N, C, H, W] first.

        Returns:
            Callable: images [N, 3, H, W] → a list of one tensor [N, C, H, W], probabilities or logits.
        """
        def run(img):
            size = img.shape[2:]
            if self.size_divisor:
                near = [max(int(side / self.size_divisor + 0.5), 1) * self.size_divisor for side in size]
                img = F.interpolate(img, near, mode='bilinear', align_corners=True)
            logits = infer.inference(model, img)
            if self.size_divisor:
                logits = F.interpolate(logits, size, mode='bilinear', align_corners=True)
            return [F.softmax(logits, axis=1) if self.sums_probs else logits]

        def windows(img):
            (height, width), total = img.shape[2:], 0.
            (wide, high), (right, down) = self.crop_size, self.stride
            for top in range(0, height, down):
                for left in range(0, width, right):
                    prob = run(img[:, :, top:top + high, left:left + wide])[0]
                    rest = width - left - prob.shape[3], height - top - prob.shape[2]
                    total += F.pad(prob, [left, rest[0], top, rest[1]])
            return [total]

        return windows if self.is_slide and self.shrinking else run

    def scores(self, model, img, scales=(1.,), flip=False):
        """Adds up a network's soft-max maps of an image at several scales, each also mirrored.

        Args:
            model (nn.Layer): in eval mode; returns a list of logits, the main one [N, C, h, w] first.
            img (Tensor): [N, 3, H, W] float32.
            scales (Sequence[float]): of the sides, which are cut off to whole pixels.
            flip (bool): mirror left and right as well.

        Returns:
            Tensor: [N, C, H, W] float32, 0 to the number of maps (and of windows, where these shrink).
        """
        (height, width), net, total = img.shape[2:], self.network(model), 0
        for scale in scales:
            size = [max(int(side * scale), 1) for side in (height, width)]
            view = F.interpolate(img, size, mode='bilinear', align_corners=True)
            for mirror in (False, True)[:1 + flip]:
                said = infer.inference(net, view.flip(3) if mirror else view, **self._window())
                prob = said if self.sums_probs else F.softmax(said, axis=1)
                prob = F.interpolate(prob, [height, width], mode='bilinear', align_corners=True)
                total = total + (prob.flip(3) if mirror else prob)
        return total

    def _window(self):
        """PaddleSeg's keywords of its own sliding window."""
        slides = self.is_slide and not self.shrinking
        return {'is_slide': True, 'crop_size': self.crop_size, 'stride': self.stride} if slides else {}


def check_scales(scales):
    """list[float]: the scales of an image, given as a number or several; InputError for what is not above 0."""
    scales = scales if isinstance(scales, (list, tuple)) else [scales]
    if not scales or not all(isinstance(scale, (int, float)) and 0 < scale < math.inf for scale in scales):
        raise InputError(f'--scales {" ".join(map(str, scales))}: give numbers above 0.')
    return [float(scale) for scale in scales]


def check_window(crop_size, stride):
    """InputError for a sliding window that leaves gaps or has no size; both are width and height in pixels."""
    if not crop_size or not stride:
        raise InputError('--is_slide: needs --crop_size W H and --stride W H.')
    pairs = all(isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(side, int) for side in pair)
                for pair in (crop_size, stride))
    if not pairs or min(*crop_size, *stride) < 1 or stride[0] > crop_size[0] or stride[1] > crop_size[1]:
        raise InputError(f'--crop_size {crop_size} --stride {stride}: give width and height of at least 1 pixel, and a '
                         'stride no larger than the window.')
