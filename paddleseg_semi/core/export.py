"""A static segmenter and its `deploy.yaml`, as PaddleSeg's deployment tools expect them."""

import os
import tempfile

import paddle
import paddle.nn.functional as F
import yaml
from paddleseg.core import infer
from paddleseg.utils import NoAliasDumper

from paddleseg_semi.core.common import make_folder
from paddleseg_semi.errors import InputError, RunError
from paddleseg_semi.models.modes import evaluating

OUTPUT_OPS = ('argmax', 'softmax', 'none')
_LABEL_ONLY = ('GenerateInstanceTargets', )  # transforms that never touch the image


def export(model, save_dir, transforms_cfg, input_shape=(None, 3, None, None), output_op='argmax', for_fd=False):
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

    Returns:
        list[str]: the files written, `deploy.yaml` last.

    Raises:
        InputError: output_op or input_shape is none of those, or save_dir cannot be written.
        RunError: Paddle cannot make this network static.
    """
    shape = [None if size in (None, -1) else size for size in input_shape]
    if output_op not in OUTPUT_OPS:
        raise InputError(f'--output_op {output_op}: choose one of {", ".join(OUTPUT_OPS)}.')
    if len(shape) != 4 or any(size is not None and size < 1 for size in shape):
        raise InputError(f'--input_shape {" ".join(map(str, input_shape))}: give N C H W, each above 0 or -1 for any.')
    name, config_name = ('inference', 'inference.yml') if for_fd else ('model', 'deploy.yaml')
    make_folder(save_dir)
    try:
        with tempfile.TemporaryDirectory(prefix='.export-', dir=save_dir) as folder:
            _save_static(model, os.path.join(folder, name), shape, output_op)
            files = sorted(os.listdir(folder))
            deploy = {'model': next(f for f in files if f.endswith(('.json', '.pdmodel'))),
                      'params': f'{name}.pdiparams',
                      'transforms': [t for t in transforms_cfg if t['type'] not in _LABEL_ONLY],
                      'input_shape': [-1 if size is None else size for size in shape],
                      'output_op': output_op,
                      'output_dtype': 'int32' if output_op == 'argmax' else 'float32'}
            with open(os.path.join(folder, config_name), 'w', encoding='utf-8') as file:
                yaml.dump({'Deploy': deploy}, file, Dumper=NoAliasDumper)
            for file in (*files, config_name):
                os.replace(os.path.join(folder, file), os.path.join(save_dir, file))
    except OSError as error:
        raise InputError(f'--save_dir {save_dir}: cannot be written ({error.strerror}).') from None
    return [os.path.join(save_dir, file) for file in (*files, config_name)]


class _Static(paddle.nn.Layer):
    """The segmenter followed by `output_op`: [N, 3, H, W] → classes, probabilities or logits."""

    def __init__(self, model, output_op):
        super().__init__()
        self.model, self.output_op = model, output_op

    def forward(self, x):
        logit = infer.inference(self.model, x)  # the main output, [N, C, H, W] whatever the model's data_format
        if self.output_op == 'argmax':
            return paddle.argmax(logit, axis=1, dtype='int32')
        return F.softmax(logit, axis=1) if self.output_op == 'softmax' else logit


def _save_static(model, path, shape, output_op):
    static = _Static(model, output_op)
    try:
        with evaluating(static):  # in train mode the file would hold dropout and batch statistics
            paddle.jit.save(static, path, input_spec=[paddle.static.InputSpec(shape, 'float32', 'x')])
    except OSError:
        raise
    except Exception as error:  # the compiler raises whatever the network's code does not let it convert
        reason = str(error).strip().splitlines() or ['no reason given']
        raise RunError(f'{type(model).__name__} cannot be exported by Paddle {paddle.__version__}: '
                       f'{type(error).__name__}: {reason[-1].strip()}') from error
