"""DPT on a tiny DINOv2: sizes that are no multiples of the patch, export at any size, frozen encoders."""

import functools

import numpy as np
import paddle
import pytest
from conftest import close, tensor
from paddle import nn
from tiny import make_photos, make_recipe

from paddleseg_semi.core.export import export
from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
from paddleseg_semi.cvlibs.builder import _trained_groups
from paddleseg_semi.deploy.backends import PaddleBackend
from paddleseg_semi.deploy.bundle import Bundle
from paddleseg_semi.deploy.convert import to_onnx
from paddleseg_semi.errors import InputError
from paddleseg_semi.models import dinov2
from paddleseg_semi.models.dinov2 import Attention, DINOv2, layer_groups
from paddleseg_semi.models.dpt import DPT

RNG = np.random.default_rng(0)


def tiny(**kwargs):
    paddle.seed(0)
    backbone = DINOv2(16, 4, 2, (0, 1, 2, 3), img_size=70, **kwargs)
    net = DPT(3, backbone, 8, (8, 8, 8, 8))
    for name, param in net.named_parameters():  # a zero class token and equal scales would hide mistakes
        if name.endswith(('cls_token', 'gamma', 'register_tokens')):
            param.set_value(1 + 0.5 * RNG.standard_normal(param.shape).astype('float32'))
    return net


def images(*shape):
    return tensor(RNG.standard_normal(shape).astype('float32'))


@pytest.mark.parametrize('size', [(56, 70), (70, 70), (50, 64), (14, 20), (5, 90)])
@pytest.mark.parametrize('knobs', [{}, {'registers': 2}, {'swiglu': True}], ids=str)
def test_any_size_in_evaluation(size, knobs):
    net = tiny(**knobs)
    net.eval()
    logits, = net(images(2, 3, *size))
    assert logits.shape == [2, 3, *size] and logits.isfinite().all()


def test_crops_that_do_not_fit_are_refused():
    net = tiny()
    net.train()
    assert net(images(1, 3, 56, 70))[0].shape == [1, 3, 56, 70]
    with pytest.raises(InputError, match=r'crops are \[64, 70\]: DINOv2 is trained on .* such as \[70, 70\]'):
        net(images(1, 3, 64, 70))


@pytest.mark.parametrize('knobs', [{}, {'registers': 2}], ids=str)
def test_exported_at_any_size(knobs, tmp_path):
    net = tiny(**knobs)
    export(net, str(tmp_path), [{'type': 'Normalize'}], output_op='none')
    bundle = Bundle.read(str(tmp_path / 'deploy.yaml'))
    engines = [PaddleBackend(bundle, engine=engine) for engine in ('paddle', 'onednn')]
    net.eval()
    with paddle.no_grad():
        for size in ((56, 70), (70, 70), (98, 42), (50, 64), (14, 90)):
            x = images(2, 3, *size)
            for engine in engines:
                close(engine.run(x.numpy()), net(x)[0], rtol=1e-4, atol=1e-3)
    operators = (tmp_path / 'model.json').read_text()
    assert 'flash_attn' not in operators and 'softmax' in operators


def test_frozen_encoder():
    net = tiny(frozen=True)
    net.train()
    net(images(2, 3, 56, 56))[0].sum().backward()
    grads = {name for name, param in net.named_parameters() if param.grad is not None}
    assert grads and not any(name.startswith('backbone.') for name in grads)
    assert all(param.stop_gradient for param in net.backbone.parameters())


def test_rates_fall_towards_the_image():
    net = tiny(registers=2)
    groups = {group['name']: group['lr_mult'] for group in layer_groups(nn.LayerDict({'model': net}), 0.5)}
    assert groups == {**{f'model.backbone.blocks.{k}.': 0.5 ** (4 - k) for k in range(4)}, **{
        f'model.backbone.{part}': 0.5 ** 5 for part in ('patch_embed.', 'cls_token', 'pos_embed', 'register_tokens')}}
    with pytest.raises(InputError, match='no DINOv2 encoder that is trained'):
        layer_groups(tiny(frozen=True), 0.5)


@pytest.mark.parametrize('decay, refused', [(0.5, False), (1.5, True), ('half', True)])
def test_layer_decay_of_a_recipe(decay, refused, tmp_path):
    make_photos(tmp_path)
    recipe = make_recipe(tmp_path, [{'type': 'RandomPaddingCrop', 'crop_size': [14, 14]}])[1]
    config = SemiConfig(recipe, method='Supervised')
    config.dic['optimizer'] = {'type': 'AdamW', 'layer_decay': decay}
    build = functools.partial(SemiBuilder(config)._player, tiny(), {})
    if refused:
        with pytest.raises(InputError, match='optimizer.layer_decay'):
            build()
        return
    rates = [group.get('learning_rate', 1) for group in build().optimizer._param_groups]
    assert sorted(set(rates)) == [0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5, 1]


@pytest.mark.parametrize('name', ['backbone', 'backbone.blocks'])
def test_groups_of_a_frozen_encoder_are_left_out(name):
    groups = [{'name': name, 'lr_mult': 0.025}, {'name': 'output_conv', 'lr_mult': 2}]
    assert _trained_groups(tiny(frozen=True), groups) == groups[1:]
    assert _trained_groups(tiny(), groups) == groups
    with pytest.raises(InputError, match='no parameter of DPT has "encoder" in its name'):
        _trained_groups(tiny(frozen=True), [{'name': 'encoder'}])


def test_fused_attention_is_the_plain_one(monkeypatch):
    net, found = Attention(24, 3), []
    x = images(2, 7, 24)
    x.stop_gradient = False
    for fused in (False, True):
        monkeypatch.setattr(dinov2, '_is_fused', lambda _, fused=fused: fused)
        y = net(x)
        found.append([y, *paddle.grad((y * y).sum(), [x, net.qkv.weight])])
    for plain, fused in zip(*found):
        close(fused, plain, rtol=1e-4, atol=1e-6)


def test_onnx_at_two_sizes(tmp_path):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('paddle2onnx')
    for knobs in ({}, {'registers': 2}):
        folder = tmp_path / f'{len(knobs)}'
        export(tiny(**knobs), str(folder), [{'type': 'Normalize'}], output_op='none')
        photos = [RNG.integers(0, 256, (height, width, 3)).astype('uint8') for height, width in ((70, 70), (50, 91))]
        assert to_onnx(str(folder / 'deploy.yaml'), str(folder / 'onnx'), photos=photos).equal == 1


def test_other_encoders_are_refused():
    class Other(paddle.nn.Layer):
        feat_channels = [8, 16]

    with pytest.raises(InputError, match='DPT wants a DINOv2 with four blocks, not Other with 2 features'):
        DPT(3, Other())
