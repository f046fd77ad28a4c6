"""Sends photos to deploy/serving/server.py and keeps the answers. Needs nothing but Python."""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'tools'))

from cli import Parser, run

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp')
_TRIES = 10  # where the service is busy

parser = Parser(__doc__)
parser.add_argument('--image_path', required=True, help='a photo, or a folder of photos')
parser.add_argument('--url', default='http://127.0.0.1:8080', help='the service')
parser.add_argument('--save_dir', default='./output', help='where the answers go, named like the photos')
parser.add_argument('--output', default='classes', choices=['classes', 'overlay', 'json'], help='what is asked for')
parser.add_argument('--polygons', action='store_true', help='with --output json: outlines, too')
parser.add_argument('--concurrency', type=int, default=1, help='photos on their way at once')
parser.add_argument('--timeout', type=float, default=60, help='seconds to wait for an answer')


class Failed(Exception):
    """What ends the tool with one line."""

    def __init__(self, exit_code, message):
        super().__init__(message)
        self.exit_code = exit_code


def main(args):
    """Returns the exit code: 0, or 3 when photos have no answer. Failed: 1 the service cannot be used, 2 bad input."""
    photos = find(args.image_path)
    if not photos:
        raise Failed(2, f'--image_path {args.image_path}: no photo there ({", ".join(_SUFFIXES)}).')
    if args.concurrency < 1:
        raise Failed(2, f'--concurrency {args.concurrency}: give a whole number of at least 1.')
    targets = plan(photos, args.save_dir, '.json' if args.output == 'json' else '.png')
    query = f'output={args.output}' + '&polygons=true' * args.polygons
    skipped = 0
    with ThreadPoolExecutor(args.concurrency) as pool:
        answers = pool.map(lambda photo: answer(args.url, photo[0], query, args.timeout), photos)
        for (path, _), target, (body, error) in zip(photos, targets, answers):
            if error is None:
                save(target, body)
            else:
                skipped += 1
                print(f'{path}: {error}', file=sys.stderr)
    print(f'{len(photos) - skipped} of {len(photos)} photos segmented: {args.save_dir}')
    return 3 if skipped else 0


def plan(photos, save_dir, suffix):
    """list[str]: where the answers go; the folder is made. Failed where one would replace a photo, or another one."""
    targets = [os.path.join(save_dir, name + suffix) for _, name in photos]
    taken = {os.path.realpath(path): 'is a photo itself. Give another --save_dir.' for path, _ in photos}
    for (path, _), target in zip(photos, targets):
        real = os.path.realpath(target)
        if real in taken:
            raise Failed(2, f'{path}: its answer would be {target}, which {taken[real]}')
        taken[real] = f'is that of {path}, too. Give one of them another name.'
    try:
        os.makedirs(save_dir, exist_ok=True)
    except OSError as error:
        raise Failed(2, f'--save_dir {save_dir}: cannot be written ({error.strerror}).') from None
    return targets


def answer(url, path, query, timeout):
    """Sends one photo. Returns the answer (bytes), and why there is none. Failed: the service cannot be used."""
    try:
        with open(path, 'rb') as file:
            photo = file.read()
    except OSError as error:
        return None, f'cannot be read ({error.strerror})'
    try:
        status, body = segment(url, photo, query, timeout)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Failed(1, f'{url}: {getattr(error, "reason", None) or error}') from None
    if status == 200:
        return body, None
    try:
        return None, json.loads(body)['error']
    except (ValueError, LookupError, TypeError):
        raise Failed(1, f'{url}: answers with status {status}, and not as deploy/serving/server.py.') from None


def segment(url, photo, query='', timeout=60):
    """Sends one photo; tries again where the service says it is busy.

    Args:
        url (str): the service, http://host:port.
        photo (bytes): the file.
        query (str): output=classes|overlay|json, polygons=true, mask=true, joined by &.
        timeout (float): seconds to wait for an answer.

    Returns:
        tuple: the HTTP status, and the body (bytes).

    Raises:
        OSError: no answer.
    """
    request = urllib.request.Request(f'{url.rstrip("/")}/segment?{query}', photo,
                                     {'Content-Type': 'application/octet-stream'})
    tries = 0
    while True:
        tries += 1
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            if error.code != 503 or tries == _TRIES:
                return error.code, error.read()
            time.sleep(float(error.headers['Retry-After'] or 1))


def find(image_path):
    """list[tuple]: (path, name without suffix) of the photos in a folder and those below it, or of the one photo."""
    if not os.path.isdir(image_path):
        return [(image_path, os.path.splitext(os.path.basename(image_path))[0])] if os.path.isfile(image_path) else []
    paths = sorted(os.path.join(folder, file) for folder, _, files in os.walk(image_path) for file in files
                   if file.lower().endswith(_SUFFIXES))
    return [(path, os.path.splitext(os.path.relpath(path, image_path))[0]) for path in paths]


def save(path, body):
    try:
        os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
        with open(path + '.tmp', 'wb') as file:
            file.write(body)
        os.replace(path + '.tmp', path)
    except OSError as error:
        raise Failed(1, f'{path}: cannot be written ({error.strerror}).') from None


if __name__ == '__main__':
    run(main, parser)
