"""Image-level labels: which classes an image shows, without saying where."""

import os
import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
from paddleseg.utils import logger

from paddleseg_semi.datasets import checks, lists
from paddleseg_semi.errors import InputError, nearest
from paddleseg_semi.transforms.boundary import UNKNOWN

MASKS = 'masks'  # the source that stands for the masks of the training set


def read_tags(source, base, class_names=None, problems=None):
    """Reads the tags of all images of a training set. Background is no tag: every image may show it.

    Args:
        source (str): 'masks', the training set's own; a folder of PASCAL VOC's XML files, one per image; or a list,
            'image class class …' per line, blanks, TABs or commas in between (the latter two if names have blanks);
            images that are not in the set are passed over.
        base (paddle.io.Dataset): a PaddleSeg data set with N images and C classes.
        class_names (list[str], optional): C names, the background's first. Ids 1 to C-1 do as well, except in XML.
        problems (list[str], optional): gets a line for everything that is wrong. Default: the first is raised.

    Returns:
        np.ndarray: [N, C-1] float32 of 0 and 1; column c - 1 is class c.

    Raises:
        InputError: nothing at `source`; a class that is not known; an image without a tag, or not in the source.
    """
    reader = _Reader(base, class_names, [] if problems is None else problems)
    if source == MASKS:
        reader.from_masks()
    elif os.path.isdir(source):
        reader.from_xml(source)
    else:
        reader.from_list(source)
    if problems is None and reader.problems:
        raise InputError(reader.problems[0])
    return reader.tags


def add_to_report(report, source, base, class_names=None):
    """Adds all that is wrong with tags to a `checks.Report`, and how many images have each.

    Args: as `read_tags`.
    """
    try:
        tags = read_tags(source, base, class_names, report.problems)
    except InputError as error:
        report.problems.append(str(error))
        return
    counts = report.presence['tagged'] = np.append(0, tags.sum(0)).astype('int64')
    absent = np.flatnonzero(counts[1:] == 0) + 1
    if len(absent):
        report.warnings.append(f'No image has the tag {", ".join(map(str, absent))}: it cannot be learned. Check '
                               'semi.tags and num_classes.')


def label_maps(folder, base):
    """Label maps of the images of a training set: PNGs named as these are, below a folder as these below the root.

    Args:
        folder (str): the folder.
        base (paddle.io.Dataset): a PaddleSeg data set.

    Returns:
        SimpleNamespace: what `checks` ask of a data set of images and masks, 255 where unknown. No file was looked for.

    Raises:
        InputError: no such folder.
    """
    if not os.path.isdir(folder):
        raise InputError(f'semi.boundary: {folder}: no such folder.')
    items = [[item[0], path] for item, path in zip(base.file_list, lists.named_like(base, folder, '.png'))]
    return SimpleNamespace(file_list=items, num_classes=base.num_classes, ignore_index=UNKNOWN,
                           dataset_root=lists.root_of(base))


class _Reader:
    """Attributes:
        tags (np.ndarray): see `read_tags`.
        problems (list[str]): what was wrong so far.
    """

    def __init__(self, base, class_names, problems):
        self.base, self.problems, self.classes = base, problems, base.num_classes
        self.tags = np.zeros([len(base.file_list), base.num_classes - 1], 'float32')
        self.ids = {name: number for number, name in enumerate(class_names or ())}
        if class_names and len(self.ids) != self.classes:
            raise InputError(f'class_names: {len(self.ids)} different names, but num_classes is {self.classes}. Name '
                             'every class once, the background first.')

    def from_masks(self):
        masks = [item[1] for item in self.base.file_list]
        if None in masks:
            raise InputError(f'semi.tags: {MASKS}: the training list has no mask for {self._image(masks.index(None))}. '
                             'Give a list of tags, or a folder of XML files.')
        logger.info(f'semi.tags: {MASKS}: the masks of all {len(masks)} training images are opened for the classes '
                    'they hold, and for nothing else.')
        self.tags[:] = checks.class_presence(self.base)[:, 1:]
        for i in np.flatnonzero(~self.tags.any(1)):
            self._no_tag(masks[i], i)

    def from_xml(self, folder):
        taken = {}
        for i in range(len(self.base.file_list)):
            path = self._xml_of(self._image(i), folder)
            if taken.setdefault(path, i) != i:
                self.problems.append(f'{path}: is meant for {self._image(taken[path])} and {self._image(i)}. Put the '
                                     'XML files in folders named as those of the images.')
            elif (names := self._objects(path, i)) is not None:
                self._set(i, names, path)

    def _xml_of(self, image, folder):
        name = os.path.splitext(image)[0] + '.xml'
        path = os.path.join(folder, name)
        return path if os.path.isfile(path) else os.path.join(folder, os.path.basename(name))

    def _objects(self, path, i):
        """The classes (list[str]) of the objects in a file, or None. Parts of objects have names too: not asked for."""
        try:
            root = ET.parse(path, ET.XMLParser(target=_PlainTree())).getroot()
            return [(found.findtext('name') or '').strip() for found in root.findall('object')]
        except FileNotFoundError:
            self.problems.append(f'{path}: no such file, so {self._image(i)} has no tags. Add it, or take the image '
                                 'off the training list.')
        except (OSError, ValueError, LookupError, ET.ParseError) as error:
            self.problems.append(f'{path}: cannot be read ({getattr(error, "strerror", None) or error}). Expected XML '
                                 'as PASCAL VOC has it.')
        return None

    def from_list(self, path):
        index, line_of, others, rows = lists.ImageIndex(self.base), {}, [], []
        for number, line in lists.lines(path):
            where, image = f'{path}:{number}', lists.image_of(line)
            found = index.find(image)
            if image not in index.paths and self._elsewhere(image, found):
                others.append(image)
                continue
            i = index.position(image, where)
            if line_of.setdefault(i, number) != number:
                self.problems.append(f'{where}: "{image}" is listed twice, first in line {line_of[i]}. Remove one.')
                continue
            rows.append((self._words(line[len(image):].strip(' \t,')), where))
            self._set(i, *rows[-1])
        if rows and all(len(words) > 1 and {*words} == {'1'} for words, _ in rows):
            self.problems.append(f'{rows[0][1]}: every line holds ones alone, as a table of 0 and 1 does. Lists have '
                                 'the ids or names of the classes that an image shows.')
        for i in sorted(set(range(len(self.tags))) - line_of.keys()):
            self.problems.append(f'{path}: has no line for {self._image(i)}. Add "image class class …", or take the '
                                 'image off the training list.')
        if others:
            logger.info(f'{path}: {len(others)} lines are about images that the training set does not list, such as '
                        f'"{others[0]}".')

    def _elsewhere(self, image, found):
        """Whether a line is about none of the images found by its name: about a file in another folder, or nothing."""
        path = os.path.join(lists.root_of(self.base), image)
        files = (self.base.file_list[i][0] for i in found)
        return not found or os.path.isfile(path) and os.path.realpath(path) not in map(os.path.realpath, files)

    def _words(self, text):
        if not text or text in self.ids:
            return [text] if text else []
        return re.split(r'\s*[\t,]\s*' if re.search('[\t,]', text) else ' +', text)

    def _set(self, i, words, where):
        if not words:
            self._no_tag(where, i)
        for word in words:
            problem = self._unknown(word)
            if problem:
                self.problems.append(f'{where}: {problem}')
            else:
                self.tags[i, self._id(word) - 1] = 1

    def _id(self, word):
        return self.ids[word] if word in self.ids else int(word)

    def _unknown(self, word):
        """What is wrong with a class, or None."""
        if word not in self.ids and not word.isdecimal():
            hint = nearest(word, self.ids) or ' Classes are the class_names of the recipe.' if self.ids else \
                ' The recipe has no class_names: add "class_names: [background, …]", or write ids.'
            return f'unknown class "{word}".{hint}'
        number = self._id(word)
        if not number:
            return f'class "{word}" is the background, which is no tag. Remove it.'
        if number >= self.classes:
            return f'unknown class {number}: num_classes is {self.classes}, so tags are 1 to {self.classes - 1}.'
        return None

    def _no_tag(self, where, i):
        self.problems.append(f'{where}: no class for {self._image(i)}. Every image needs one at least; take those '
                             'without off the training list.')

    def _image(self, i):
        return lists.relative(self.base.file_list[i][0], lists.root_of(self.base))


class _PlainTree(ET.TreeBuilder):
    """Refuses what a description of an image does not need, and what could make a small file swell: entities."""

    def doctype(self, name, pubid, system):
        raise ValueError('it declares a document type')
