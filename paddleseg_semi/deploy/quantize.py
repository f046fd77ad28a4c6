"""Post-training quantization: exported segmenters in int8, with ranges measured on photos."""

import os

import paddle

from paddleseg_semi.core.common import old_ir_guard
from paddleseg_semi.deploy.backends import OnnxBackend, PaddleBackend
from paddleseg_semi.deploy.bundle import Bundle, derived
from paddleseg_semi.deploy.convert import compare, sample_batches
from paddleseg_semi.deploy.extras import require
from paddleseg_semi.deploy.photos import reason
from paddleseg_semi.errors import InputError, RunError

_CONVOLUTIONS = ['conv2d', 'depthwise_conv2d']


def quantize(config, save_dir, photos, threads=1):
    """Quantizes weights per channel and activations per tensor. Both are as wide as on the given photos.

    Args:
        config (str): deploy.yaml of a model.onnx, or of a model.pdmodel (an export with --old_ir).
        save_dir (str): where the same goes in int8.
        photos (list[str]): paths; such as the model will see, a few dozen.
        threads (int): of the CPU.

    Returns:
        Agreement: of both models on these photos.

    Raises:
        InputError: the format has no way to int8, the model is in int8 already, or see :func:`derived`.
        RunError: the network cannot be quantized.
    """
    bundle = Bundle.read(config)
    name = os.path.basename(bundle.model)
    if bundle.quantized:
        raise InputError(f'--config {config}: is quantized already.')
    if name.endswith('.onnx'):
        require('onnxruntime', 'onnx')
        work, before, after = _quantize_onnx, OnnxBackend(bundle, threads), OnnxBackend
    elif name.endswith('.pdmodel'):
        work, before, after = _quantize_paddle, PaddleBackend(bundle, threads=threads), _onednn
    else:
        raise InputError(f"--config {config}: Paddle 3 quantizes Paddle 2's format only. Export with --old_ir, or "
                         'convert it with tools/export_onnx.py and give the deploy.yaml of that.')
    batches = list(sample_batches(bundle, photos))
    with derived(config, save_dir, quantized=True) as folder:
        try:
            work(bundle, os.path.join(folder, name), batches)
        except Exception as error:  # both libraries raise anything
            raise RunError(f'{bundle.model}: cannot be quantized ({reason(error)}).') from error
        backend = after(Bundle.read(os.path.join(folder, 'deploy.yaml')), threads=threads)
        return compare(before.run, backend.run, batches)


def _onednn(bundle, threads):
    return PaddleBackend(bundle, threads=threads, engine='onednn')


def _quantize_onnx(bundle, path, batches):
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        feeds = iter([{'x': batch} for batch in batches])

        def get_next(self):
            return next(self.feeds, None)

    onnxruntime.set_default_logger_severity(3)  # errors; a constant that nothing uses is a warning
    plain = f'{path}.plain'
    quant_pre_process(bundle.model, plain, skip_symbolic_shape=True)  # batch norms into convolutions, among others
    quantize_static(plain, path, Reader(), per_channel=True)
    os.remove(plain)


def _quantize_paddle(bundle, path, batches):
    """PaddleSlim's `quant_post_static` calls the same class, and asks for older libraries."""
    from paddle.static.quantization import PostTrainingQuantization
    folder, (source, name) = os.path.dirname(path), os.path.split(bundle.model)
    params = os.path.basename(bundle.params)
    paddle.enable_static()
    try:
        with old_ir_guard(), paddle.static.scope_guard(paddle.static.Scope()):
            work = PostTrainingQuantization(
                paddle.static.Executor(paddle.CPUPlace()), source, model_filename=name, params_filename=params,
                data_loader=lambda: [{'x': batch} for batch in batches], batch_size=1, batch_nums=len(batches),
                algo='avg', quantizable_op_type=_CONVOLUTIONS)
            work.quantize()
            work.save_quantized_model(folder, model_filename=name, params_filename=params)
    finally:
        paddle.disable_static()
