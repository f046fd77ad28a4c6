"""Does an exported network predict what the trained one does?

For every method: a short training on demo scenes, tools/export.py, and deploy/python/infer.py against tools/predict.py.
Then one network under all options of the export. Run it again after an interruption: what is done stays.

    python benchmarks/export.py --csv docs/results
"""

import csv
import json
import os
import subprocess
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..')
sys.path.insert(0, os.path.join(ROOT, 'tools'))
from cli import Parser, run

parser = Parser('Compares exported networks with the trained ones, on the photos of the demo data.')
parser.add_argument('--save_dir', default='output/export', help='trainings, exports and predictions')
parser.add_argument('--iters', type=int, default=40, help='of each training')
parser.add_argument('--cpu_threads', type=int, default=None, help='CPU threads')
parser.add_argument('--csv', default=None, help='folder for export.csv and export_options.csv; default: the console')

_DEMO = 'configs/quick_start/fastscnn_demo_semi_128x128_300.yml'
_PHOTOS = 'data/demo/val.txt'
_METHODS = ('Supervised', 'AdvSemiSeg', 'MeanTeacher', 'CutMixSeg', 'FixMatch', 'UniMatch', 'UniMatchV2', 'CPS', 'U2PL',
            'IMAS')
_TAGS = {'SBNet': 'configs/sbnet/sbnet_resnet18_demo_128x128_600.yml',
         'EADER': 'configs/eader/camnet_resnet10_demo_128x128_300.yml'}
_ALL_MASKS = 5  # times the iterations: what the methods start from knows all classes
_RESIZE = ("val_dataset.transforms=[{'type': 'Resize', 'target_size': [120, 96]}, {'type': 'Normalize'}]", )
_OPTIONS = {  # flags of the export, changes to the recipe
    'none': ((), ()), 'fixed': (('--input_shape', '1', '3', '128', '160'), ()),
    'fuse_preprocess': (('--fuse_preprocess', ), ()), 'old_ir': (('--old_ir', ), ()),
    'old_ir, fixed, fuse_preprocess': (('--old_ir', '--fuse_preprocess', '--input_shape', '1', '3', '128', '160'), ()),
    'with Resize in the recipe': ((), _RESIZE),
    'with Resize, fuse_preprocess': (('--fuse_preprocess', ), _RESIZE)}


def main(args):
    os.makedirs(args.save_dir, exist_ok=True)
    if not os.path.isfile(_PHOTOS):
        tool(args, 'tools/make_demo_data.py')
    start = trained(args, 'start', '--config', _DEMO, '--iters', args.iters * _ALL_MASKS)
    rows = []
    for method in (*_METHODS, 'ST++', *_TAGS):
        config, folder = train_method(args, method, start)
        rows.append({'method': method, **compared(args, method, config, folder)})
        print(rows[-1], flush=True)
    write(args, 'export', rows)
    rows = []
    for name, (flags, opts) in _OPTIONS.items():
        for op in ('argmax', 'softmax', 'none'):
            row = compared(args, f'{name}, {op}', _DEMO, os.path.join(args.save_dir, 'Supervised'), op, flags, opts)
            rows.append({'export': name.replace('none', 'as it is'), 'output_op': op, **row})
            print(rows[-1], flush=True)
    write(args, 'export_options', rows)


def train_method(args, method, start):
    """Returns the recipe and the folder of a run."""
    if method in _TAGS:
        return _TAGS[method], trained(args, method, '--config', _TAGS[method], '--iters', args.iters)
    if method == 'ST++':
        folder = os.path.join(args.save_dir, method)
        tool(args, 'tools/pipeline.py', '--config', 'configs/stpp/stpp_fastscnn_demo.yml', '--save_dir', folder,
             '--iters', args.iters, '--opts', 'label_1.scales=[1.0]', 'label_2.scales=[1.0]')
        return _DEMO, os.path.join(folder, 'retrain_2')
    weights = os.path.join(start, f'iter_{args.iters * _ALL_MASKS}', 'model.pdparams')
    return _DEMO, trained(args, method, '--config', _DEMO, '--method', method, '--label_ratio', 0.125,
                          '--iters', args.iters, '--opts', f'model.pretrained={weights}')


def trained(args, name, *flags):
    """str: the folder of a run; trained unless it has been."""
    folder = os.path.join(args.save_dir, name)
    if not any(entry.startswith('iter_') for entry in (os.listdir(folder) if os.path.isdir(folder) else ())):
        tool(args, 'tools/train.py', *flags, '--save_dir', folder, '--save_interval', 10**6)
    return folder


def compared(args, name, config, run_folder, output_op='argmax', flags=(), opts=()):
    """Exports a network and compares masks and logits, on all photos.

    Returns:
        dict: a row of the table.
    """
    folder = os.path.join(args.save_dir, 'exported', name.replace(', ', '_').replace(' ', '_'))
    done = os.path.join(folder, 'row.json')
    if not os.path.isfile(done):
        network = ['--config', config, '--model_path', run_folder, *(['--opts', *opts] if opts else [])]
        tool(args, 'tools/export.py', *network, *flags, '--output_op', output_op, '--save_dir', folder)
        tool(args, 'tools/predict.py', *network, '--image_path', _PHOTOS, '--save_dir', folder)
        row = {}
        wanted = masks(os.path.join(folder, 'pseudo_color_prediction'))
        row['classes'] = str(len({int(cls) for mask in wanted.values() for cls in set(mask.flat)}))
        for engine in ('Paddle', 'oneDNN'):
            tool(args, 'deploy/python/infer.py', '--config', f'{folder}/deploy.yaml', '--image_path', _PHOTOS,
                 '--enable_mkldnn', engine == 'oneDNN', '--save_dir', f'{folder}/{engine}')
            row[f'equal pixels, {engine}'] = percent(wanted, masks(f'{folder}/{engine}'))
        if output_op == 'argmax' and not flags:
            tool(args, 'tools/export.py', *network, '--output_op', 'none', '--save_dir', f'{folder}/logits')
            row.update(logits(config, opts, run_folder, f'{folder}/logits/deploy.yaml'))
        with open(done, 'w', encoding='utf-8') as file:
            json.dump(row, file)
    with open(done, encoding='utf-8') as file:
        return json.load(file)


def logits(config, opts, run_folder, deploy):
    """dict: the largest differences of logits over all photos, and the largest logit."""
    import numpy as np
    import paddle

    from paddleseg_semi.core.common import list_images
    from paddleseg_semi.cvlibs import SemiBuilder, SemiConfig
    from paddleseg_semi.deploy.backends import PaddleBackend
    from paddleseg_semi.deploy.bundle import Bundle
    builder, bundle = SemiBuilder(SemiConfig(config, list(opts))), Bundle.read(deploy)
    model = builder.model
    builder.load_weights(model, run_folder)
    model.eval()
    backends = {'Paddle': PaddleBackend(bundle), 'oneDNN': PaddleBackend(bundle, engine='onednn')}
    scale, differences = 0, dict.fromkeys(backends, 0)
    for path, _ in list_images(_PHOTOS):
        img = bundle.transforms({'img': path})['img'][None]
        with paddle.no_grad():
            wanted = model(paddle.to_tensor(img))[0].numpy()
        scale = max(scale, np.abs(wanted).max())
        for engine, backend in backends.items():
            differences[engine] = max(differences[engine], np.abs(backend.run(img) - wanted).max())
    return {**{f'largest difference of logits, {engine}': f'{value:.1e}' for engine, value in differences.items()},
            'largest logit': f'{scale:.1f}'}


def masks(folder):
    """dict: path below the folder → classes [h, w]."""
    import numpy as np
    from PIL import Image
    files = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    return {os.path.relpath(path, folder): np.array(Image.open(path)) for path in files if path.endswith('.png')}


def percent(wanted, found):
    """str: share of equal pixels, never rounded up to 100."""
    assert wanted.keys() == found.keys()
    different = sum(int((mask != found[name]).sum()) for name, mask in wanted.items())
    total = sum(mask.size for mask in wanted.values())
    return '100 %' if not different else f'{100 * (1 - different / total):.4f} % ({different} not)'


def tool(args, path, *flags):
    """Runs a tool of the repository; its output goes to a log."""
    threads = ['--cpu_threads', args.cpu_threads] if args.cpu_threads and 'demo_data' not in path else []
    log = os.path.join(args.save_dir, 'log.txt')
    with open(log, 'a', encoding='utf-8') as file:
        done = subprocess.run([sys.executable, os.path.join(ROOT, path), *map(str, (*flags, *threads))], stdout=file,
                              stderr=subprocess.STDOUT)
    if done.returncode:
        from paddleseg_semi.errors import RunError
        raise RunError(f'{path} failed; {log} says why. Then run this again.')


def write(args, name, rows):
    columns = list(dict.fromkeys(key for row in rows for key in row))
    path = os.path.join(args.csv, f'{name}.csv') if args.csv else None
    with open(path, 'w', newline='', encoding='utf-8') if path else os.fdopen(os.dup(1), 'w') as file:
        writer = csv.DictWriter(file, columns, restval='', lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


if __name__ == '__main__':
    run(main, parser)
