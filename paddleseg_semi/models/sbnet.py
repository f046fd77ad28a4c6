"""The network of SBNet: class activation maps as in SEAM, beside a branch that finds class boundaries."""

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddleseg.cvlibs import manager

from paddleseg_semi.errors import InputError
from paddleseg_semi.models.cam import competing, normalized, pixel_correlation, resize
from paddleseg_semi.models.weights import load_pretrained

_THRESHOLDS = 10, 100  # of Canny


@manager.MODELS.add_component
class SBNet(nn.Layer):
    """Says which classes an image shows and where, and where they end.

    Training uses :meth:`maps`. As a PaddleSeg model it segments by the refined maps of the classes it has found itself;
    when the tags are known take `core.cams.cams` instead. The defaults fit `ResNet38d`.

    Args:
        num_classes (int): C, the background included.
        backbone (nn.Layer): a PaddleSeg backbone with `feat_channels`; its last feature is classified.
        affinity_indices (tuple[int], optional): its features by which pixels are compared. Default: (3, 4).
        affinity_channels (tuple[int], optional): channels they are reduced to. Default: (64, 128).
        boundary_indices (tuple[int], optional): its features that show boundaries, the largest first.
            Default: (0, 2, 4, 5).
        boundary_channels (int, optional): channels each is reduced to. Default: 32.
        background (float, optional): score of the background in the segmentation, 0..1. Default: 0.26.
        pretrained (str, optional): path or URL of weights of the whole network. Default: None.
    """

    def __init__(self, num_classes, backbone, affinity_indices=(3, 4), affinity_channels=(64, 128),
                 boundary_indices=(0, 2, 4, 5), boundary_channels=32, background=0.26, pretrained=None):
        super().__init__()
        channels = backbone.feat_channels
        for key, indices in (('affinity_indices', affinity_indices), ('boundary_indices', boundary_indices)):
            if not indices or not all(0 <= index < len(channels) for index in indices):
                raise InputError(f'model.{key}: {list(indices)}: {type(backbone).__name__} has the features 0 to '
                                 f'{len(channels) - 1}.')
        if len(affinity_channels) != len(affinity_indices):
            raise InputError(f'model.affinity_channels: {list(affinity_channels)}: give one number per feature of '
                             f'affinity_indices {list(affinity_indices)}.')
        self.backbone = backbone
        self.affinity_indices, self.boundary_indices, self.background = affinity_indices, boundary_indices, background
        self.seam = Seam(num_classes, [channels[i] for i in affinity_indices], affinity_channels, channels[-1])
        self.boundary = BoundaryBranch(num_classes, [channels[i] for i in boundary_indices], boundary_channels)
        if pretrained is not None:
            load_pretrained(self, pretrained)

    def maps(self, x, edges=None):
        """
        Args:
            x (Tensor): [N, 3, H, W].
            edges (Tensor, optional): [N, 1, H, W] float32, of :func:`canny`.

        Returns:
            tuple[Tensor]: [N, C, H, W] each: the class activation maps, of any scale; the same refined, without
                gradient to the former; logits of the boundaries, or None without `edges`.
        """
        features = self.backbone(x)
        cam, refined = self.seam(x, [features[i] for i in self.affinity_indices], features[-1])
        boundary = None if edges is None else self.boundary([features[i] for i in self.boundary_indices], edges)
        size = paddle.shape(x)[2:]
        return resize(cam, size), resize(refined, size), boundary

    def class_maps(self, x):
        """Tensor: the refined maps of the classes alone, [N, C-1, H, W]; what inference adds up over scales."""
        return self.maps(x)[1][:, 1:]

    def forward(self, x):
        """
        Args:
            x (Tensor): [N, 3, H, W].

        Returns:
            list[Tensor]: one element, scores [N, C, H, W] in 0..1 whose argmax is the segmentation.
        """
        cam, refined, _ = self.maps(x)
        found = (cam.mean([2, 3], keepdim=True) > 0).astype(cam.dtype)                      # [N, C, 1, 1]
        scores = (normalized(refined) * found)[:, 1:]
        return [paddle.concat([paddle.full_like(scores[:, :1], self.background), scores], axis=1)]


class Seam(nn.Layer):
    """A classifier of every pixel, and the features by which pixels correlate.

    Args:
        num_classes (int): C.
        affinity_in (list[int]): channels of the features that are compared.
        affinity_channels (list[int]): channels they are reduced to.
        channels (int): of the feature that is classified.
    """

    def __init__(self, num_classes, affinity_in, affinity_channels, channels):
        super().__init__()
        self.dropout = nn.Dropout2D(0.5)
        self.classifier = nn.Conv2D(channels, num_classes, 1, bias_attr=False,
                                    weight_attr=nn.initializer.XavierUniform())
        self.reduce = nn.LayerList([
            nn.Conv2D(*sides, 1, bias_attr=False, weight_attr=nn.initializer.KaimingNormal())
            for sides in zip(affinity_in, affinity_channels)])
        joined, out_channels = 3 + sum(affinity_channels), sum(affinity_channels)
        bound = 4 * (6 / (joined + out_channels)) ** 0.5  # Xavier, four times as wide
        self.embed = nn.Conv2D(joined, out_channels, 1, bias_attr=False,
                               weight_attr=nn.initializer.Uniform(-bound, bound))

    def forward(self, x, features, last):
        """
        Args:
            x (Tensor): [N, 3, H, W], the image; of a gray one, [N, 1, H, W], the channel counts three times.
            features (list[Tensor]): to be compared; they get no gradient.
            last (Tensor): [N, channels, h, w], to be classified.

        Returns:
            tuple[Tensor]: maps and refined maps, [N, C, h, w].
        """
        x = paddle.concat([x, x, x], axis=1) if x.shape[1] == 1 else x
        cam = self.classifier(self.dropout(last))
        size = paddle.shape(cam)[2:]
        reduced = [resize(F.relu(conv(feature.detach())), size) for conv, feature in zip(self.reduce, features)]
        feature = self.embed(paddle.concat([resize(x, size), *reduced], axis=1))
        return cam, pixel_correlation(competing(normalized(cam.detach(), from_min=False)), feature)


class BoundaryBranch(nn.Layer):
    """Finds class boundaries in features of several depths and in plain edges.

    Args:
        num_classes (int): C.
        in_channels (list[int]): channels of the features.
        channels (int): each is reduced to.
    """

    def __init__(self, num_classes, in_channels, channels):
        super().__init__()
        self.reduce = nn.LayerList([
            nn.Sequential(nn.Conv2D(width, channels, 1), nn.ReLU(), nn.Conv2D(channels, channels, 3, padding=1),
                          nn.ReLU()) for width in in_channels])
        joined = channels * len(in_channels)
        self.attend = ChannelAttention(joined)
        self.classifier = nn.Conv2D(joined, num_classes, 3, padding=1)
        self.fuse = nn.Conv2D(2 * num_classes, num_classes, 1, bias_attr=False)

    def forward(self, features, edges):
        """
        Args:
            features (list[Tensor]): the first has the size at which boundaries are found.
            edges (Tensor): [N, 1, H, W].

        Returns:
            Tensor: logits [N, C, H, W].
        """
        size = paddle.shape(features[0])[2:]
        joined = paddle.concat([resize(conv(feature), size) for conv, feature in zip(self.reduce, features)], axis=1)
        logits = resize(self.classifier(self.attend(joined)), paddle.shape(edges)[2:])
        return self.fuse(paddle.concat([logits, edges.expand_as(logits)], axis=1))


class ChannelAttention(nn.Layer):
    """A residual block that adds to each channel what the mean of all channels says about it.

    Args:
        channels (int): of input and output.
        reduction (int, optional): factor by which the mean is squeezed. Default: 16.
    """

    def __init__(self, channels, reduction=16):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2D(channels, channels, 3, padding=1), nn.ReLU(),
                                  nn.Conv2D(channels, channels, 3, padding=1))
        squeezed = max(channels // reduction, 1)
        self.squeeze = nn.Sequential(nn.Conv2D(channels, squeezed, 1), nn.ReLU(), nn.Conv2D(squeezed, channels, 1))

    def forward(self, x):
        residual = self.body(x)
        return x + residual + self.squeeze(F.adaptive_avg_pool2d(residual, 1))


def canny(images, mean, std, reference_quirks=False):
    """Edges of images. OpenCV makes them on the host, which waits for the device, once for all views.

    Args:
        images (Tensor|list[Tensor]): [N, 3, H, W] as the network sees them, (RGB / 255 - mean) / std; or several such
            views.
        mean, std (Sequence[float]): see above.
        reference_quirks (bool, optional): as the published code, take the normalized numbers themselves for bytes,
            negative ones for 256 more, and call an edge 255. Default: False.

    Returns:
        Tensor|list[Tensor]: [N, 1, H, W] float32, 1 on edges and 0 elsewhere; as many as there are views.
    """
    views = [images] if isinstance(images, paddle.Tensor) else images
    sizes = [view.size for view in views]
    arrays = np.split(paddle.concat([view.flatten() for view in views]).numpy(), np.cumsum(sizes[:-1]))
    edges = [_edges(array.reshape(view.shape), mean, std, reference_quirks) for array, view in zip(arrays, views)]
    both = paddle.to_tensor(np.concatenate([found.ravel() for found in edges])).split([found.size for found in edges])
    found = [part.reshape(edge.shape) for part, edge in zip(both, edges)]
    return found[0] if isinstance(images, paddle.Tensor) else found


def _edges(images, mean, std, reference_quirks):
    """[N, 3, H, W] → [N, 1, H, W], both float32 arrays."""
    images = images.transpose(0, 2, 3, 1)
    if reference_quirks:
        images = images.astype('int32').astype('uint8')
    else:
        images = np.rint((images * std + mean) * 255).clip(0, 255).astype('uint8')
    edges = np.stack([cv2.Canny(np.ascontiguousarray(image), *_THRESHOLDS) for image in images])[:, None]
    return edges.astype('float32') if reference_quirks else edges.astype('float32') / 255
