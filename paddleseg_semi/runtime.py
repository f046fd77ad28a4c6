"""The machine: which device runs, and how the CPU is used. Settings change speed and last bits, so they are logged."""

import os
import resource
import shutil

import numpy as np
import paddle
from paddleseg.utils import logger

from paddleseg_semi.errors import InputError

_AVX512 = {'avx512f', 'avx512cd', 'avx512bw', 'avx512dq', 'avx512vl'}
_AVX2 = {'avx2', 'fma'}
_NVIDIA = '/proc/driver/nvidia/version'  # where its driver runs


def tune_cpu(threads=None, enabled=True):
    """Gives Paddle the CPU it is not using by itself. Call before the first operation.

    Paddle computes on one thread unless told otherwise, and the MKL in its wheel takes a slow generic path on AMD
    processors. Nothing is changed on other vendors, nor where the user has set OMP_NUM_THREADS or MKL_DEBUG_CPU_TYPE.

    Args:
        threads (int, optional): CPU threads of this process. Default: the cores it may run on, divided among the
            ranks of this machine.
        enabled (bool): False leaves all as it is, and says so.
    """
    if not enabled:
        logger.info('CPU settings: left at the defaults of Paddle')
        return
    threads = cpu_threads(threads)
    paddle.base.core.set_num_threads(threads)
    mkl = _mkl_type()
    if mkl:
        os.environ.setdefault('MKL_DEBUG_CPU_TYPE', mkl)
    logger.info(f'CPU settings: {threads} threads, MKL_DEBUG_CPU_TYPE={os.environ.get("MKL_DEBUG_CPU_TYPE", "unset")} '
                '(--no_cpu_tuning leaves the defaults of Paddle)')


def cpu_threads(threads=None):
    """int: CPU threads of this process: as many as asked for, or the cores it may run on, divided among the ranks of
    this machine."""
    if threads is not None and threads < 1:
        raise InputError(f'--cpu_threads {threads}: give a whole number of at least 1.')
    local_ranks = int(os.environ.get('PADDLE_LOCAL_SIZE', os.environ.get('PADDLE_TRAINERS_NUM', 1)))
    return threads or max(1, len(os.sched_getaffinity(0)) // max(local_ranks, 1))


def _mkl_type():
    """The value of MKL_DEBUG_CPU_TYPE for an AMD processor (7: AVX-512, 5: AVX2), else None."""
    try:
        with open('/proc/cpuinfo') as file:
            info = dict(line.split(':', 1) for line in file.read().split('\n\n')[0].splitlines() if ':' in line)
    except OSError:
        return None
    info = {key.strip(): value.strip() for key, value in info.items()}
    if info.get('vendor_id') != 'AuthenticAMD':
        return None
    flags = set(info.get('flags', '').split())
    return '7' if flags >= _AVX512 else '5' if flags >= _AVX2 else None


def set_device(device):
    """Selects the device.

    Args:
        device (str, optional): 'cpu', 'gpu', 'xpu', 'npu' or 'mlu'; None takes a GPU if there is one, else the CPU.

    Returns:
        str: the device in use.

    Raises:
        InputError: the device was asked for, and this Paddle or this machine has none.
    """
    if device is None:
        device = 'gpu' if _has_gpu() else 'cpu'
        if os.path.exists(_NVIDIA) and not paddle.is_compiled_with_cuda():
            logger.warning('There is an NVIDIA GPU here, but this Paddle is a CPU build and computes on the CPU. Put '
                           'paddlepaddle-gpu in its place as the README says; --device cpu leaves this line out.')
    elif device == 'gpu' and not paddle.is_compiled_with_cuda():
        raise InputError('--device gpu: this Paddle is a CPU build. Use --device cpu, or install paddlepaddle-gpu.')
    elif device == 'gpu' and not _has_gpu():
        raise InputError('--device gpu: no CUDA device is visible. Use --device cpu, or check CUDA_VISIBLE_DEVICES.')
    elif device == 'xpu' and not paddle.is_compiled_with_xpu() or device in ('npu', 'mlu') and device not in \
            paddle.device.get_all_custom_device_type():
        raise InputError(f'--device {device}: this Paddle is not built for it. Use --device cpu.')
    paddle.set_device(device)
    logger.info(f'Set device: {device}')
    return device


def check_shared_memory(num_workers, path='/dev/shm'):
    """Warns where loader workers have too little memory to hand batches over; they would die of a bus error."""
    if not num_workers or not os.path.isdir(path):
        return
    size = shutil.disk_usage(path).total >> 20
    if size < 512:
        logger.warning(f'{path} has {size} MB, through which all loader processes hand over their batches; one that '
                       'finds no room dies of a bus error. Start the container with --shm-size 8g, or take '
                       '--num_workers 0.')


def to_device(array):
    """A copy of a small array on the device, made without waiting for it.

    What `paddle.to_tensor` copies to a GPU has to wait until all that was asked of it before is done. Up to 64 KB
    travel with the command instead. Truth values are sent as bits.

    Args:
        array (np.ndarray): bool, int32, int64, float32 or float64.

    Returns:
        Tensor: of the same shape and dtype.
    """
    if array.dtype != bool:
        return paddle.assign(array)
    bits = np.zeros(-(-array.size // 16) * 16, bool)
    bits[:array.size] = array.ravel()
    words = paddle.assign(np.packbits(bits, bitorder='little').view('<u2').astype('int32'))
    bits = words.unsqueeze(1) // 2 ** paddle.arange(16, dtype='int32') % 2 == 1
    return bits.flatten()[:array.size].reshape(array.shape)


def peak_memory():
    """int: the most memory this process has held so far, in bytes; on a GPU, of the GPU's."""
    if 'gpu' in paddle.get_device():
        return paddle.device.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _has_gpu():
    return paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
