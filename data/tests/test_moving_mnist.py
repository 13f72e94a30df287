"""Moving MNIST: what a seed means, the files of the full MNIST, and the command that writes a clip."""
import gzip
import sys

import numpy as np
import pytest
import torch

from data.clips import files, moving_mnist
from data.clips.moving_mnist import MovingMNIST, load_digits
from data.clips.places import digits_of, keep_places, with_places
from sora import PLACE, InputError


@pytest.mark.parametrize("rule", ["official", "stochastic"])
def test_a_seed_means_the_same_clips(rule):
    data = MovingMNIST(*load_digits("train"), rule=rule)
    one, two, other = (data.clips(3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]), (
        "the same seed gave two different batches: some random number does not come from the generator")
    assert not torch.equal(one[0], other[0]), "two seeds gave the same clips: the generator is not used"
    assert one[0].shape == (3, 1, 20, 64, 64), f"expected (3,1,20,64,64), got {tuple(one[0].shape)}"
    low, high = one[0].min().item(), one[0].max().item()
    assert low == -1 and 0.5 < high <= 1, f"expected pixels in [-1,1], black being -1, got {low} to {high}"
    assert one[0].diff(dim=2).abs().amax(dim=(1, 2, 3, 4)).min() > 0, "a clip stands still"


def write_idx(path, array, zipped=False):
    """Writes an array of uint8 as the files of MNIST are."""
    raw = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()
    if zipped:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(raw))
    else:
        path.write_bytes(raw)


@pytest.mark.parametrize("zipped", [False, True])
def test_full_mnist_may_be_zipped_and_has_two_splits(tmp_path, zipped):
    rng, written = np.random.RandomState(0), {}
    for split, n in (("train", 30), ("t10k", 10)):
        images, labels = rng.randint(0, 256, (n, 28, 28), np.uint8), rng.randint(0, 10, n).astype(np.uint8)
        written[split] = images, labels
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            write_idx(tmp_path / f"{split}-{kind}-ubyte", array, zipped)
    for ours, theirs in (("train", "train"), ("heldout", "t10k")):
        read = load_digits(ours, tmp_path)
        assert all(map(np.array_equal, read, written[theirs])), (
            f"{ours}: not what was written as {theirs}; are the splits, or the axes, mixed up?")
    path = next(tmp_path.glob("train-images*"))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="train-images"):           # a message that names the file
        load_digits("train", tmp_path)


@pytest.mark.parametrize("labels,words", [([3, 26], "labels up to 26"), ([], "0 train images")])
def test_other_letters_than_digits_are_refused(tmp_path, labels, words):
    """EMNIST has labels up to 26, or 61."""
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((len(labels), 28, 28), np.uint8))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array(labels, np.uint8))
    with pytest.raises(InputError, match=f"{words}.*expected some, of digits, which have labels 0 to 9"):
        load_digits("train", tmp_path)


@pytest.mark.parametrize("rule", ["official", "stochastic"])
def test_captions_say_where_digits_are(rule):
    """In each latent frame the mean of the middles of its four frames; a still digit fills its own square."""
    digit = np.full((1, 28, 28), 255, np.uint8)                                # all ink
    data = MovingMNIST(digit, np.array([7]), (64, 48), 20, 1, 12, rule, placed=True)
    plain = MovingMNIST(digit, np.array([7]), (64, 48), 20, 1, 12, rule)
    video, caption = data.clips(6, torch.Generator().manual_seed(0))
    same, words = plain.clips(6, torch.Generator().manual_seed(0))
    assert torch.equal(video, same), "places must not change the clips"
    assert caption.shape == (6, 3, 1), f"expected a caption for each latent frame, got {tuple(caption.shape)}"
    assert torch.equal(digits_of(caption, 1), words) and (words == 8).all(), "digit 7 is word 8, with its place or not"
    ink = (video[:, 0] + 1) / 2                                                # (n,T,H,W)
    y = (ink.sum(3) * (torch.arange(64) + 0.5)).sum(2) / ink.sum((2, 3))       # the middle of the square
    x = (ink.sum(2) * (torch.arange(48) + 0.5)).sum(2) / ink.sum((2, 3))
    for got, middle in ((caption[..., 0] // PLACE - 1) // 1000, y), ((caption[..., 0] // PLACE - 1) % 1000, x):
        off = (got - middle.unflatten(1, (3, 4)).mean(2)).abs().max()
        assert off <= 1, f"a place is {off:.1f} pixels away from the middle of its digit: expected up to 1"


def test_places_are_kept_in_the_first_latent_frames():
    caption = with_places(torch.full((4000, 5, 2), 3), torch.full((4000, 5, 2, 2), 20.0))
    kept = keep_places(caption, 0.75, torch.Generator().manual_seed(0))
    has = kept != 3
    assert torch.equal(kept[has], caption[has]) and (has[..., 0] == has[..., 1]).all(), "words of a clip go together"
    assert (has[:, 1:] <= has[:, :-1]).all(), "places are kept from the first latent frame on, without a gap"
    shares = torch.bincount(has[..., 0].sum(1), minlength=6) / 4000
    expected = torch.tensor([0.25, 0.15, 0.15, 0.15, 0.15, 0.15])
    assert (shares - expected).abs().max() < 0.03, (
        f"clips with places in 0 to 5 latent frames: expected {expected.tolist()}, got {shares.tolist()}")


def test_a_real_clip_can_be_written_to_a_file(tmp_path, monkeypatch, capsys):
    """The command of data/clips/moving_mnist.py: held-out digits, unless asked otherwise."""
    monkeypatch.setattr(sys, "argv", ["moving_mnist.py", str(tmp_path / "x.npy"), "--seed", "3", "--n", "2"])
    moving_mnist.main()
    data = MovingMNIST(*load_digits("heldout"), (32, 32), 20, 1, 16)
    video, caption = data.clips(2, torch.Generator().manual_seed(3))
    expected = files.to_pixels(files.grid(video))
    assert np.array_equal(np.load(tmp_path / "x.npy"), expected), "not the clips of held-out digits of seed 3"
    said, names = capsys.readouterr().out, ", ".join(str(i - 1) for i in caption[:, 0].tolist())
    assert said.strip().endswith(f": {names}"), f"expected the captions {names}, got {said!r}"
    monkeypatch.setattr(sys, "argv", ["moving_mnist.py", str(tmp_path / "x.npy"), "--digit-size", "40"])
    with pytest.raises(InputError, match="digit size 40"):
        moving_mnist.main()
