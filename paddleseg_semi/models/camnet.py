"""A classifier of images whose class activation maps are a segmentation (Zhou et al., 2016; Selvaraju et al., 2017)."""

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.errors import InputError, nearest
from paddleseg_semi.models.weights import load_pretrained

ATTENTIONS = ('gcam', 'cam')
BACKGROUND = 1e-5


@manager.MODELS.add_component
class CAMNet(nn.Layer):
    """Says which classes an image shows, and where it looked.

    Training uses :meth:`classify`. As a PaddleSeg model it shows the classes it has found itself, where their maps
    reach `threshold`; with known tags take :meth:`attend` and :func:`score_planes`, or :meth:`class_maps`, instead.

    Args:
        num_classes (int): C, the background included; the classifier has C - 1 outputs.
        backbone (nn.Layer): any PaddleSeg backbone with `feat_channels`; its last feature is pooled and classified.
        attention (str, optional): 'gcam': Grad-CAM, negative evidence cut off, the classifier a constant. 'cam': both
            signs, and the classifier learns from the map. Default: 'gcam'.
        threshold (float, optional): a stretched map, 0..1, below it is background. Default: 0.3.
        tag_threshold (float, optional): the probability, 0..1, from which a class counts as found. 0 finds all, as the
            authors of EADER do with images without tags. Default: 0.5.
        pool_size (int, optional): side of the pooled feature; 1 is global average pooling. Default: 1.
        hidden (tuple[int], optional): fully connected layers with ReLU before the last one; VGG-16 has (4096, 4096)
            after pooling to 7. Not with 'cam'. Default: ().
        dropout (float, optional): after each of them. Default: 0.5.
        pretrained (str, optional): path or URL of weights of the whole network. Default: None.

    Raises:
        InputError: `attention` is unknown, or 'cam' with hidden layers.
    """

    def __init__(self, num_classes, backbone, attention='gcam', threshold=0.3, tag_threshold=0.5, pool_size=1,
                 hidden=(), dropout=0.5, pretrained=None):
        if attention not in ATTENTIONS:
            raise InputError(f'model.attention: {attention}: known are {", ".join(ATTENTIONS)}.'
                             f'{nearest(attention, ATTENTIONS)}')
        if attention == 'cam' and (hidden or pool_size > 1):
            raise InputError('model.attention: cam needs a classifier directly on the global average. Take gcam, or '
                             'leave hidden and pool_size out.')
        super().__init__()
        self.backbone = backbone
        self.attention, self.threshold, self.tag_threshold = attention, threshold, tag_threshold
        self.pool_size = pool_size
        widths = [backbone.feat_channels[-1] * pool_size ** 2, *hidden]
        self.hidden = nn.LayerList([_linear(*sides) for sides in zip(widths, widths[1:])])
        self.dropout = nn.Dropout(dropout)
        self.fc = _linear(widths[-1], num_classes - 1)
        if pretrained is not None:
            load_pretrained(self, pretrained)

    def classify(self, x):
        """
        Args:
            x (Tensor): [N, 3, H, W].

        Returns:
            tuple[Tensor, Tensor]: logits of the tags [N, C-1]; the evidence for each class [N, C-1, h, w], at the size
                of the last feature and of any scale.
        """
        feature = self.backbone(x)[-1]                                                       # [N, K, h, w]
        pooled = F.adaptive_avg_pool2d(feature, self.pool_size).flatten(1)                   # [N, K·p·p]
        active = []
        for layer in self.hidden:
            pooled = self.dropout(F.relu(layer(pooled)))
            active.append(pooled > 0)
        return self.fc(pooled), self._evidence(feature, active)

    @paddle.amp.auto_cast(enable=False)  # the mask made of it is 100 times as steep
    def _evidence(self, feature, active):
        """Grad-CAM: features weighted by the spatial mean of the gradient of a class's logit, up to a positive factor.

        The gradient needs no pass backward: layers with ReLU multiply it by their weights, where they were active.
        """
        feature = feature.astype('float32')
        weight = self.fc.weight.t().unsqueeze(0)                                             # [1, C-1, last width]
        for layer, on in zip(reversed(self.hidden), reversed(active)):
            weight = paddle.matmul(weight * on.unsqueeze(1).astype(weight.dtype), layer.weight, transpose_y=True)
        weight = weight.reshape([-1, weight.shape[1], feature.shape[1], self.pool_size ** 2]).sum(3)
        if self.attention == 'gcam':
            weight = weight.detach()
        size = paddle.shape(feature)[2:]
        maps = paddle.matmul(weight, feature.flatten(2)).reshape([0, 0, size[0], size[1]])
        return F.relu(maps) if self.attention == 'gcam' else maps

    def class_maps(self, x):
        """Tensor: the evidence alone, [N, C-1, h, w]; what inference adds up over scales."""
        return self.classify(x)[1]

    def attend(self, x):
        """
        Args:
            x (Tensor): [N, 3, H, W].

        Returns:
            tuple[Tensor, Tensor]: logits of the tags [N, C-1]; attention to each class [N, C-1, H, W], 0..1.
        """
        logits, maps = self.classify(x)
        return logits, stretch(maps, paddle.shape(x)[2:])

    def forward(self, x):
        """
        Args:
            x (Tensor): [N, 3, H, W].

        Returns:
            list[Tensor]: one element, scores [N, C, H, W] whose argmax is the segmentation; see :func:`score_planes`.
        """
        logits, maps = self.attend(x)
        found = (F.sigmoid(logits) >= self.tag_threshold).astype(maps.dtype).unsqueeze([2, 3])
        return [score_planes(maps * found, self.threshold)]


def stretch(maps, size):
    """Resizes maps and stretches each to 0..1; a constant one becomes 0. Gradient flows through both ends.

    Args:
        maps (Tensor): [N, K, h, w].
        size (list[int]|Tensor): height and width.

    Returns:
        Tensor: [N, K, height, width].
    """
    maps = F.interpolate(maps, size, mode='bilinear')
    flat = maps.flatten(2)  # below, Paddle's broadcast would bind an exported network to one image per batch
    low = flat.take_along_axis(flat.argmin(2, keepdim=True), 2, broadcast=False).unsqueeze(3)
    span = flat.take_along_axis(flat.argmax(2, keepdim=True), 2, broadcast=False).unsqueeze(3) - low
    return (maps - low) / paddle.where(span > 0, span, paddle.ones_like(span))


def score_planes(maps, threshold):
    """Makes maps a segmentation: the largest one wins, and the background where all of them are below the threshold.

    Args:
        maps (Tensor): [N, C-1, H, W], 0..1; all 0 for a class that is not there.
        threshold (float): 0..1.

    Returns:
        Tensor: [N, C, H, W] scores, the background first. It wins at a score of 0 even with a threshold of 0.
    """
    kept = paddle.where(maps < threshold, paddle.zeros_like(maps), maps)
    return paddle.concat([paddle.full_like(kept[:, :1], BACKGROUND), kept], axis=1)


def _linear(in_features, out_features):
    # As PyTorch begins, where the authors' learning rates come from.
    start = nn.initializer.Uniform(-in_features ** -0.5, in_features ** -0.5)
    return nn.Linear(in_features, out_features, start, start)
