"""Weights from packages and addresses: read without executing, written nowhere else, refused in one line."""

import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
import zipfile
from importlib import metadata

import numpy as np
import pytest
import requests
from paddle import nn
from paddleseg.utils import seg_env, utils

from paddleseg_semi.errors import InputError, RunError
from paddleseg_semi.models import fetch, weight_files
from paddleseg_semi.models.weights import load_pretrained

WEIGHTS = pickle.dumps({'weight': np.full([2, 2], 7, 'float32')}, protocol=4)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(seg_env, 'PRETRAINED_MODEL_HOME', str(tmp_path / 'home'))
    return tmp_path / 'home'


@pytest.fixture
def served(monkeypatch):
    """dict: path → body, or the address it leads to, of a server on this machine that takes https for http."""
    class Served(dict):
        """With `url(path)`, the paths `asked` for, and how many bytes are `missing` from bodies."""

    found = Served()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found.asked.append(self.path)
            body = found.get(self.path)
            if isinstance(body, str):
                self.send_response(302)
                self.send_header('Location', body)
            else:
                self.send_response(404 if body is None else 200)
                self.send_header('Content-Length', str(len(body or b'') + found.missing))
            self.end_headers()
            if isinstance(body, bytes):
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    found.missing, found.asked = 0, []
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    class Plain(requests.adapters.HTTPAdapter):
        def send(self, request, **kwargs):
            request.url = request.url.replace('https://', 'http://', 1)
            answer = super().send(request, **kwargs)
            answer.url = answer.url.replace('http://', 'https://', 1)
            return answer

    monkeypatch.setattr(requests.sessions, 'HTTPAdapter', Plain)
    found.url = lambda path: f'https://127.0.0.1:{server.server_port}{path}'
    yield found
    server.shutdown()


def tar(**members):
    """A .tar.gz of bytes, or of links where a member is text."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w:gz') as file:
        for name, body in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(body, str):
                member.type, member.linkname = tarfile.SYMTYPE, body
                file.addfile(member)
            else:
                member.size = len(body)
                file.addfile(member, io.BytesIO(body))
    return data.getvalue()


def zipped(**members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as file:
        for name, body in members.items():
            file.writestr(name, body)
    return data.getvalue()


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


@pytest.mark.parametrize('name, body', [
    ('/net/model.pdparams', WEIGHTS), ('/net.tar.gz', tar(**{'net/readme': b'', 'net/model.pdparams': WEIGHTS})),
    ('/net.tar.gz', tar(**{'../../evil': b'x', '/etc/evil': b'x', '../../../out.pdparams': WEIGHTS})),
    ('/net.tar.gz', tar(**{'model.pdparams': '/etc/passwd', 'other.pdparams': WEIGHTS})),
    ('/net.zip', zipped(**{'../evil': b'x', '../model.pdparams': WEIGHTS}))])
def test_downloads(name, body, home, served, tmp_path):
    served[name] = body
    net = nn.Linear(2, 2, bias_attr=False)
    load_pretrained(net, served.url(name))
    assert (net.weight.numpy() == 7).all()
    folder, = home.iterdir()
    assert tree(folder) == sorted(['lock', 'sha256', 'model.pdparams'])
    assert tree(tmp_path) == sorted([f'home/{folder.name}', 'home', *(f'home/{folder.name}/{n}' for n in tree(folder))])
    assert utils.download_pretrained_model(served.url(name)) == str(folder / 'model.pdparams')
    assert len(served.asked) == 1, 'once'


def test_addresses_do_not_share_weights(home, served):
    for number, path in enumerate(('/a/net/model.pdparams', '/b/net/model.pdparams')):
        served[path] = bytes([number])
        with open(fetch.download(served.url(path)), 'rb') as file:
            assert file.read() == bytes([number])


@pytest.mark.parametrize('name, body, says', [
    ('/net.tar.gz', b'no archive', 'is not an archive with a .pdparams file'),
    ('/net.tar.gz', tar(**{'model.pdparams': '/etc/passwd'}), 'it has none'),
    ('/net.tar.gz', tar(**{f'{number}': b'' for number in range(1001)}, **{'m.pdparams': WEIGHTS}), 'more than 1000'),
    ('/net.tar.gz', tar(**{'net.pdparams': WEIGHTS})[:60], 'is not an archive'),
    ('/net.zip', zipped(readme=b''), 'it has none')])
def test_archives_that_are_refused(name, body, says, home, served):
    served[name] = body
    with pytest.raises(InputError, match=says):
        fetch.download(served.url(name))
    assert all(path.name == 'lock' for folder in home.iterdir() for path in folder.iterdir())


@pytest.mark.parametrize('url, says', [
    ('http://a/net.pdparams', 'https addresses only'), ('ftp://a/net.pdparams', 'https addresses only'),
    ('https://a/..', 'name of a file'), ('https://a/%2e%2e%2f..', 'name of a file'), ('https://a/', 'name of a file'),
    ('https://a/n#sha256=12', '64 digits')])
def test_addresses_that_are_refused(url, says, home):
    with pytest.raises(InputError, match=says):
        load_pretrained(nn.Linear(2, 2), url)
    assert not home.exists()


def test_digest(home, served):
    served['/model.pdparams'] = WEIGHTS
    digest, url = hashlib.sha256(WEIGHTS).hexdigest(), served.url('/model.pdparams')
    for _ in range(2):
        with pytest.raises(InputError, match=digest):
            fetch.download(f'{url}#sha256={"0" * 64}')
    path = fetch.download(f'{url}#sha256={digest}')
    with pytest.raises(InputError, match=digest):
        fetch.download(f'{url}#sha256={"0" * 64}')
    assert fetch.download(url) == path


def test_what_ends_a_download(home, served):
    """Offline, not found, cut off, led to a plain address: one line, no half file, and the next try begins anew."""
    url = served.url('/model.pdparams')
    for body, missing in ((None, 0), (WEIGHTS, 5), ('http://127.0.0.1:1/model.pdparams', 0)):
        served.update({'/model.pdparams': body})
        served.missing = missing
        with pytest.raises(RunError, match='cannot be downloaded.*give the path of the file') as caught:
            fetch.download(url)
        assert '\n' not in str(caught.value)
        assert all(path.name == 'lock' for folder in home.iterdir() for path in folder.iterdir())
    served.update({'/model.pdparams': WEIGHTS})
    served.missing = 0
    assert os.path.isfile(fetch.download(url))


class Distribution:
    def __init__(self, folder, version='1.0'):
        self.folder, self.version = folder, version

    def locate_file(self, name):
        return self.folder / name


@pytest.fixture
def installed(tmp_path, monkeypatch):
    (tmp_path / 'pack').mkdir()
    (tmp_path / 'pack/net.pdparams').write_bytes(WEIGHTS)
    package = fetch.Package('1.0', 'pack/net.pdparams', hashlib.sha256(WEIGHTS).hexdigest())
    monkeypatch.setattr(fetch, 'PACKAGES', {'pack': package})
    monkeypatch.setattr(metadata, 'distribution', lambda name: Distribution(tmp_path))
    return tmp_path


def test_package(installed):
    net = nn.Linear(2, 2, bias_attr=False)
    load_pretrained(net, 'package:pack')
    assert (net.weight.numpy() == 7).all()


def test_packages_that_are_refused(installed, monkeypatch):
    def refused(says, name='pack'):
        with pytest.raises(InputError, match=says) as caught:
            load_pretrained(nn.Linear(2, 2), f'package:{name}')
        assert '\n' not in str(caught.value)

    refused('no package with known weights. Did you mean "pack"', 'pak')
    refused('no package with known weights', '../../etc')
    (installed / 'pack/net.pdparams').write_bytes(b'other')
    refused('is not the published file. Run: pip install pack==1.0 --force-reinstall')
    (installed / 'pack/net.pdparams').unlink()
    (installed / 'elsewhere').write_bytes(WEIGHTS)
    (installed / 'pack/net.pdparams').symlink_to(installed / 'elsewhere')
    refused('without pack/net.pdparams')
    monkeypatch.setattr(metadata, 'distribution', lambda name: Distribution(installed, '2.0'))
    refused('version 2.0 is installed')

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, 'distribution', missing)
    refused('is not installed. Run: pip install pack==1.0')


def test_linear_weights_of_pytorch_are_turned(tmp_path, monkeypatch):
    array = np.arange(6, dtype='float32').reshape(3, 2)
    state = {'module.0.weight': array, '1.running_mean': array[:, 0]}
    monkeypatch.setattr(weight_files, 'read', lambda path: weight_files.Weights(state, True))
    net = nn.Sequential(nn.Linear(2, 3, bias_attr=False), nn.BatchNorm1D(3))
    (tmp_path / 'net.pth').touch()
    load_pretrained(net, str(tmp_path / 'net.pth'))
    assert (net[0].weight.numpy() == array.T).all() and (net[1]._mean.numpy() == array[:, 0]).all()
