"""Networks. Importing fills PaddleSeg's registries."""

from paddleseg_semi.models import (  # noqa: F401
    affinity,
    camnet,
    deeplabv2,
    deeplabv3p_semi,
    dinov2,
    discriminator,
    dpt,
    efficientnet_lite,
    gated,
    resnet38d,
    resnet_caffe,
    resnet_deepstem,
    resnet_plain,
    sbnet,
    vgg16,
)
