"""Networks. Importing fills PaddleSeg's registries."""

from paddleseg_semi.models import deeplabv2, deeplabv3p_semi, discriminator, resnet_caffe, resnet_deepstem  # noqa: F401
