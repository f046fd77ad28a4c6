"""The one writer of files: each appears under its name whole or not at all, and what a run needs again outlasts a power
cut. And how files of strangers are opened. What goes wrong is an OSError, which callers name."""

import contextlib
import errno
import hashlib
import os
import stat

from filelock import FileLock, Timeout


@contextlib.contextmanager
def replacing(path, durable=True):
    """A place to write a file to, which becomes `path` when the block ends without an error; folders are made.

    Args:
        path (str): the file.
        durable (bool): wait until the disk has it, before it gets its name and after. False for the many files of a
            prediction, which can be made again.

    Yields:
        str: where to write; beside `path`, with its suffix, hidden.
    """
    folder, name = os.path.split(path)
    os.makedirs(folder or '.', exist_ok=True)
    part = os.path.join(folder, f'.tmp-{name}')
    try:
        yield part
        if durable:
            sync(part)
        os.replace(part, path)
        if durable:
            sync(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise


def write(path, content, durable=True):
    """Writes a file.

    Args:
        path (str): the file.
        content (bytes|str): text is written in UTF-8 with the line ends it has.
        durable (bool): see :func:`replacing`.
    """
    with replacing(path, durable) as part, open(part, 'wb') as file:
        file.write(content.encode() if isinstance(content, str) else content)


def taken(folder):
    """Keeps other processes out of a folder until this one ends, however it does; a folder may be taken again here.

    Args:
        folder (str): which must exist; gets a file `lock`, which means nothing once nobody holds it.

    Returns:
        filelock.BaseFileLock: to be kept as long as the folder is; None if another process has it.
    """
    path = os.path.join(folder, 'lock')
    if os.path.islink(path):  # opening it would empty the file it leads to
        raise OSError(errno.ELOOP, 'is a link', path)
    lock = FileLock(path, timeout=0, is_singleton=True)
    try:
        return lock.acquire().lock
    except Timeout:
        return None


def move_in(folder, target, names):
    """Moves files into another folder, where the last of them says what the others are: one of its name is gone before
    the first arrives, so that a power cut leaves no description of other files.

    Args:
        folder, target (str): of one file system.
        names (Sequence[str]): of the files.
    """
    for name in names:
        sync(os.path.join(folder, name))
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(target, names[-1]))
        sync(target)
    for name in names:
        if name == names[-1]:
            sync(target)
        os.replace(os.path.join(folder, name), os.path.join(target, name))
    sync(target)


def sync(path):
    """Waits until the disk has a file, or the names in a folder ('' is the working folder)."""
    if os.path.isdir(path or '.') and os.name == 'nt':  # there folders cannot be opened
        return
    handle = os.open(path or '.', os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def opened(path, mode='r', **options):
    """Opens a file to be read, as `open` does. Pipes and devices, which may have no end, are refused, not waited for.

    Args:
        path (str): the file.
        mode (str, optional): 'r' or 'rb'. Default: 'r'.
        **options: `encoding` and others of `open`.

    Returns:
        the open file.

    Raises:
        OSError: it cannot be opened, or is no file.
    """
    def without_waiting(name, flags):
        return os.open(name, flags | getattr(os, 'O_NONBLOCK', 0))

    if '\0' in os.fspath(path):
        raise OSError(errno.EINVAL, 'no file can have that name', repr(path))
    file = open(path, mode, opener=without_waiting, **options)  # noqa: SIM115  the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, 'is no file', path)
    return file


def sha256(path):
    """str: digest of a file's content, 64 hex digits."""
    digest = hashlib.sha256()
    with opened(path, 'rb') as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
