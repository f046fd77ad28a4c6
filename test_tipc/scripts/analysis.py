"""Reads speed and loss from a training's log and gives them as PaddleSeg's benchmarks do: one line of JSON."""

import argparse
import json
import os
import re
import statistics
import sys

parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
add = parser.add_argument
add('--filename', required=True, help='the log')
add('--speed_log_file', required=True, help='where the line goes')
add('--model_name', required=True)
add('--base_batch_size', type=int, required=True, help='samples per step and device')
add('--fp_item', default='fp32')
add('--run_mode', default='DP', help='DP: data parallel')
add('--device_num', default='N1C1', help='N<machines>C<devices in all>')
add('--keyword', default='ips:', help='what stands before the speed, of one device')
add('--speed_unit', default='samples/s')
add('--convergence_key', default='loss:', help='what stands before the loss')
add('--skip_steps', type=int, default=2, help='speeds left out at the start')

ENVIRONMENT = ('model_run_time', 'frame_commit', 'frame_version')


def main():
    args = parser.parse_args()
    with open(args.filename, encoding='utf-8', errors='replace') as file:
        log = file.read()
    speeds, losses = numbers(args.keyword, log), numbers(args.convergence_key, log)
    speed = typical(speeds[args.skip_steps:])
    if speed is None or not losses:
        sys.exit(f'{args.filename}: {len(speeds)} times "{args.keyword}" and {len(losses)} times '
                 f'"{args.convergence_key}"; too few. Train longer, or log more often (log_iters).')
    devices = int(args.device_num.partition('C')[2])
    line = json.dumps({
        **{name: os.getenv(name) for name in ('model_branch', 'model_commit')}, 'model_name': args.model_name,
        'batch_size': args.base_batch_size, 'fp_item': args.fp_item, 'run_mode': args.run_mode,
        'convergence_value': losses[-1], 'convergence_key': args.convergence_key, 'ips': round(devices * speed, 3),
        'speed_unit': args.speed_unit, 'device_num': args.device_num,
        **{name: os.getenv(name) for name in ENVIRONMENT}})
    print(line)
    with open(args.speed_log_file, 'w', encoding='utf-8') as file:
        file.write(line)


def numbers(key, text):
    return [float(number) for number in re.findall(rf'(?<!\S){re.escape(key)} ([-+.\deE]+)', text)]


def typical(speeds):
    """The mean without 5 %, and without five, at either end; None when nothing is left."""
    cut = max(len(speeds) // 20, 5)
    kept = sorted(speeds)[cut:-cut]
    return statistics.mean(kept) if kept else None


if __name__ == '__main__':
    main()
