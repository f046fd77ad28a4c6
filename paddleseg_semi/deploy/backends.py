"""What runs an exported segmenter. Every backend has `run(batch)`; none may be shared by threads."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from paddle import inference

from paddleseg_semi.deploy.extras import require
from paddleseg_semi.deploy.photos import reason
from paddleseg_semi.errors import InputError, RunError

# Operators of oneDNN in int8: not pool2d, which it would take for pooling into several bins too, and cannot do.
_INT8 = {'conv2d', 'depthwise_conv2d', 'fused_conv2d', 'elementwise_add', 'fused_elementwise_add', 'concat'}


@dataclass
class TensorRT:
    """How a GPU runs parts of the network by TensorRT.

    Args:
        max_batch (int): the largest N.
        min_subgraph_size (int): the smallest graph handed over.
        tune (bool): take the range of shapes from `shape_file`, or measure it and keep it there.
        shape_file (str, optional): default: auto_tuned_shape.pbtxt beside deploy.yaml.
        measure (callable, optional): takes the backend and runs photos through it.
    """

    max_batch: int = 1
    min_subgraph_size: int = 3
    tune: bool = False
    shape_file: str | None = None
    measure: Callable | None = None


class PaddleBackend:
    """Paddle Inference.

    Args:
        bundle (Bundle): the exported segmenter.
        device (str): 'cpu', 'gpu', 'xpu', 'npu' or 'mlu'.
        threads (int): of the CPU.
        engine (str): of the CPU: 'paddle', 'onednn', or 'openvino', which needs a model.pdmodel.
        precision (str): of oneDNN on a model.json and of OpenVINO: 'fp32' or 'bf16'; of oneDNN on a quantized model:
            'int8', whatever is said; of TensorRT: 'fp32', 'fp16' or 'int8'.
        tensorrt (TensorRT, optional): of a GPU.

    Raises:
        InputError: the engine cannot run this model in this precision.
        RunError: Paddle cannot load the model.
    """

    def __init__(self, bundle, device='cpu', threads=1, engine='paddle', precision='fp32', tensorrt=None):
        if bundle.model.endswith('.onnx'):
            raise InputError(f'{bundle.model}: is an ONNX model. Run it with deploy/python/infer_onnx.py.')
        self.bundle, self.device = bundle, device
        config = self._config()
        if device == 'cpu':
            self._use_cpu(config, threads, engine, precision)
        elif tensorrt:
            self._use_tensorrt(config, tensorrt, precision)
        self.memory_optim = bundle.model.endswith('.pdmodel')  # the pass does not exist for model.json
        if self.memory_optim:
            config.enable_memory_optim()
        try:
            self.predictor = inference.create_predictor(config)
        except Exception as error:  # whatever Paddle raises
            raise RunError(f'{bundle.model}: Paddle Inference cannot load it ({reason(error)}).') from None

    def run(self, batch):
        """Runs one batch.

        Args:
            batch (ndarray): float32 [N, C, H, W], or uint8 [N, H, W, C] where the bundle says so. N may be less than
                what the export fixed.

        Returns:
            ndarray: the model's output, int32 classes [N, H, W] or float32 scores [N, C, H, W].
        """
        full = _filled(batch, self.bundle)
        handle = self.predictor.get_input_handle(self.predictor.get_input_names()[0])
        handle.reshape(full.shape)
        handle.copy_from_cpu(full)
        self.predictor.run()
        return self.predictor.get_output_handle(self.predictor.get_output_names()[0]).copy_to_cpu()[:len(batch)]

    def _config(self):
        config = inference.Config(self.bundle.model, self.bundle.params)
        config.disable_glog_info()
        if self.device == 'gpu':
            config.enable_use_gpu(100, 0)  # MB to start with, card
        elif self.device == 'xpu':
            config.enable_xpu()
        elif self.device != 'cpu':
            config.enable_custom_device(self.device)
        return config

    def _use_cpu(self, config, threads, engine, precision):
        old_ir = self.bundle.model.endswith('.pdmodel')
        config.set_cpu_math_library_num_threads(threads)
        if engine == 'openvino':
            if self.bundle.quantized:
                raise InputError(f'{self.bundle.model}: OpenVINO cannot read what Paddle has quantized. Use oneDNN.')
            if not old_ir:  # Paddle would not use it, and not say so
                raise InputError(f'{self.bundle.model}: OpenVINO takes the old format only. Export with --old_ir.')
            self.cache = tempfile.TemporaryDirectory()  # else OpenVINO keeps compiled models below the working folder
            config.set_optim_cache_dir(self.cache.name)
            config.enable_openvino_engine(inference.PrecisionType.Bfloat16 if precision == 'bf16'
                                          else inference.PrecisionType.Float32)
        elif engine == 'onednn':
            config.enable_mkldnn()
            config.set_mkldnn_cache_capacity(10)  # shapes; without a limit every image size stays in memory
            if not old_ir:
                config.delete_pass('onednn_placement_pass')  # Paddle 3.3: fails on bilinear_interp (its issue 79749)
            if self.bundle.quantized:
                config.enable_mkldnn_int8(_INT8)
            elif precision == 'int8':
                raise InputError(f'{self.bundle.model}: is not quantized. tools/quantize.py makes an int8 model of it.')
            elif precision == 'bf16':
                if old_ir:
                    raise InputError(f'{self.bundle.model}: oneDNN has no bf16 for the old format. Export without '
                                     '--old_ir, or use OpenVINO.')
                config.enable_mkldnn_bfloat16()
        else:
            if precision != 'fp32':
                raise InputError(f'--precision {precision}: on a CPU this needs oneDNN or OpenVINO.')
            if hasattr(config, 'disable_mkldnn'):  # Paddle 3 switches it on by itself, the oldest 2 cannot switch it
                config.disable_mkldnn()

    def _use_tensorrt(self, config, tensorrt, precision):
        if not self.bundle.model.endswith('.pdmodel'):  # Paddle would not use it, and not say so
            raise InputError(f'{self.bundle.model}: TensorRT takes the old format only. Export with --old_ir.')
        types = {'fp32': inference.PrecisionType.Float32, 'fp16': inference.PrecisionType.Half,
                 'int8': inference.PrecisionType.Int8}
        config.enable_tensorrt_engine(workspace_size=1 << 30, max_batch_size=tensorrt.max_batch,
                                      min_subgraph_size=tensorrt.min_subgraph_size, precision_mode=types[precision],
                                      use_static=False, use_calib_mode=False)
        if tensorrt.tune:
            file = tensorrt.shape_file or os.path.join(self.bundle.folder, 'auto_tuned_shape.pbtxt')
            if not os.path.isfile(file):
                self._measure_shapes(file, tensorrt.measure)
            config.enable_tuned_tensorrt_dynamic_shape(file, True)
        else:
            sizes = ((1, 100, 100), (tensorrt.max_batch, 2000, 3000), (tensorrt.max_batch, 512, 1024))
            channels, last = self.bundle.input_shape[1], self.bundle.input_dtype == 'uint8'
            config.set_trt_dynamic_shape_info(
                *({'x': [n, h, w, channels] if last else [n, channels, h, w]} for n, h, w in sizes))

    def _measure_shapes(self, file, measure):
        config = self._config()
        config.collect_shape_range_info(file)
        self.predictor = inference.create_predictor(config)
        measure(self)
        del self.predictor  # writes the file


class OnnxBackend:
    """ONNX Runtime on the CPU.

    Args:
        bundle (Bundle): whose model is a model.onnx, see tools/export_onnx.py.
        threads (int): of the CPU.

    Raises:
        InputError: the model is none, or ONNX Runtime is not installed.
        RunError: ONNX Runtime cannot load it.
    """

    def __init__(self, bundle, threads=1):
        if not bundle.model.endswith('.onnx'):
            raise InputError(f'{bundle.model}: is not an ONNX model. Make one of it with tools/export_onnx.py.')
        onnxruntime = require('onnxruntime', 'onnx')
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors; a constant that nothing uses is a warning
        try:
            self.session = onnxruntime.InferenceSession(bundle.model, options, providers=['CPUExecutionProvider'])
        except Exception as error:  # its exceptions have no base of their own
            raise RunError(f'{bundle.model}: ONNX Runtime cannot load it ({reason(error)}).') from None
        self.bundle = bundle

    def run(self, batch):
        """Runs one batch; see :meth:`PaddleBackend.run`."""
        return self.session.run(None, {self.session.get_inputs()[0].name: _filled(batch, self.bundle)})[0][:len(batch)]


def _filled(batch, bundle):
    """The batch, with its last image repeated where the export fixed a larger N."""
    lacking = bundle.input_shape[0] - len(batch)
    return np.concatenate([batch, batch[-1:].repeat(lacking, 0)]) if lacking > 0 else batch
