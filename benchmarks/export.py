"""Does an exported network predict what the trained one does?

For every method: a short training on demo scenes, tools/export.py, and deploy/python/infer.py against tools/predict.py.
Then one network under the options of the export. Run it again after an interruption: what is done stays.

    python benchmarks/export.py --csv docs/results
"""

import csv
import json
import multiprocessing
import os
import runpy
import sys

from forked import measured

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
sys.path.insert(0, os.path.join(ROOT, 'tools'))
from cli import Parser, run

parser = Parser('Compares exported networks with the trained ones, on the validation photos of the demo data.')
parser.add_argument('--save_dir', default='output/export', help='trainings, exports and predictions')
parser.add_argument('--start_iters', type=int, default=120, help='of the training with all masks, where methods start')
parser.add_argument('--iters', type=int, default=6, help='of each training by a method')
parser.add_argument('--cpu_threads', type=int, default=None, help='CPU threads')
parser.add_argument('--csv', default=None, help='folder for export.csv and export_options.csv; default: the console')

_PHOTOS = 'data/demo/val.txt'
_DEMO = 'configs/quick_start/fastscnn_demo_semi_128x128_300.yml'
_METHODS = ('Supervised', 'AdvSemiSeg', 'MeanTeacher', 'CutMixSeg', 'FixMatch', 'UniMatch', 'UniMatchV2', 'CPS', 'U2PL',
            'IMAS', 'ST++', 'SBNet', 'EADER')
_TAGS = {'SBNet': 'configs/sbnet/sbnet_resnet10_demo_128x128_150.yml',
         'EADER': 'configs/eader/camnet_resnet10_demo_128x128_300.yml'}
_ENGINES = {'Paddle': 'False', 'oneDNN': 'True'}  # what --enable_mkldnn says
_FIXED = '--input_shape 1 3 128 160'
_OPTIONS = {  # of the recipe as it is, and of one with a Resize: flags of the export and its --output_op
    'as it is': [('', 'argmax'), ('', 'softmax'), ('', 'none'), (_FIXED, 'argmax'), ('--fuse_preprocess', 'argmax'),
                 ('--old_ir', 'argmax'), (f'--old_ir --fuse_preprocess {_FIXED}', 'softmax')],
    'with `Resize`': [('', 'argmax'), ('', 'softmax'), ('', 'none'), ('--fuse_preprocess', 'none')]}
_RESIZE = "val_dataset.transforms=[{'type': 'Resize', 'target_size': [120, 96]}, {'type': 'Normalize'}]"


def main(args):
    import paddleseg_semi.run  # noqa: F401  so that the forks need not
    os.makedirs(args.save_dir, exist_ok=True)
    if not os.path.isfile(_PHOTOS):
        tool(args, 'tools/make_demo_data.py')
    write(args, 'export', methods(args))
    write(args, 'export_options', options(args))


def methods(args):
    """list[dict]: a row per method."""
    rows = []
    for method in _METHODS:
        network = (_TAGS.get(method, _DEMO), trained(args, method))
        rows.append({'Method': method, **done(args, method, masks_compared, network, 'argmax'),
                     **done(args, f'{method}/logits', logits_compared, network)})
        print(*rows[-1].values(), sep=', ', flush=True)
    return rows


def options(args):
    """list[dict]: a row per way to export one network."""
    rows, network = [], (_DEMO, trained(args, 'Supervised'))
    for recipe, ways in _OPTIONS.items():
        for flags, output_op in ways:
            resize = [] if recipe == 'as it is' else [_RESIZE]
            name = '_'.join(['options', *(['resize'] if resize else []), *flags.split(), output_op])
            found = done(args, name, masks_compared, network, output_op, flags.split(), resize)
            rows.append({'Recipe': recipe, 'Flags': flags and f'`{flags}`', '`--output_op`': f'`{output_op}`', **found})
            print(*rows[-1].values(), sep=', ', flush=True)
    return rows


def trained(args, method):
    """str: the folder of a run by this method; trained unless it has been."""
    folder = os.path.join(args.save_dir, 'runs', method)
    start = os.path.join(args.save_dir, 'runs', 'start', f'iter_{args.start_iters}', 'model.pdparams')
    if method not in ('start', *_TAGS):
        trained(args, 'start')
    if method == 'ST++':
        pretrained = [f"{stage}.opts={{'model.pretrained': '{start}'}}" for stage in ('sup', 'retrain_1', 'retrain_2')]
        tool(args, 'tools/pipeline.py', '--config', 'configs/stpp/stpp_fastscnn_demo.yml', '--save_dir', folder,
             '--iters', args.iters, '--opts', 'label_1.scales=[1.0]', 'label_2.scales=[1.0]', *pretrained)
        return os.path.join(folder, 'retrain_2')
    if any(name.startswith('iter_') for name in (os.listdir(folder) if os.path.isdir(folder) else ())):
        return folder
    flags = ['--config', _TAGS.get(method, _DEMO), '--batch_size', 4, '--save_dir', folder, '--save_interval', 10**6]
    if method == 'start':
        flags += ['--iters', args.start_iters]
    elif method in _TAGS:
        flags += ['--iters', args.iters, '--opts', 'model.pretrained=None']
    else:
        flags += ['--method', method, '--label_ratio', 0.125, '--iters', args.iters, '--opts',
                  f'model.pretrained={start}']
    tool(args, 'tools/train.py', *flags)
    return folder


def done(args, name, work, *more):
    """dict: what `work(args, folder, *more)` returned, now or in an earlier run of this script."""
    folder = os.path.join(args.save_dir, name)
    path = os.path.join(folder, 'row.json')
    if not os.path.isfile(path):
        row = work(args, folder, *more)
        with open(path, 'w', encoding='utf-8') as file:
            json.dump(row, file)
    with open(path, encoding='utf-8') as file:
        return json.load(file)


def masks_compared(args, folder, network, output_op, flags=(), changes=()):
    """dict: how many pixels of all photos are the same by infer.py as by predict.py."""
    network = ['--config', network[0], '--model_path', network[1], *(['--opts', *changes] if changes else [])]
    tool(args, 'tools/export.py', *network, *flags, '--output_op', output_op, '--save_dir', folder)
    predicted = os.path.join(args.save_dir, 'predicted', os.path.basename(network[3]) + '_resize' * bool(changes))
    if not os.path.isdir(predicted):
        tool(args, 'tools/predict.py', *network, '--image_path', _PHOTOS, '--save_dir', f'{folder}/predicted')
        os.renames(f'{folder}/predicted', predicted)
    wanted, row = read_masks(f'{predicted}/pseudo_color_prediction'), {}
    row['classes'] = str(len({cls for mask in wanted.values() for cls in mask.flat}))
    for engine, flag in _ENGINES.items():
        tool(args, 'deploy/python/infer.py', '--config', f'{folder}/deploy.yaml', '--image_path', _PHOTOS,
             '--enable_mkldnn', flag, '--save_dir', f'{folder}/{engine}')
        found = read_masks(f'{folder}/{engine}')
        assert found.keys() == wanted.keys()
        total = sum(mask.size for mask in wanted.values())
        different = sum(int((mask != found[key]).sum()) for key, mask in wanted.items())
        row[f'equal pixels, {engine}'] = f'{100 * (1 - different / total):.6g} %' if different else '100 %'
        row[f'unequal, {engine}'] = str(different)
    return row


def logits_compared(args, folder, network):
    """dict: the largest differences of logits over all photos, and the largest logit."""
    tool(args, 'tools/export.py', '--config', network[0], '--model_path', network[1], '--output_op', 'none',
         '--save_dir', folder)
    return measured(1, _logits, network, os.path.join(folder, 'deploy.yaml'))[2]


def _logits(network, deploy):
    import numpy as np
    import paddle

    from paddleseg_semi.core.common import list_images
    from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
    from paddleseg_semi.deploy.backends import PaddleBackend
    from paddleseg_semi.deploy.bundle import Bundle
    config, bundle = SemiConfig(network[0]), Bundle.read(deploy)
    config.forget_pretrained()
    builder = SemiBuilder(config)
    model = builder.model
    builder.load_weights(model, network[1])
    model.eval()
    backends = {'Paddle': PaddleBackend(bundle), 'oneDNN': PaddleBackend(bundle, engine='onednn')}
    highest, differences = 0, dict.fromkeys(backends, 0)
    for path, _ in list_images(_PHOTOS):
        img = bundle.transforms({'img': path})['img'][None]
        with paddle.no_grad():
            wanted = model(paddle.to_tensor(img))[0].numpy()
        highest = max(highest, np.abs(wanted).max())
        for engine, backend in backends.items():
            differences[engine] = max(differences[engine], np.abs(backend.run(img) - wanted).max())
    return {**{f'max Δ of logits, {engine}': f'{value:.1e}' for engine, value in differences.items()},
            'largest logit': f'{highest:.3g}'}


def read_masks(folder):
    """dict: path below the folder → classes [h, w]."""
    import numpy as np
    from PIL import Image
    files = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    return {os.path.relpath(path, folder): np.array(Image.open(path)) for path in files if path.endswith('.png')}


def tool(args, path, *flags):
    """Runs a tool of the repository in a fork of this process; its output goes to a log."""
    threads = [] if args.cpu_threads is None or 'demo_data' in path else ['--cpu_threads', args.cpu_threads]
    log = os.path.join(args.save_dir, 'log.txt')
    process = multiprocessing.get_context('fork').Process(
        target=_run_tool, args=(log, os.path.join(ROOT, path), [str(flag) for flag in (*flags, *threads)]))
    process.start()
    process.join()
    if process.exitcode:
        from paddleseg_semi.errors import RunError
        raise RunError(f'{path} failed; {log} says why. What is done before stays.')


def _run_tool(log, path, flags):
    with open(log, 'a', encoding='utf-8') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [path, *flags]
    runpy.run_path(path, run_name='__main__')


def write(args, name, rows):
    """A table of Markdown's `make_tables.py`, or lines on the console."""
    path = os.path.join(args.csv, f'{name}.csv') if args.csv else None
    with open(path, 'w', newline='', encoding='utf-8') if path else os.fdopen(os.dup(1), 'w') as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


if __name__ == '__main__':
    run(main, parser)
