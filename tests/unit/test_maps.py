"""Score maps on disk."""

import numpy as np
import pytest

from paddleseg_semi.datasets.maps import read_maps, write_maps
from paddleseg_semi.errors import InputError, RunError


@pytest.mark.parametrize('classes', [[], [3], [0, 1, 20]])
def test_maps_come_back(tmp_path, classes):
    maps = np.random.default_rng(0).random([len(classes), 5, 7])
    path = tmp_path / 'cam/2007_000032.npz'
    write_maps(str(path), classes, maps)
    found, values = read_maps(str(path))
    assert found.tolist() == classes and found.dtype == 'int64'
    assert values.dtype == 'float32' and np.array_equal(values, maps.astype('float32'))
    first = path.read_bytes()
    write_maps(str(path), classes, maps)
    assert path.read_bytes() == first and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize('damage', ['missing', 'text', 'truncated', 'foreign', 'pickled', 'unequal', 'unsorted'])
def test_bad_files_are_refused(tmp_path, damage):
    path, maps = tmp_path / 'a.npz', np.zeros([2, 3, 4], 'float32')
    write_maps(str(path), [1, 2], maps)
    if damage == 'missing':
        path.unlink()
    elif damage == 'text':
        path.write_text('hello')
    elif damage == 'truncated':
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == 'foreign':
        np.savez(path, arr=maps)
    elif damage == 'pickled':
        np.savez(path, classes=np.array([{}], object), maps=maps)
    elif damage == 'unequal':
        write_maps(str(path), [1], maps)
    else:
        write_maps(str(path), [2, 1], maps)
    with pytest.raises(InputError) as error:
        read_maps(str(path))
    assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / 'cam').write_text('')
    with pytest.raises(RunError, match='cannot be written'):
        write_maps(str(tmp_path / 'cam/a.npz'), [], np.zeros([0, 1, 1]))
