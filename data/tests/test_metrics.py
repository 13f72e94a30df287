"""Metrics against closed forms and clips made for the purpose."""
import math

import torch

from data.clips.moving_mnist import MovingMNIST, load_digits
from data.evaluation import intervals, metrics
from data.tests.conftest import near


def test_ssim_and_psnr_against_closed_forms():
    """Flat pictures have no structure: SSIM is its luminance term. A constant error e: PSNR -20 log10 e."""
    a, b = torch.full((2, 1, 3, 16, 16), 0.2), torch.full((2, 1, 3, 16, 16), -0.4)
    x, y = 0.6, 0.3                                                 # the same in [0,1]
    luminance = (2 * x * y + 1e-4) / (x * x + y * y + 1e-4)
    near(metrics.ssim(a, b)[0].item(), luminance, 1e-5,
         "is a constant of SSIM wrong, or the pixel range not 1?")
    near(metrics.ssim(a, a)[0].item(), 1, 1e-5, "equal videos have SSIM 1; does the window sum to 1?")
    near(metrics.psnr(metrics.squared_error(a, b)).item(), -20 * math.log10(0.3), 1e-4,
         "does the pixel range of [-1,1] count as 2 instead of 1?")
    noisy = torch.rand(2, 1, 3, 16, 16)
    nested = metrics.exact(metrics.ssim)
    with torch.autocast("cpu", torch.bfloat16):                     # whatever the model runs in
        inside = nested(a, noisy)
        still_on = torch.is_autocast_enabled("cpu")
    assert torch.equal(inside, metrics.ssim(a, noisy)), (
        "expected the same SSIM under autocast: is it in float32?")
    assert still_on, "expected autocast to go on after `exact`, but it is off: do calls share one context?"


def test_frechet_distance_between_known_gaussians():
    """Independent axes with standard deviations s and means m: the sum of (m - m')^2 + (s - s')^2."""
    noise = torch.randn(20000, 4, dtype=torch.float64)
    scale, shift = torch.tensor([1.0, 2.0, 0.5, 3.0]), torch.tensor([0.0, 1.0, -2.0, 0.5])
    expected = ((scale - 1) ** 2 + shift ** 2).sum().item()
    other = torch.randn(20000, 4, dtype=torch.float64) * scale + shift
    near(metrics.frechet(noise, other).item(), expected, 0.03 * expected,
         "is the square root that of A^(1/2) B A^(1/2)?")
    near(metrics.frechet(noise, noise).item(), 0, 1e-6, "the distance of a set from itself is 0")


def test_kernel_distance_is_unbiased_and_knows_its_error():
    """Many sets of the same kind as the reference: 0 on average with 16 clips as with 64, and the spread
    over sets is what the interval says. Sets of another kind are above 0."""
    reference = torch.randn(300, 6, dtype=torch.float64)
    for n in (16, 64):
        cells = [metrics.kernel_distance(reference, torch.randn(n, 6).double()) for _ in range(100)]
        cells = torch.tensor(cells)
        value, error = cells[:, 0], (cells[:, 2] - cells[:, 1]) / (2 * intervals.Z)
        near(value.mean().item(), 0, 4 * value.std().item() / 100 ** 0.5 + 1,
             f"biased with {n} clips: does a clip meet itself in a mean over pairs?")
        near(error.mean().item() / value.std().item(), 1.2, 0.3,
             "error said / spread seen, a little above 1: is a variance component of the interval wrong?")
    for n, low in ((16, 10), (64, 10)):                             # moved by a deviation on an axis
        moved = torch.randn(n, 6).double() + torch.tensor([1.0, 0, 0, 0, 0, 0])
        value, bottom, _ = metrics.kernel_distance(reference, moved)
        assert value > low, f"expected clearly more than 0 for features that are moved, got {value:.3g}"
    again = [metrics.kernel_distance(reference, torch.randn(64, 6).double() + 0.5) for _ in range(40)]
    again = torch.tensor(again)
    ratio = ((again[:, 2] - again[:, 1]) / (2 * intervals.Z)).mean() / again[:, 0].std()
    near(ratio.item(), 1, 0.3, "far from 0 the parts of single clips rule: is their factor 4 / n?")


def test_handwriting_does_not_depend_on_the_position():
    """The same digit elsewhere is the same hand; another is not; the nearest training digit is itself."""
    digits = MovingMNIST(*load_digits("train"), (40, 40), 20, 1, 1).images
    chosen = digits[[5, 900, 2500]]

    def at(y, x):
        return torch.nn.functional.pad(chosen, (x, 20 - x, y, 20 - y))[:, None, None] * 2 - 1

    here, there = metrics.handwriting(at(3, 4), 24), metrics.handwriting(at(12, 9), 24)
    near(metrics.distance(here, there).max().item(), 0, 1e-3,
         "is the digit moved to the middle of its frame?")
    apart = metrics.distance(here, there.roll(1, 0)).min().item()
    assert apart > 0.1, f"expected different digits to be 0.1 or more apart, got {apart:.3f}"
    far, which = metrics.nearest(here, metrics.handwriting(digits[:, None, None] * 2 - 1, 24))
    assert which.tolist() == [5, 900, 2500], (
        f"expected each digit itself to be the nearest, got {which.tolist()}")


def test_variety_is_that_of_hands_not_of_classes():
    """Clips that are all alike have none; the more digits of a class there are, the more."""
    images, labels = load_digits("train")
    hands = metrics.handwriting(MovingMNIST(images, labels, (20, 20), 20).images[:, None, None] * 2 - 1, 24)
    labels = torch.from_numpy(labels).long()

    def of(digits_of_a_class):
        which = torch.cat([torch.nonzero(labels == c)[:digits_of_a_class, 0].repeat(12 // digits_of_a_class)
                           for c in range(10)])
        far = metrics.distances(hands[which], hands[which])
        return metrics.variety(far, labels[which][:, None] + 1).item()

    one, two, four, twelve = of(1), of(2), of(4), of(12)
    near(one, 0, 1e-6, "ten classes, one hand for each, have no variety: is it measured between classes?")
    assert one < two < four < twelve, f"expected more with 1, 2, 4, 12 hands, got {one, two, four, twelve}"
    same, other = torch.zeros(2, 5, 5), torch.full((1, 5, 5), 0.3)
    far = metrics.distances(torch.cat([same, other]), torch.cat([same, other]))
    near(metrics.variety(far, torch.tensor([[1], [1], [1]])).item(), 0.2, 1e-6,
         "pairs at 0, 0.3 and 0.3: is a clip its own pair?")
    assert metrics.variety(far, torch.tensor([[1], [2], [3]])).isnan(), (
        "no two captions are equal: expected nan")


def test_two_digits_count_as_permanent_only_across_an_overlap():
    """Digits that meet and part count, those that stay apart do not."""
    moving = MovingMNIST(*load_digits("heldout"), (64, 64), 28, 2, 20)
    path = torch.zeros(3, 20, 2, 2, dtype=torch.long)               # clip, frame, digit, (y, x)
    path[:, :, 0], path[2, :, 1] = 18, 36
    path[:2, :, 1] = (36 - 2 * torch.arange(20)).clamp(min=0)[:, None]
    ink = moving.draw(moving.images[torch.tensor([[3, 400]] * 3)], path)[:, 0]
    true = (path[:, :, 0] - path[:, :, 1]).float().norm(dim=-1)
    error = (metrics.separation(ink, 28) - true).abs().mean().item()
    assert error < 4, f"expected the separation within 4 pixels, got {error:.1f} on average"
    readings = torch.tensor([[1, 2]] * 10 + [[1, 7]] * 10).expand(3, -1, -1).clone()
    readings[1, 10:] = readings[1, 0]
    got = metrics.permanence(readings, ink, 28).nan_to_num(-1).tolist()
    assert got == [0, 1, -1], f"expected lost, kept, does not count (0, 1, -1), got {got}"
    assert metrics.overlaps(ink, 28).tolist() == [True, True, False], "only the first two clips cross"
