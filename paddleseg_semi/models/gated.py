"""Classes that a classifier of whole photos does not find, taken out of what a segmenter says (MLMT of s4GAN: Mittal et
al., 2019)."""

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.models.weights import load_pretrained

_NEVER = -1e4  # logit of a class that is not there: probability 0, and a number in float16 too


@manager.MODELS.add_component
class Tagger(nn.Layer):
    """A classifier of whole photos, background included: the last feature of a backbone and a 1x1 convolution, whose
    mean over the photo are the class logits.

    Args:
        num_classes (int): C.
        backbone (nn.Layer): any PaddleSeg backbone with `feat_channels`.
        pretrained (str, optional): path or URL of weights of the whole network. Default: None.
    """

    def __init__(self, num_classes, backbone, pretrained=None):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2D(backbone.feat_channels[-1], num_classes, 1)
        if pretrained is not None:
            load_pretrained(self, pretrained)

    def forward(self, x):
        """
        Args:
            x (Tensor): [N, 3, H, W].

        Returns:
            list[Tensor]: one element, [N, C, H, W]: the class logits of the photo at every pixel.
        """
        logits = class_logits(self.head(self.backbone(x)[-1]))
        size = paddle.shape(x)[2:]
        return [logits.unsqueeze([2, 3]).expand([-1, -1, size[0], size[1]])]


@manager.MODELS.add_component
class Gated(nn.Layer):
    """A segmenter that is held to the classes a classifier finds. For evaluation, prediction and export; the two are
    trained apart, with the same `Normalize`.

    Args:
        num_classes (int): C.
        segmenter (nn.Layer): a PaddleSeg model; its main output counts.
        classifier (nn.Layer): a PaddleSeg model that was trained by `MLMT`.
        threshold (float, optional): probability, 0..1, below which a class is not there. Default: 0.2.
        classifier_size (tuple[int], optional): height and width of what the classifier sees. Default: the photo's own.
        reference_quirks (bool, optional): as the published code, set the logits of absent classes to 0, which beats
            negative ones. Default: False.
        in_channels (int, optional): of the photos, as PaddleSeg's builder says it; the two networks have their own.
            Default: 3.
        pretrained (str, optional): path or URL of weights of both. Default: None.
    """

    def __init__(self, num_classes, segmenter, classifier, threshold=0.2, classifier_size=None, reference_quirks=False,
                 in_channels=3, pretrained=None):
        super().__init__()
        self.segmenter, self.classifier = segmenter, classifier
        self.threshold, self.classifier_size, self.reference_quirks = threshold, classifier_size, reference_quirks
        if pretrained is not None:
            load_pretrained(self, pretrained)

    def forward(self, x):
        """
        Args:
            x (Tensor): [N, 3, H, W].

        Returns:
            list[Tensor]: one element, the logits [N, C, H, W], those of absent classes far below all others.
        """
        small = x if self.classifier_size is None else F.interpolate(x, self.classifier_size, mode='bilinear')
        scores = F.sigmoid(class_logits(self.classifier(small)[0]))
        return [gate(self.segmenter(x)[0], scores, self.threshold, self.reference_quirks)]


def class_logits(logits):
    """Logits of a photo's classes: those of its pixels, averaged.

    Args:
        logits (Tensor): [N, C, H, W].

    Returns:
        Tensor: [N, C].
    """
    return logits.mean([2, 3])


def gate(logits, scores, threshold, reference_quirks=False):
    """Takes absent classes out of a segmentation. A photo in which no class is found keeps it as it is.

    Args:
        logits (Tensor): [N, C, H, W], of a segmenter.
        scores (Tensor): [N, C], 0..1, how probable it is that the photo shows a class.
        threshold (float): a score equal to it is enough.
        reference_quirks (bool, optional): multiply the logits by 0 and 1 instead. Default: False.

    Returns:
        Tensor: [N, C, H, W].
    """
    found = (scores >= threshold).unsqueeze([2, 3])
    if reference_quirks:
        return logits * found.astype(logits.dtype)
    found = found | ~found.any(1, keepdim=True)
    return paddle.where(found, logits, paddle.full_like(logits, _NEVER))
