"""A static segmenter and its `deploy.yaml`, as PaddleSeg's deployment tools expect them."""

import os
import tempfile

import paddle
import paddle.nn.functional as F
import yaml
from paddle.base.layer_helper import LayerHelper
from paddleseg.core import infer
from paddleseg.cvlibs import manager
from paddleseg.utils import NoAliasDumper

from paddleseg_semi.core.common import make_folder, old_ir_guard, reason
from paddleseg_semi.errors import InputError, RunError
from paddleseg_semi.files import move_in
from paddleseg_semi.models.modes import evaluating
from paddleseg_semi.models.pooling import portable_pooling

OUTPUT_OPS = ('argmax', 'softmax', 'none')
_LABEL_ONLY = ('GenerateInstanceTargets', )  # transforms that never touch the image


def export(model, save_dir, transforms_cfg, input_shape=(None, 3, None, None), output_op='argmax', for_fd=False,
           old_ir=False, fuse_preprocess=False, size_divisor=None, facts=None, check=None):
    """Writes the main output of a segmenter as a static model. The segmenter itself is left as it was.

    Nothing appears under its final name before everything is written; `deploy.yaml` comes last.

    Args:
        model (nn.Layer): returns a list of logits, the main one [N, C, H, W] first.
        save_dir (str): where `model.json` (Paddle 3) or `model.pdmodel` (Paddle 2), `model.pdiparams` and
            `deploy.yaml` go.
        transforms_cfg (list[dict]): the YAML of the transforms an image passes before the network.
        input_shape (list[int]): N, C, H, W; None or -1 is any size.
        output_op (str): 'argmax' gives int32 classes [N, H, W]; 'softmax' float32 probabilities [N, C, H, W];
            'none' float32 logits [N, C, H, W].
        for_fd (bool): FastDeploy's names, `inference.*` and `inference.yml`.
        old_ir (bool): `model.pdmodel` from Paddle 3 as well, for the networks it still can write so.
        fuse_preprocess (bool): the model takes RGB images, uint8 [N, H, W, C], and normalizes them by itself.
        size_divisor (int, optional): the network sees each side resized to the nearest multiple, see `Testing`.
        facts (dict, optional): what else belongs into `deploy.yaml`.
        check (Callable, optional): called with the path of `deploy.yaml` while everything still is in a temporary
            folder; what it raises leaves nothing behind.

    Returns:
        list[str]: the files written, `deploy.yaml` last.

    Raises:
        InputError: output_op or input_shape is none of those, save_dir cannot be written, or there is no `Normalize`
            at the end of the transforms to fuse.
        RunError: Paddle cannot make this network static.
    """
    shape = [None if size in (None, -1) else size for size in input_shape]
    if output_op not in OUTPUT_OPS:
        raise InputError(f'--output_op {output_op}: choose one of {", ".join(OUTPUT_OPS)}.')
    if len(shape) != 4 or any(size is not None and size < 1 for size in shape):
        raise InputError(f'--input_shape {" ".join(map(str, input_shape))}: give N C H W, each above 0 or -1 for any.')
    transforms = [cfg for cfg in transforms_cfg if cfg['type'] not in _LABEL_ONLY]
    normalize = _split_off_normalize(transforms) if fuse_preprocess else None
    name, config_name = ('inference', 'inference.yml') if for_fd else ('model', 'deploy.yaml')
    make_folder(save_dir)
    try:
        with tempfile.TemporaryDirectory(prefix='.export-', dir=save_dir) as folder:
            _save_static(_Static(model, output_op, old_ir, size_divisor, normalize), os.path.join(folder, name), shape)
            files = sorted(os.listdir(folder))
            deploy = {'model': next(f for f in files if f.endswith(('.json', '.pdmodel'))),
                      'params': f'{name}.pdiparams',
                      'transforms': transforms,
                      'input_shape': [-1 if size is None else size for size in shape],
                      'input_dtype': 'uint8' if fuse_preprocess else 'float32',
                      'output_op': output_op,
                      'output_dtype': 'int32' if output_op == 'argmax' else 'float32', **(facts or {})}
            with open(os.path.join(folder, config_name), 'w', encoding='utf-8') as file:
                yaml.dump({'Deploy': deploy}, file, Dumper=NoAliasDumper, sort_keys=False, default_flow_style=None,
                          width=120)
            if check:
                check(os.path.join(folder, config_name))
            move_in(folder, save_dir, (*files, config_name))
        for other in ('.json', '.pdmodel', '.pdiparams.info'):  # of an earlier export: it would get these weights
            if name + other not in files and os.path.exists(path := os.path.join(save_dir, name + other)):
                os.remove(path)
    except OSError as error:
        raise InputError(f'--save_dir {save_dir}: cannot be written ({error.strerror}).') from None
    return [os.path.join(save_dir, file) for file in (*files, config_name)]


def _split_off_normalize(transforms):
    """Takes `Normalize` off the end of a list of settings, and builds it."""
    if not transforms or transforms[-1]['type'] != 'Normalize':
        last = transforms[-1]['type'] if transforms else 'nothing'
        raise InputError('--fuse_preprocess: needs Normalize at the end of the transforms of val_dataset (or of '
                         f'export), which end with {last}. Reorder them, or leave the flag out.')
    return manager.TRANSFORMS['Normalize'](**{k: value for k, value in transforms.pop().items() if k != 'type'})


class _Static(paddle.nn.Layer):
    """A segmenter with what surrounds it: images → classes [N, H, W], probabilities or logits [N, C, H, W]."""

    def __init__(self, model, output_op, old_ir, size_divisor, normalize):
        super().__init__()
        self.model, self.output_op, self.old_ir, self.size_divisor = model, output_op, old_ir, size_divisor
        self.fused = normalize is not None
        if self.fused:
            for key in ('mean', 'std'):
                self.register_buffer(key, paddle.to_tensor(getattr(normalize, key), 'float32').reshape([1, -1, 1, 1]))

    def forward(self, x):
        if self.fused:  # uint8 [N, H, W, C]
            x = (x.astype('float32').transpose([0, 3, 1, 2]) / 255 - self.mean) / self.std
        if self.size_divisor:
            size = paddle.shape(x)[2:]
            times = (2 * size + self.size_divisor) // (2 * self.size_divisor)  # rounded
            x = _resized(x, times.clip(min=1) * self.size_divisor)
        logit = infer.inference(self.model, x)  # the main output, [N, C, H, W] whatever the model's data_format
        if self.size_divisor:
            logit = _resized(logit, size)
        if self.output_op == 'argmax':
            return _old_argmax(logit) if self.old_ir else paddle.argmax(logit, axis=1, dtype='int32')
        return F.softmax(logit, axis=1) if self.output_op == 'softmax' else logit


def _resized(maps, size):
    return F.interpolate(maps, size, mode='bilinear', align_corners=True)


def _old_argmax(logit):
    """paddle.argmax(logit, axis=1, dtype='int32') in the old format, which Paddle 3.3 has forgotten."""
    helper = LayerHelper('argmax')
    classes = helper.create_variable_for_type_inference('int32')
    helper.append_op(type='arg_max', inputs={'X': logit}, outputs={'Out': classes}, attrs={
        'axis': 1, 'keepdims': False, 'flatten': False, 'dtype': paddle.base.core.VarDesc.VarType.INT32})
    return classes


def _save_static(static, path, shape):
    spec = paddle.static.InputSpec([shape[0], *shape[2:], shape[1]] if static.fused else shape,
                                   'uint8' if static.fused else 'float32', 'x')
    name = type(static.model).__name__
    try:
        # in train mode the file would hold dropout and batch statistics
        with evaluating(static), old_ir_guard() if static.old_ir else portable_pooling(static.model):
            paddle.jit.save(static, path, input_spec=[spec])
    except OSError:
        raise
    except Exception as error:  # the compiler raises whatever the network's code does not let it convert
        how, remedy = ('as .pdmodel ', ' Leave --old_ir out.') if static.old_ir else ('', '')
        raise RunError(f'{name} cannot be exported {how}by Paddle {paddle.__version__}: {reason(error)}{remedy}') \
            from error
