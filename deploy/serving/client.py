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


def main(args):
    """Returns the exit code: 0, 1 when the service cannot be used, 2 bad input, 3 when it refused some photos."""
    photos = find(args.image_path)
    if not photos:
        return failed(2, f'--image_path {args.image_path}: no photo there ({", ".join(_SUFFIXES)}).')
    if args.concurrency < 1:
        return failed(2, f'--concurrency {args.concurrency}: give a whole number of at least 1.')
    query = f'output={args.output}' + '&polygons=true' * args.polygons
    refused = 0
    try:
        with ThreadPoolExecutor(args.concurrency) as pool:
            answers = pool.map(lambda photo: segment(args.url, photo[0], query, args.timeout), photos)
            for (path, name), (status, body) in zip(photos, answers):
                if status == 200:
                    save(os.path.join(args.save_dir, name + ('.json' if args.output == 'json' else '.png')), body)
                else:
                    refused += 1
                    print(f'{path}: {json.loads(body)["error"]}', file=sys.stderr)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return failed(1, f'{args.url}: {getattr(error, "reason", None) or error}')
    print(f'{len(photos) - refused} of {len(photos)} photos segmented: {args.save_dir}')
    return 3 if refused else 0


def segment(url, path, query='', timeout=60):
    """Sends one photo; tries again where the service says it is busy.

    Args:
        url (str): the service, http://host:port.
        path (str): the photo.
        query (str): output=classes|overlay|json, polygons=true, mask=true, joined by &.
        timeout (float): seconds to wait for an answer.

    Returns:
        tuple: the HTTP status, and the body (bytes).

    Raises:
        OSError: no answer.
    """
    with open(path, 'rb') as file:
        body = file.read()
    request = urllib.request.Request(f'{url.rstrip("/")}/segment?{query}', body,
                                     {'Content-Type': 'application/octet-stream'})
    tries = 0
    while True:
        tries += 1
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read()
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
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    with open(path + '.tmp', 'wb') as file:
        file.write(body)
    os.replace(path + '.tmp', path)


def failed(code, message):
    print(f'{parser.prog}: {message}', file=sys.stderr)
    return code


if __name__ == '__main__':
    run(main, parser)
