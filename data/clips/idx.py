"""The format of the files of MNIST (LeCun): idx."""
import gzip
import zlib

import numpy as np

from sora import InputError

FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
         "heldout": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}


def read_idx(folder, name):
    """An idx file: magic number (type 8 = uint8, number of axes), the axes' lengths, the bytes."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise InputError(f"{folder / name}: no such file, nor .gz; expected a folder of the four MNIST idx files")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        axes = raw[3] if raw[:3] == b"\0\0\x08" else 0
        shape = np.frombuffer(raw, ">i4", axes, 4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape if axes else (-1, 0))
    except (ValueError, EOFError, OSError, IndexError, zlib.error) as error:
        raise InputError(f"{path}: not a complete idx file ({error}); fetch it again") from None
