"""Paddle's default CPU settings ÷ ours, on one train step, each in a process of its own and in turns.

    python benchmarks/cpu_settings.py --config configs/camvid/deeplabv3p_resnet18_os16_camvid_semi_160x128_1.5k.yml
"""

import os
import re
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'tools'))
from cli import Parser, run

parser = Parser("Ratio of a step with Paddle's CPU settings to one with ours.")
parser.add_argument('--config', required=True)
parser.add_argument('--rounds', type=int, default=2, help='processes of each kind')


def main(args):
    times = {'ours': [], 'default': []}
    for _ in range(args.rounds):
        times['ours'].append(step_time(args.config))
        times['default'].append(step_time(args.config, '--no_cpu_tuning'))
    ours, default = statistics.median(times['ours']), statistics.median(times['default'])
    print(f'step with our CPU settings {ours:.0f} ms, with the defaults {default:.0f} ms, ratio {default / ours:.2f}')


def step_time(config, *flags):
    environment = {key: value for key, value in os.environ.items()
                   if key not in ('OMP_NUM_THREADS', 'MKL_DEBUG_CPU_TYPE')}
    done = subprocess.run([sys.executable, os.path.join(HERE, 'train_step.py'), '--config', config, '--rounds', '4',
                           *flags], capture_output=True, text=True, env=environment, check=True)
    return float(re.search(r'step (\d+) ms', done.stdout)[1])


if __name__ == '__main__':
    run(main, parser)
