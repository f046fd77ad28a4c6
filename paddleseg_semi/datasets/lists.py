"""Text lists and folders of images: reading them, and finding their images in a data set."""

import os
import re
from itertools import islice
from types import SimpleNamespace

from paddleseg_semi import files
from paddleseg_semi.errors import InputError, nearest

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
_IMAGE_AND_LABEL = re.compile(r'(.+?(?:' + '|'.join(map(re.escape, IMAGE_SUFFIXES)) + r'))[ \t,]+\S', re.IGNORECASE)
_STRAY = ' \t,;"\''
_AROUND_SLASH = re.compile(f'[{_STRAY}]*/[{_STRAY}]*')


def lines(path, as_is=False):
    """Yields (line number, text without surrounding blanks) of the lines of a list file.

    Args:
        path (str): the list.
        as_is (bool): what PaddleSeg reads: with blank lines, and the mark of byte order that some editors begin with.

    Raises:
        InputError: no such file, or not a text file.
    """
    try:
        with files.opened(path, encoding='utf-8' if as_is else 'utf-8-sig') as file:
            for number, line in enumerate(file, 1):
                line = line.strip()
                if line or as_is:
                    yield number, line
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}). Check the path of the list.') from None
    except UnicodeDecodeError:
        raise InputError(f'{path}: not a text file. A list has one image per line, in UTF-8.') from None


def write(path, text):
    """Writes lines (Iterable[str], line ends included) to a file that appears complete or not at all."""
    files.write(path, ''.join(text))


def image_of(line):
    """The image of a line 'id', 'image' or 'image label'; between them blanks, TAB or comma. Names may hold blanks."""
    if '\t' in line:
        return line.split('\t', 1)[0].rstrip()
    if ' ' not in line and ',' not in line:
        return line
    match = _IMAGE_AND_LABEL.match(line)
    if match:
        return match[1]
    return line if line.lower().endswith(IMAGE_SUFFIXES) else re.split('[ ,]', line, maxsplit=1)[0]


def relative(path, root):
    """`path` below the folder `root`; unchanged when it is elsewhere."""
    prefix = os.path.join(root, '')
    return path[len(prefix):] if path.startswith(prefix) else path


def name(path, root):
    """str: what the products of an image are called: its path below `root` without suffix. An image elsewhere has its
    whole path, as a relative one, so that its products stay in their folder."""
    return os.path.splitext(os.path.normpath('/' + relative(path, root).lstrip('/')))[0][1:]  # '/..' is '/': no way up


def root_of(base):
    """The folder that the lists of a data set are relative to ('' when the data set has none)."""
    return getattr(base, 'dataset_root', None) or ''


def named_like(base, folder, suffix):
    """list[str]: the files below `folder` that are named as the images of a data set, `suffix` in place of theirs."""
    root = root_of(base)
    return [os.path.join(folder, name(item[0], root) + suffix) for item in base.file_list]


def identities(paths):
    """Yields a spelling of each path that is the same for the same file (links of folders resolved)."""
    folders = {}
    for path in paths:
        folder, name = halves(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder or '.')
        yield f'{folders[folder]}/{name}'


def halves(path):
    """Folder (with its slash) and file name; several times faster than os.path.split, which counts for long lists."""
    cut = path.rfind('/') + 1
    return path[:cut], path[cut:]


def advice(path):
    """What may be meant by a path that does not exist.

    Args:
        path (str): of a list.

    Returns:
        str: the end of an error line, with a blank before it; '' when nothing is like it.
    """
    plain = _AROUND_SLASH.sub('/', path.replace('\\', '/')).strip(_STRAY)
    if plain != path and os.path.isfile(plain):
        change = 'write / for \\' if '\\' in path else 'take the blanks, commas or quotes around the name out'
        return f' There is "{plain}": {change}.'
    if '\\' in path:
        return ' Write / for \\ in paths.'
    folder, wanted = halves(path)
    stem = os.path.splitext(wanted)[0].lower()
    found = sorted(os.listdir(folder or '.')) if os.path.isdir(folder or '.') else ()
    other = next((name for name in found if os.path.splitext(name)[0].lower() == stem), None)
    return f' There is "{folder}{other}".' if other else ''


def raw_images(source, root=''):
    """Image files without masks.

    Args:
        source (str): a folder (searched with all below it) or a list file, one image per line. Paths in a list are
            absolute, or relative to `root` or to the folder of the list, whichever holds its first image.
        root (str): the root of the data set.

    Returns:
        list[str]: paths; sorted when they come from a folder.

    Raises:
        InputError: nothing there, no image, an image listed twice.
    """
    if os.path.isdir(source):
        paths = images_below(source)
        if not paths:
            raise InputError(f'{source}: no images in this folder or below (looked for {" ".join(IMAGE_SUFFIXES)}).')
        return paths
    paths, folder = {}, None
    for number, line in lines(source):
        image = image_of(line)
        if folder is None:
            folder = folder_of(image, (root, os.path.dirname(source)), f'{source}:{number}')
        path = os.path.join(folder, image)
        if path in paths:
            raise InputError(f'{source}:{number}: "{image}" is listed twice, first in line {paths[path]}. Remove one.')
        paths[path] = number
    if not paths:
        raise InputError(f'{source}: the list is empty. Give one image per line, or a folder.')
    return list(paths)


def images_below(source):
    """list[str]: the image files of a folder and of all below it, links followed, sorted; hidden ones left out."""
    return sorted(os.path.join(folder, name) for folder, names in _folders(source) for name in names
                  if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith('.'))


def _folders(source):
    """Yields a folder, and all below it, with their file names; once each, whatever links lead there, or in circles."""
    seen = set()
    for folder, below, names in os.walk(source, followlinks=True):
        below.sort()
        if os.path.realpath(folder) in seen:
            below.clear()
        else:
            seen.add(os.path.realpath(folder))
            yield folder, names


def folder_of(image, folders, where):
    """The one of `folders` that holds `image`. Asked once per list, so that long lists stay cheap."""
    for folder in folders:
        if os.path.isfile(os.path.join(folder, image)):
            return folder
    hint = max((advice(os.path.join(folder, image)) for folder in folders), key=len)
    raise InputError(f'{where}: no file "{image}" under ' + ' or '.join(f'"{folder or "."}"' for folder in folders)
                     + f'.{hint} Give paths relative to dataset_root, or absolute ones.')


def check_unique(base):
    """Refuses a training set that is empty or lists an image twice (which could be labeled and unlabeled at once).

    Raises:
        InputError: naming the image.
    """
    total = len(base.file_list)
    if not total:
        raise InputError(f'The training set ({type(base).__name__} in "{root_of(base)}") is empty. Check its list.')
    if len({item[0] for item in base.file_list}) == total:
        return
    first = {}
    for i, item in enumerate(base.file_list, 1):
        if first.setdefault(item[0], i) != i:
            raise InputError(f'The training set lists {item[0]} twice (images {first[item[0]]} and {i} of {total}); '
                             'it could be labeled and unlabeled at once. Remove one from its list (for PASCAL VOC '
                             'run tools/prepare_voc.py).')


def named(path, base):
    """The images of a list, as a data set of its own: 'image mask' per line; or images or ids alone, which have the
    masks of the data set if it holds them, and none otherwise.

    Args:
        path (str): the list; paths in it are absolute or relative to the data set's root.
        base (paddle.io.Dataset): a PaddleSeg data set.

    Returns:
        SimpleNamespace: what `checks`, `tags` and stages ask of a data set: file_list, dataset_root, num_classes,
            ignore_index.

    Raises:
        InputError: no such list, an empty one, an image that is not there or listed twice.
    """
    root, index = root_of(base), ImageIndex(base)
    items = [_named(line, index, base, f'{path}:{number}') for number, line in lines(path)]
    if not items:
        raise InputError(f'{path}: the list is empty. Give one image per line.')
    part = SimpleNamespace(file_list=items, dataset_root=root, num_classes=base.num_classes,
                           ignore_index=base.ignore_index)
    check_unique(part)
    return part


def _named(line, index, base, where):
    image = image_of(line)
    path, mask = os.path.join(index.root, image), line[len(image):].strip(' \t,')
    if not mask and (not os.path.isfile(path) or index.find(image)):
        return list(base.file_list[index.position(image, where)])
    for file in filter(None, (path, mask and os.path.join(index.root, mask))):
        if not os.path.isfile(file):
            raise InputError(f'{where}: {file}: no such file.{advice(file)} Give paths relative to dataset_root '
                             f'"{index.root}", or absolute ones.')
    return [path, os.path.join(index.root, mask) if mask else None]


class ImageIndex:
    """Finds the images of a data set by path relative to its root, or else by file name without suffix.

    Args:
        base (paddle.io.Dataset): a PaddleSeg data set: `file_list`, `dataset_root`.

    Raises:
        InputError: as `check_unique`.
    """

    def __init__(self, base):
        self.root = root_of(base)
        check_unique(base)
        self.paths = {relative(item[0], self.root): i for i, item in enumerate(base.file_list)}
        self._stems = None

    def find(self, image):
        """Positions (list[int]) of the images that `image`, a path or a bare id, can mean."""
        position = self.paths.get(image)
        if position is None and os.path.isabs(image):
            position = self.paths.get(relative(image, os.path.abspath(self.root)))
        if position is not None:
            return [position]
        if self._stems is None:
            self._stems = {}
            for path, i in self.paths.items():
                self._stems.setdefault(_stem(path), []).append(i)
        found = self._stems.get(_stem(image), [])
        if len(found) > 1:  # the same name in several folders: the folders of the line decide
            ending = '/' + image.lstrip('./')
            paths = list(self.paths)
            found = [i for i in found if paths[i].endswith(ending)] or found
        return found

    def position(self, image, where):
        """The position of exactly one image.

        Raises:
            InputError: none, or several; the line starts with `where` ('file:line').
        """
        found = self.find(image)
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f'{where}: "{image}" can mean {len(found)} images of the training set. Give its path '
                             f'relative to dataset_root "{self.root}".')
        known = (os.path.splitext(path)[0] if not os.path.splitext(image)[1] else path for path in self.paths)
        known = known if '/' in image else map(os.path.basename, known)
        raise InputError(f'{where}: "{image}" is not one of the {len(self.paths)} images of the training set.'
                         f'{nearest(image, islice(known, 20000))} Give ids, or paths relative to dataset_root '
                         f'"{self.root}".')


def _stem(path):
    """The id in a path: the file name without suffix, and without what Cityscapes appends to ids."""
    stem, dot, suffix = halves(path)[1].rpartition('.')
    if f'.{suffix}'.lower() not in IMAGE_SUFFIXES:
        stem += dot + suffix
    return stem.removesuffix('_leftImg8bit')
