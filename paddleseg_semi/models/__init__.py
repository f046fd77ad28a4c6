"""Networks. Importing fills PaddleSeg's registries."""

from paddleseg_semi.models import deeplabv2, discriminator, resnet_caffe  # noqa: F401
