"""DeepLabV3P with ResNet18_vd in PyTorch, its layers named as PaddleSeg's, so that the same weights fit."""

import torch
import torch.nn.functional as F
from torch import nn


class ConvBN(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride=1, dilation=1, groups=1, bias=False, relu=True):
        super().__init__()
        self._conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 * dilation, dilation, groups, bias)
        self._batch_norm = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x):
        x = self._batch_norm(self._conv(x))
        return F.relu(x) if self.relu else x


class Separable(nn.Module):
    def __init__(self, inputs, outputs, dilation=1):
        super().__init__()
        self.depthwise_conv = ConvBN(inputs, inputs, 3, dilation=dilation, groups=inputs, bias=True, relu=False)
        self.piontwise_conv = ConvBN(inputs, outputs, 1, bias=True)  # spelled as PaddleSeg does

    def forward(self, x):
        return self.piontwise_conv(self.depthwise_conv(x))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, dilation, first):
        super().__init__()
        self.conv0 = ConvBN(inputs, outputs, 3, stride, dilation)
        self.conv1 = ConvBN(outputs, outputs, 3, dilation=dilation, relu=False)
        if first:
            self.pool = nn.AvgPool2d(2, 2, ceil_mode=True) if stride == 2 else nn.Identity()
            self.short = ConvBN(inputs, outputs, 1, relu=False)
        self.first = first

    def forward(self, x):
        return F.relu(self.conv1(self.conv0(x)) + (self.short(self.pool(x)) if self.first else x))


class ResNet18vd(nn.Module):
    """Output stride 16, multi_grid (1, 2): features at strides 4 and 16."""

    def __init__(self):
        super().__init__()
        self.conv1_1, self.conv1_2, self.conv1_3 = ConvBN(3, 32, 3, 2), ConvBN(32, 32, 3), ConvBN(32, 64, 3)
        inputs = 64
        for stage, (outputs, stride, dilations) in enumerate([(64, 1, (1, 1)), (128, 2, (1, 1)), (256, 2, (1, 1)),
                                                              (512, 1, (2, 4))]):
            for i, dilation in enumerate(dilations):
                self.add_module(f'bb_{stage}_{i}',
                                Block(inputs, outputs, 1 if i else stride, dilation, first=not i))
                inputs = outputs

    def forward(self, x):
        x = F.max_pool2d(self.conv1_3(self.conv1_2(self.conv1_1(x))), 3, 2, 1)
        low = x = self.bb_0_1(self.bb_0_0(x))
        for stage in (1, 2, 3):
            for i in (0, 1):
                x = getattr(self, f'bb_{stage}_{i}')(x)
        return low, x


class ASPP(nn.Module):
    def __init__(self, inputs=512, outputs=256):
        super().__init__()
        self.aspp_blocks = nn.ModuleList([ConvBN(inputs, outputs, 1, bias=True),
                                          *(Separable(inputs, outputs, ratio) for ratio in (6, 12, 18))])
        self.global_avg_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvBN(inputs, outputs, 1))
        self.conv_bn_relu = ConvBN(5 * outputs, outputs, 1, bias=True)

    def forward(self, x):
        pooled = self.global_avg_pool(x).expand(-1, -1, *x.shape[2:])
        return self.conv_bn_relu(torch.cat([*(block(x) for block in self.aspp_blocks), pooled], 1))


class Decoder(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv_bn_relu1 = ConvBN(64, 48, 1, bias=True)
        self.conv_bn_relu2, self.conv_bn_relu3 = Separable(304, 256), Separable(256, 256)
        self.conv = nn.Conv2d(256, classes, 1)

    def forward(self, x, low):
        low = self.conv_bn_relu1(low)
        x = torch.cat([F.interpolate(x, low.shape[2:], mode='bilinear'), low], 1)
        return self.conv(self.conv_bn_relu3(self.conv_bn_relu2(x)))


class DeepLabV3P(nn.Module):
    """[N, 3, H, W] → logits [N, C, H, W].

    Args:
        weights (dict): PaddleSeg's, name → ndarray.
    """

    def __init__(self, weights):
        super().__init__()
        self.backbone = ResNet18vd()
        self.head = nn.ModuleDict({'aspp': ASPP(), 'decoder': Decoder(len(weights['head.decoder.conv.bias']))})
        renamed = {key.replace('._mean', '.running_mean').replace('._variance', '.running_var'): torch.tensor(value)
                   for key, value in weights.items()}
        counters = {key: value for key, value in self.state_dict().items() if key.endswith('num_batches_tracked')}
        self.load_state_dict({**counters, **renamed})
        self.eval()

    def forward(self, x):
        low, high = self.backbone(x)
        logits = self.head['decoder'](self.head['aspp'](high), low)
        return F.interpolate(logits, x.shape[2:], mode='bilinear')
