"""What runs an exported segmenter. Every backend has `run(batch)`; none may be shared by threads."""

import os
from dataclasses import dataclass

import numpy as np
from paddle import inference

_TUNING_BATCHES = 10


@dataclass
class TensorRT:
    """How a GPU runs parts of the network by TensorRT.

    Args:
        max_batch (int): the largest N.
        min_subgraph_size (int): the smallest graph handed over.
        tune (bool): take the range of shapes from `shape_file`, or measure it on the first batches and keep it there.
        shape_file (str, optional): default: auto_tuned_shape.pbtxt beside deploy.yaml.
        sample (callable, optional): gives the batches to measure on.
    """

    max_batch: int = 1
    min_subgraph_size: int = 3
    tune: bool = False
    shape_file: str | None = None
    sample: callable = None


class PaddleBackend:
    """Paddle Inference.

    Args:
        bundle (Bundle): the exported segmenter.
        device (str): 'cpu', 'gpu', 'xpu', 'npu' or 'mlu'.
        threads (int): of the CPU.
        engine (str): of the CPU: 'paddle' or 'onednn'.
        precision (str): of TensorRT: 'fp32', 'fp16' or 'int8'.
        tensorrt (TensorRT, optional): of a GPU.
    """

    def __init__(self, bundle, device='cpu', threads=1, engine='paddle', precision='fp32', tensorrt=None):
        self.bundle, self.device = bundle, device
        config = self._config()
        if device == 'cpu':
            self._use_cpu(config, threads, engine)
        elif tensorrt:
            self._use_tensorrt(config, tensorrt, precision)
        self.memory_optim = bundle.model.endswith('.pdmodel')  # the pass does not exist for model.json
        if self.memory_optim:
            config.enable_memory_optim()
        self.predictor = inference.create_predictor(config)

    def run(self, batch):
        """Runs one batch.

        Args:
            batch (ndarray): float32 [N, C, H, W], or uint8 [N, H, W, C] where the bundle says so. N may be less than
                what the export fixed.

        Returns:
            ndarray: the model's output, int32 classes [N, H, W] or float32 scores [N, C, H, W].
        """
        lacking = self.bundle.input_shape[0] - len(batch)  # where the export fixed N
        full = np.concatenate([batch, batch[-1:].repeat(lacking, 0)]) if lacking > 0 else batch
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

    def _use_cpu(self, config, threads, engine):
        config.set_cpu_math_library_num_threads(threads)
        if engine != 'onednn':
            if hasattr(config, 'disable_mkldnn'):  # Paddle 3 switches it on by itself, the oldest 2 cannot switch it
                config.disable_mkldnn()
            return
        config.enable_mkldnn()
        config.set_mkldnn_cache_capacity(10)  # shapes; without a limit every image size stays in memory
        if self.bundle.model.endswith('.json'):
            config.delete_pass('onednn_placement_pass')  # Paddle 3.3: fails on bilinear_interp (Paddle issue 79749)

    def _use_tensorrt(self, config, tensorrt, precision):
        types = {'fp32': inference.PrecisionType.Float32, 'fp16': inference.PrecisionType.Half,
                 'int8': inference.PrecisionType.Int8}
        config.enable_tensorrt_engine(workspace_size=1 << 30, max_batch_size=tensorrt.max_batch,
                                      min_subgraph_size=tensorrt.min_subgraph_size, precision_mode=types[precision],
                                      use_static=False, use_calib_mode=False)
        if tensorrt.tune:
            file = tensorrt.shape_file or os.path.join(self.bundle.folder, 'auto_tuned_shape.pbtxt')
            if not os.path.isfile(file):
                self._measure_shapes(file, tensorrt.sample)
            config.enable_tuned_tensorrt_dynamic_shape(file, True)
        else:
            sizes, channels = ((1, 100, 100), (tensorrt.max_batch, 2000, 3000), (tensorrt.max_batch, 512, 1024)), \
                self.bundle.input_shape[1]
            config.set_trt_dynamic_shape_info(*({'x': [n, channels, h, w]} for n, h, w in sizes))

    def _measure_shapes(self, file, sample):
        config = self._config()
        config.collect_shape_range_info(file)
        self.predictor = inference.create_predictor(config)
        for _, batch in zip(range(_TUNING_BATCHES), sample()):
            self.run(batch)
        del self.predictor  # writes the file
