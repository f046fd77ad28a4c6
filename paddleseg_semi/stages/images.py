"""What stages that work on one image after another share."""

import os
from concurrent.futures import ThreadPoolExecutor

import paddle.distributed as dist

from paddleseg_semi import images
from paddleseg_semi.core import parallel, pictures
from paddleseg_semi.core.common import progress_bar
from paddleseg_semi.datasets.extra import write_list
from paddleseg_semi.datasets.maps import read_maps
from paddleseg_semi.errors import InputError

_SHOWN, _WIDTH = 8, 240  # images of a contact sheet, and how wide each is


def cores():
    """int: processors of this process, shared by the ranks."""
    return max(len(os.sched_getaffinity(0)) // dist.get_world_size(), 1)


def each(work, items, threads=1):
    """Does `work` for items that are without one of their files, the ranks sharing them; with a progress bar. All ranks
    return when all are done.

    Args:
        work (Callable): takes an item.
        items (list[tuple]): all but the first two of an item, name and image, are its files.
        threads (int): items at a time. Networks want one: Paddle's modes hold for the thread they were set in.
    """
    items = items[dist.get_rank()::dist.get_world_size()]  # first: ranks may differ in what they find missing
    items = [item for item in items if not all(map(os.path.exists, item[2:]))]
    bar = progress_bar(len(items), show=dist.get_rank() == 0)
    pool = ThreadPoolExecutor(threads)
    try:
        for i, _ in enumerate(pool.map(work, items) if threads > 1 else map(work, items)):
            bar.update(i + 1)
    finally:
        pool.shutdown(cancel_futures=True)
    parallel.barrier()


def read_image(path, channels=3):
    """np.ndarray: [h, w, 3] uint8 RGB, or [h, w] gray; InputError when it cannot be read."""
    return images.read(path, channels)


def read_mask(path, size=None):
    """np.ndarray: [h, w] int64; InputError when it cannot be read, or is not of the size (h, w)."""
    mask = images.read_mask(path).astype('int64')
    if mask.ndim != 2 or mask.shape != (size or mask.shape):
        raise InputError(f'{path}: is {list(mask.shape)}, not {list(size) if size else "[height, width]"}, a class id '
                         'per pixel of the image. Repair it, or take it off its list.')
    return mask


def read_fitting_maps(path, image):
    """Reads the score maps of an image, and the image.

    Returns:
        tuple: (classes, maps), see `read_maps`; image [h, w, 3] uint8 RGB.

    Raises:
        InputError: one of the two is missing or damaged, their sizes differ, or there is no map.
    """
    (classes, maps), image = read_maps(path), read_image(image)
    if maps.shape[1:] != image.shape[:2] or not len(classes):
        raise InputError(f'{path}: {len(classes)} maps of {list(maps.shape[1:])} for an image of '
                         f'{list(image.shape[:2])} (height, width). Make them again.')
    return (classes, maps), image


def name_of(product, folder):
    """str: of an image, by its product below a stage's folder: 'cam/images/1.npz' is of 'images/1'."""
    return os.path.splitext(os.path.relpath(product, folder))[0].partition(os.sep)[2]


def show_mask(image, mask):
    """list[np.ndarray]: a line of a contact sheet, image and mask (paths)."""
    return [read_image(image), pictures.colors(read_mask(mask))]


def finish(out_dir, items, words, line):
    """Writes list.txt ('image product' per line) and the contact sheet of a stage, on the first rank.

    Args:
        items (list[tuple[str, str]]): image and product.
        out_dir, words, line: see `contact_sheet`.
    """
    if dist.get_rank() == 0:
        contact_sheet(out_dir, items, words, line)
        write_list(os.path.join(out_dir, 'list.txt'), items, out_dir)


def contact_sheet(out_dir, items, words, line):
    """Writes contact_sheet.png: some images, and what was made of them.

    Args:
        out_dir (str): the stage's folder.
        items (list[tuple[str]]): at least one; eight at most are shown, evenly spaced.
        words (list[str]): headers of the columns.
        line (Callable): of the strings of an item → list of pictures [h, w, 3] uint8 RGB.
    """
    lines = [line(*item) for item in items[::max(len(items) // _SHOWN, 1)][:_SHOWN]]
    height, width = lines[0][0].shape[:2]
    sheet = pictures.table(words, lines, (_WIDTH, min(max(round(height * _WIDTH / width), 1), 4 * _WIDTH)))
    pictures.save(sheet, os.path.join(out_dir, 'contact_sheet.png'))
