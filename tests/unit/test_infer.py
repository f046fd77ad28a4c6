"""deploy/python/infer.py beyond equality with predict: windows, damaged photos, and everything it can write."""

import io
import json
import os
import zlib

import cv2
import numpy as np
import paddle
import pytest
from paddleseg.core.infer import slide_inference
from PIL import Image
from tiny import NUM_CLASSES, SIZES, call, make_photos, make_recipe, random_net

from paddleseg_semi.core.common import save_bytes
from paddleseg_semi.core.export import export
from paddleseg_semi.core.testing import Testing
from paddleseg_semi.deploy.backends import PaddleBackend
from paddleseg_semi.deploy.bundle import Bundle
from paddleseg_semi.deploy.photos import Photo, decode, frame
from paddleseg_semi.deploy.pipeline import Pipeline
from paddleseg_semi.deploy.polygons import area, outlines
from paddleseg_semi.deploy.results import Masks, Writer
from paddleseg_semi.deploy.windows import slide
from paddleseg_semi.deploy.worker import Worker
from paddleseg_semi.errors import InputError, RunError

NORMALIZE = {'type': 'Normalize'}
RESIZE = {'type': 'ResizeByLong', 'long_size': 48}
PADDING = {'type': 'Padding', 'target_size': [64, 64]}
SLIDE = ['--is_slide', '--crop_size', '24', '16', '--stride', '16', '9']


@pytest.fixture
def photos(tmp_path):
    make_photos(tmp_path)
    return tmp_path


def exported(folder, *flags, transforms=(), **recipe):
    flags = [*make_recipe(folder, transforms, **recipe), '--save_dir', folder / 'static', *flags]
    assert call('tools/export.py', *flags) == 0
    return flags[:4]


def infer(folder, *flags, images='images'):
    return call('deploy/python/infer.py', '--config', folder / 'static/deploy.yaml', '--image_path', folder / images,
                '--save_dir', folder / 'inferred', *flags)


def mask(path):
    return np.array(Image.open(path))


def photo_bytes(suffix, size=(40, 30), **options):
    image = Image.fromarray(cv2.resize(np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype='uint8'), size))
    file = io.BytesIO()
    image.save(file, format=suffix, **options)
    return file.getvalue()


# ---- the window

@pytest.mark.parametrize('output_op, average_probs, transforms, window', [
    ('none', False, [], SLIDE), ('none', True, [], SLIDE), ('softmax', False, [PADDING], SLIDE),
    ('softmax', True, [RESIZE], SLIDE), ('none', False, [RESIZE, PADDING], SLIDE),
    ('none', False, [], ['--is_slide', '--crop_size', '50', '40', '--stride', '50', '40'])])
def test_window_equals_predict(photos, output_op, average_probs, transforms, window):
    recipe = exported(photos, '--output_op', output_op, transforms=transforms,
                      test_config={'average_probs': average_probs})
    assert infer(photos, *window, '--batch_size=3', '--average_probs', average_probs, '--save_conf') == 0
    call('tools/predict.py', *recipe, '--image_path', photos / 'images', '--save_dir', photos / 'predicted', *window)
    for name, size in SIZES.items():
        found = mask(photos / f'inferred/{name}.png')
        assert found.shape == size
        assert (found == mask(photos / f'predicted/pseudo_color_prediction/{name}.png')).mean() > 0.999, name
        conf = mask(photos / f'inferred/confidence/{name}.png')
        assert conf.shape == size
        assert conf.min() >= 255 // NUM_CLASSES


@pytest.mark.parametrize('height, width, crop, stride', [
    (50, 70, (24, 16), (16, 9)), (50, 70, (70, 20), (70, 20)), (13, 70, (24, 16), (5, 16)), (9, 9, (24, 16), (24, 16))])
def test_window_has_the_bits_of_paddleseg(tmp_path, height, width, crop, stride):
    net = random_net()
    net.eval()
    export(net, str(tmp_path), [NORMALIZE], output_op='none')
    bundle = Bundle.read(str(tmp_path / 'deploy.yaml'))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype='uint8')
    with paddle.no_grad():
        whole = paddle.to_tensor(bundle.transforms({'img': image.astype('float32')})['img'][None])
        expected = slide_inference(net, whole, crop, stride)
        window = Testing(is_slide=True, crop_size=crop, stride=stride)
        for batch_size in (1, 4):
            def run(batch, most=batch_size):
                assert len(batch) <= most
                return net(paddle.to_tensor(batch))[0].numpy()

            classes, conf = slide(bundle, run, image, window, batch_size, with_conf=True)
            if batch_size == 1:  # else the network's own last bits may differ
                np.testing.assert_array_equal(classes, expected[0].argmax(0).numpy())
            np.testing.assert_allclose(conf, paddle.nn.functional.softmax(expected, 1)[0].max(0).numpy(), atol=1e-5)


def test_window_of_a_fused_model_of_fixed_size(photos):
    recipe = exported(photos, '--output_op=none', '--fuse_preprocess', '--input_shape', '2', '3', '16', '24')
    assert infer(photos, *SLIDE, '--batch_size=2') == 0
    call('tools/predict.py', *recipe, '--image_path', photos / 'images', '--save_dir', photos / 'predicted', *SLIDE)
    for name in SIZES:
        expected = mask(photos / f'predicted/pseudo_color_prediction/{name}.png')
        assert (mask(photos / f'inferred/{name}.png') == expected).mean() > 0.999


# ---- damaged photos

def test_damaged_photos_are_skipped_and_listed(photos, capsys, monkeypatch):
    exported(photos)
    images = photos / 'images'
    jpeg, bomb = photo_bytes('JPEG'), bytearray(photo_bytes('PNG'))
    bomb[16:24] = 2 * (60_000).to_bytes(4, 'big')  # what its header says of its size
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, 'big')
    for name, data in {'b_cut': jpeg[:len(jpeg) // 2], 'c_empty': b'', 'd_text': b'hello', 'e_bomb': bytes(bomb),
                       'f_good': jpeg, 'g_locked': jpeg, 'h_junk': jpeg + b'more'}.items():
        (images / f'{name}.jpg').write_bytes(data)
    os.mkfifo(images / 'i_pipe.jpg')
    real = open

    def locked(path, *args, **kwargs):  # root may read anything
        if str(path).endswith('g_locked.jpg'):
            raise PermissionError(13, 'Permission denied')
        return real(path, *args, **kwargs)

    monkeypatch.setattr('builtins.open', locked)
    capsys.readouterr()
    assert infer(photos, '--batch_size=2') == 3
    lines = capsys.readouterr().err.splitlines()
    first = next(i for i, line in enumerate(lines) if 'were skipped' in line)
    assert '6 of 13 images were skipped' in lines[first]
    reasons = {os.path.basename(line.split(': ')[0]): line.split(': ', 1)[1] for line in lines[first + 1:]}
    assert list(reasons) == sorted(reasons)
    for name, word in {'b_cut.jpg': 'runcated', 'c_empty.jpg': 'empty', 'd_text.jpg': 'not an image', 'e_bomb.jpg':
                       '60000x60000', 'g_locked.jpg': 'Permission', 'i_pipe.jpg': 'no such file'}.items():
        assert word in reasons.pop(name)
    assert not reasons
    written = {os.path.splitext(os.path.relpath(os.path.join(folder, file), photos / 'inferred'))[0]
               for folder, _, files in os.walk(photos / 'inferred') for file in files}
    assert written == {*SIZES, 'f_good', 'h_junk'}


def test_a_photo_the_model_does_not_take_is_skipped(photos, capsys):
    exported(photos, '--input_shape', '-1', '3', '37', '53')
    capsys.readouterr()
    assert infer(photos) == 3
    err = capsys.readouterr().err
    assert '2 of 5 images were skipped' in err
    assert 'exported for [3, 37, 53]' in err
    assert infer(photos, '--max_pixels=10') == 3
    assert '5 of 5 images were skipped' in capsys.readouterr().err


def test_what_the_network_cannot_take_is_skipped(photos):
    class Backend:
        def run(self, batch):
            if batch.shape[2:] == (48, 41):
                raise RuntimeError('Traceback ...\nInvalidArgumentError: too small\n [Hint: ...]')
            return np.zeros([len(batch), *batch.shape[2:]], 'int32')

    exported(photos)
    bundle = Bundle.read(str(photos / 'static/deploy.yaml'))
    images = [Photo(i, name, str(photos / f'images/{name}.png')) for i, name in enumerate(SIZES)]
    done = list(Pipeline(bundle, Backend(), []).run(images))
    assert {photo.name: photo.error for photo in done if photo.error} == {'a/two': 'InvalidArgumentError: too small'}
    assert len(done) == len(SIZES)


@pytest.mark.parametrize('suffix', ['JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP'])
def test_decode(suffix, tmp_path):
    data = photo_bytes(suffix)
    (tmp_path / 'photo').write_bytes(data)
    np.testing.assert_array_equal(decode(data), cv2.imread(str(tmp_path / 'photo')))
    assert decode(data, channels=1).shape == (30, 40)
    for bad in (data[:len(data) // 2], b'x' * 99, b''):
        with pytest.raises(InputError):
            decode(bad)


# ---- the pipeline

class Slow:
    def __init__(self):
        self.batches = []

    def run(self, batch):
        self.batches.append(len(batch))
        return np.zeros([len(batch), *batch.shape[2:]], 'int32')


def test_little_waits(photos, monkeypatch):
    """However many photos there are, only so many are in memory."""
    exported(photos)
    bundle, taken, done, most = Bundle.read(str(photos / 'static/deploy.yaml')), 0, 0, 0

    def source():
        nonlocal taken
        for index in range(200):
            taken += 1
            yield Photo(index, str(index), '', np.zeros([8, 8 + index % 2, 3], 'uint8'))

    backend, pipeline = Slow(), None
    pipeline = Pipeline(bundle, backend, [], batch_size=4, workers=2)
    for photo in pipeline.run(source()):
        done += 1
        most = max(most, taken - done)
        assert photo.pixels is photo.output is photo.classes is None
    assert done == 200
    assert most < 20
    assert set(backend.batches) == {4}
    monkeypatch.setattr('paddleseg_semi.deploy.segment._MOST_BYTES', 1)
    list(Pipeline(bundle, backend, [], batch_size=4, workers=2).run(source()))
    assert backend.batches[-1] == 1


def test_writers_are_told_in_order(photos):
    class Numbers(Writer):
        def __init__(self):
            self.added = []

        def make(self, photo):
            return photo.index

        def add(self, made):
            self.added.append(made)

    exported(photos)
    writer = Numbers()
    source = [Photo(index, str(index), '', np.zeros([8, 8, 3], 'uint8')) for index in range(50)]
    list(Pipeline(Bundle.read(str(photos / 'static/deploy.yaml')), Slow(), [writer], workers=4).run(source))
    assert writer.added == list(range(50))


def test_results_do_not_overwrite_each_other(photos, capsys):
    exported(photos, '--output_op=none')
    os.rename(photos / 'images/a', photos / 'images/confidence')
    capsys.readouterr()
    assert infer(photos, '--save_conf') == 2
    assert 'confidence/one.png' in capsys.readouterr().err
    assert not (photos / 'inferred').exists()
    assert infer(photos) == 0
    os.rename(photos / 'images/three.png', photos / 'images/confidence.png')
    os.rename(photos / 'images/confidence', photos / 'images/a')
    assert infer(photos, '--save_conf') == 0


@pytest.mark.parametrize('images, save_dir', [('images', 'images'), ('images/a/../five.png', 'images'),
                                              ('images', 'link'), ('images/a', 'images/../images/a')])
def test_results_do_not_overwrite_photos(photos, capsys, images, save_dir):
    exported(photos)
    (photos / 'link').symlink_to(photos / 'images')
    before = {path: path.read_bytes() for path in (photos / 'images').rglob('*.png')}
    capsys.readouterr()
    assert infer(photos, '--save_dir', photos / save_dir, images=images) == 2
    error = capsys.readouterr().err
    assert 'results would lie beside' in error
    assert len(error.splitlines()) == 1
    assert {path: path.read_bytes() for path in (photos / 'images').rglob('*.png')} == before


def test_a_name_that_is_too_long_is_skipped(photos, capsys):
    exported(photos)
    os.rename(photos / 'images/five.png', photos / f'images/{"x" * 248}.png')
    capsys.readouterr()
    assert infer(photos) == 3
    assert 'too long' in capsys.readouterr().err.splitlines()[-1]
    assert len(list((photos / 'inferred').rglob('*.*'))) == len(SIZES) - 1


def test_the_network_in_a_process_of_its_own(photos):
    exported(photos)
    bundle = Bundle.read(str(photos / 'static/deploy.yaml'))
    worker = Worker(PaddleBackend, bundle, 'cpu', 1)
    for folder, backend in (('apart', worker), ('here', PaddleBackend(bundle))):
        images = [Photo(i, name, str(photos / f'images/{name}.png')) for i, name in enumerate(SIZES)]
        done = Pipeline(bundle, backend, [Masks(bundle, str(photos / folder))], 2).run(images)
        assert not any(photo.error for photo in done)
    worker.close()
    for name in SIZES:
        np.testing.assert_array_equal(*(mask(photos / f'{folder}/{name}.png') for folder in ('apart', 'here')))


def test_a_full_disk_ends_the_run(photos, monkeypatch, capsys):
    def full(*args):
        raise RunError('no space left')

    exported(photos)
    monkeypatch.setattr('paddleseg_semi.deploy.results.save_mask', full)
    capsys.readouterr()
    assert infer(photos) == 1
    assert 'no space left' in capsys.readouterr().err


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / 'mask.png').mkdir()
    with pytest.raises(RunError, match='mask.png: cannot be written'):
        save_bytes(b'png', str(tmp_path / 'mask.png'))
    assert os.listdir(tmp_path) == ['mask.png']


def test_a_benchmark_of_nothing(photos):
    exported(photos)
    assert infer(photos, '--benchmark=True', '--max_pixels=10') == 3


# ---- what is written

def test_overlay_and_confidence(photos):
    recipe = exported(photos, '--output_op=none')
    assert infer(photos, '--save_overlay', '--save_conf', 'True') == 0
    call('tools/predict.py', *recipe, '--image_path', photos / 'images', '--save_dir', photos / 'predicted')
    net = random_net()
    net.eval()
    for name in SIZES:
        overlays = [cv2.imread(str(photos / f'{folder}/added_prediction/{name}.png')).astype(int)
                    for folder in ('inferred', 'predicted')]
        assert (np.abs(overlays[0] - overlays[1]).max(2) <= 1).mean() > 0.999
        photo = cv2.imread(str(photos / f'images/{name}.png'))[:, :, ::-1]
        x = paddle.to_tensor(((photo / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None].astype('float32'))
        expected = 255 * paddle.nn.functional.softmax(net(x)[0], 1)[0].max(0).numpy()
        assert np.abs(mask(photos / f'inferred/confidence/{name}.png') - expected).max() < 0.6


def fill(ring, shape):
    """How often a rectilinear ring goes around every pixel."""
    turns = np.zeros(shape, int)
    for (x, y), (_, end) in zip(ring.astype(int), np.roll(ring, -1, 0).astype(int)):
        if end != y:
            turns[min(y, end):max(y, end), x:] += np.sign(end - y)
    return turns


@pytest.mark.parametrize('seed', range(20))
def test_outlines_are_exact(seed):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, rng.integers(1, 25, 2)).astype('uint8').repeat(1 + seed % 2, 0)
    found = np.full(classes.shape, 255)
    for number, ring in outlines(classes):
        turns = fill(ring, classes.shape)
        assert len(np.unique(turns[turns != 0])) == 1  # so both fill rules agree
        assert abs(turns).max() == 1
        assert area(ring) == (turns != 0).sum()
        assert (found[turns != 0] == 255).all()
        found[turns != 0] = number
    np.testing.assert_array_equal(found, classes)


def test_hole():
    classes = np.zeros([5, 6], 'uint8')
    classes[1:4, 1:5] = 1
    classes[2, 3] = 2
    rings = dict(outlines(classes, skip=[0]))
    assert area(rings[1]) == 11
    assert sorted(map(tuple, rings[2])) == [(3, 2), (3, 3), (4, 2), (4, 3)]
    assert len(rings[1]) == 4 + 1 + 5 + 1


def test_simplified_outlines():
    disk = cv2.circle(np.zeros([80, 80], 'uint8'), (40, 40), 30, 1, -1)
    cv2.circle(disk, (40, 40), 10, 2, -1)
    (_, exact), (_, simple) = (next(outlines(disk, [0, 2], tolerance)) for tolerance in (0, 2))
    assert len(simple) < len(exact) / 4
    assert abs(area(simple) - area(exact)) < 0.1 * area(exact)


def named(photos, names):
    """Class names in deploy.yaml."""
    with open(photos / 'static/deploy.yaml', 'a') as file:
        file.write(f'  class_names: {names}\n')


def test_coco(photos):
    exported(photos)
    named(photos, '[background, b, c, d]')
    assert infer(photos, '--polygons=coco', '--batch_size=2') == 0
    coco = json.loads((photos / 'inferred/annotations.json').read_text())
    assert {category['id']: category['name'] for category in coco['categories']} == {1: 'b', 2: 'c', 3: 'd'}
    assert [a['id'] for a in coco['annotations']] == list(range(1, len(coco['annotations']) + 1))
    images = {image['id']: image for image in coco['images']}
    assert sorted(image['file_name'] for image in images.values()) == sorted(f'{name}.png' for name in SIZES)
    for number, image in images.items():
        found = np.zeros([image['height'], image['width']], int)
        for annotation in (a for a in coco['annotations'] if a['image_id'] == number):
            inside = fill(np.reshape(annotation['segmentation'][0], [-1, 2]), found.shape) != 0
            assert annotation['area'] == inside.sum()
            rows, columns = np.nonzero(inside)
            assert annotation['bbox'] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            found[inside] = annotation['category_id']
        np.testing.assert_array_equal(found, mask(photos / 'inferred' / image['file_name']))


def test_labelme(photos):
    exported(photos)
    assert infer(photos, '--polygons=labelme') == 0
    for name, size in SIZES.items():
        path = photos / f'inferred/labelme/{name}.json'
        content = json.loads(path.read_text())
        assert (content['imageHeight'], content['imageWidth']) == size
        assert os.path.samefile(path.parent / content['imagePath'], photos / f'images/{name}.png')
        found = np.full(size, 255)
        for shape in content['shapes']:
            found[fill(np.array(shape['points']), size) != 0] = int(shape['label'].removeprefix('class '))
        np.testing.assert_array_equal(found, mask(photos / f'inferred/{name}.png'))


def test_video(photos):
    frames = [np.full([32, 48, 3], 20 * i, 'uint8') for i in range(7)]
    video = cv2.VideoWriter(str(photos / 'clip.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 10, (48, 32))
    for pixels in frames:
        video.write(pixels)
    video.release()
    exported(photos)
    assert infer(photos, '--save_overlay', images='clip.mp4') == 0
    assert sorted(os.listdir(photos / 'inferred/clip')) == [f'{i:06d}.png' for i in range(7)]
    result = cv2.VideoCapture(str(photos / 'inferred/added_prediction/clip.mp4'))
    assert result.get(cv2.CAP_PROP_FPS) == 10
    assert [result.read()[0] for _ in range(8)] == 7 * [True] + [False]
    assert os.listdir(photos / 'inferred/added_prediction') == ['clip.mp4']
    assert infer(photos, '--max_pixels=1000', images='clip.mp4') == 3
    (photos / 'text.mp4').write_text('hello')
    assert infer(photos, images='text.mp4') == 2


def test_a_damaged_video(photos, capsys):
    path = photos / 'clip.avi'
    video, rng = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5, (96, 64)), np.random.default_rng(0)
    for _ in range(20):
        video.write(rng.integers(0, 256, (64, 96, 3), dtype='uint8'))
    video.release()
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    exported(photos)
    capsys.readouterr()
    assert infer(photos, '--save_overlay', images='clip.avi') == 3
    assert 'of 20 frames can be read' in capsys.readouterr().err.splitlines()[-1]
    assert len(os.listdir(photos / 'inferred/clip')) < 20


def test_gray_frames():
    frames = [np.full([24, 32, 3], [0, 0, 200], 'uint8')] * 2
    assert frame(frames[0], channels=1).shape == (24, 32)
    assert frame(frames[0]) is frames[0]


# ---- flags and engines

@pytest.mark.parametrize('flags, word', [
    (['--save_conf'], '--output_op none'), (SLIDE, '--output_op none'), (['--polygon_tolerance=-1'], 'tolerance'),
    (['--polygon_tolerance=nan'], 'tolerance'), (['--enable_mkldnn=True', '--precision=int8'], 'tools/quantize.py'),
    (['--max_pixels=0'], '--max_pixels'), (['--enable_openvino=True'], '--old_ir'),
    (['--precision=bf16'], 'oneDNN'), (['--is_slide'], '--crop_size')])
def test_flags_that_cannot_be(photos, capsys, flags, word):
    exported(photos, *(['--output_op=none'] if flags == ['--is_slide'] else []))
    capsys.readouterr()
    assert infer(photos, *flags) == 2
    error = capsys.readouterr().err
    assert word in error
    assert len(error.splitlines()) == 1
    assert not (photos / 'inferred').exists()


def test_a_window_of_another_size_than_the_model(photos, capsys):
    exported(photos, '--output_op=none', '--input_shape', '1', '3', '16', '24')
    for size, code in (('16', 2), ('24', 0)):
        assert infer(photos, '--is_slide', '--crop_size', size, '16', '--stride', size, '16') == code
    assert 'exported for images of width 24 and height 16' in capsys.readouterr().err


@pytest.mark.parametrize('old_ir, options, least', [
    (False, {'engine': 'onednn'}, 0.999), (True, {'engine': 'onednn'}, 0.999), (True, {}, 0.999),
    (True, {'engine': 'openvino'}, 0.999), (False, {'engine': 'onednn', 'precision': 'bf16'}, 0.9),
    (True, {'engine': 'openvino', 'precision': 'bf16'}, 0.9)], ids=str)
def test_engines_agree(photos, old_ir, options, least):
    exported(photos, '--output_op=none', *(['--old_ir'] if old_ir else []))
    bundle = Bundle.read(str(photos / 'static/deploy.yaml'))
    net = random_net()
    net.eval()
    x = np.random.default_rng(0).random([2, 3, 33, 47], dtype='float32')
    expected = net(paddle.to_tensor(x))[0].argmax(1).numpy()
    assert (PaddleBackend(bundle, **options).run(x).argmax(1) == expected).mean() >= least
