"""What can be measured of clips. Videos are (B,channels,T,H,W) in [-1,1]; "grey" means one channel.

Most functions give a value for each clip, (B,). The last section compares two sets of clips. No
number here has a meaning of its own: read it beside the same number of real clips.
"""
from functools import wraps

import torch
import torch.nn.functional as nnf

from data.evaluation.intervals import NOTHING, Z


def exact(function):
    """Runs a function in float32 on the CPU, even where the model runs in bfloat16."""
    @wraps(function)
    def in_float32(*args, **kwargs):
        with torch.autocast("cpu", enabled=False):                  # a new one each time: calls nest
            return function(*args, **kwargs)
    return in_float32


# --- pixels -------------------------------------------------------------------------------------------

def squared_error(a, b):
    """Mean squared difference of two videos for each clip, pixel range 1: (B,)."""
    return ((a - b) / 2).square().mean((1, 2, 3, 4))


def psnr(squared_errors):
    """Decibels of squared errors (B,), pooled: -10 log10 of their mean."""
    return -10 * squared_errors.mean().log10()


def change(video):
    """Mean absolute difference between neighbouring frames, pixel range 1: (B,)."""
    return video.diff(dim=2).abs().mean((1, 2, 3, 4)) / 2


@exact
def ssim(a, b):
    """Structural similarity of two videos, averaged over frames: (B,), 1 is equal (Wang et al.
    2004, eq. 13). Pixel range 1, Gaussian window of standard deviation 1.5 over 11 pixels (or a
    smaller canvas)."""
    size = min(11, *a.shape[3:])
    taps = torch.exp(-(torch.arange(size) - (size - 1) / 2).square() / (2 * 1.5 ** 2))
    taps = taps / taps.sum()

    def frames(video):
        return (video.transpose(1, 2).flatten(0, 2)[:, None].float() + 1) / 2   # (B·T·channels,1,H,W)

    def local(x):                                                   # a weighted mean around each pixel
        return nnf.conv2d(nnf.conv2d(x, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))

    x, y = frames(a), frames(b)
    mean_x, mean_y = local(x), local(y)
    variances = local(x * x) - mean_x ** 2 + local(y * y) - mean_y ** 2
    covariance = local(x * y) - mean_x * mean_y
    index = (2 * mean_x * mean_y + 0.01 ** 2) * (2 * covariance + 0.03 ** 2)
    index = index / ((mean_x ** 2 + mean_y ** 2 + 0.01 ** 2) * (variances + 0.03 ** 2))
    return index.mean((1, 2, 3)).view(len(a), -1).mean(1)


# --- motion of the ink --------------------------------------------------------------------------------

def ink_of(video):
    """Brightness of grey clips (B,1,T,H,W): (B,T,H,W) in [0,1]. Nearly black counts as black."""
    ink = (video[:, 0].float().cpu() + 1) / 2
    return ink * (ink > 0.1)


def centre_of(ink):
    """Centre of the ink (B,T,H,W), y and x in pixels: (B,T,2)."""
    H, W = ink.shape[2:]
    y = (ink.sum(3) * torch.arange(H)).sum(2)
    x = (ink.sum(2) * torch.arange(W)).sum(2)
    return torch.stack([y, x], dim=-1) / ink.sum((2, 3)).clamp(min=1e-6)[..., None]


def motion(video):
    """How the centre of the ink of grey clips moves: {speed, wobble, turns, flicker}, (B,) each. Of
    two digits it is the centre of both.

    speed: pixels a frame.
    wobble: how much the speed along an axis, averaged over two frames, changes from frame to frame,
        in pixels a frame. Bounces add to it; even a straight path has some, in whole pixels.
    turns: changes of direction a clip.
    flicker: standard deviation of the amount of ink over a clip, relative to its mean."""
    ink = ink_of(video)
    mass = ink.sum((2, 3)).clamp(min=1e-6)
    step = centre_of(ink).diff(dim=1)                               # (B,T-1,2)
    smooth = (step[:, 1:] + step[:, :-1]) / 2                       # whole pixels even out
    wobble = smooth.abs().diff(dim=1).abs().mean((1, 2))
    before, after = smooth[:, :-2], smooth[:, 2:]
    turned = (before * after < 0) & (before.abs() > 0.3) & (after.abs() > 0.3)
    begins = turned.clone()                                         # several frames see the same turn:
    begins[:, 1:] &= ~turned[:, :-1]                                # count the first of them
    return {"speed": step.norm(dim=-1).mean(1), "wobble": wobble, "turns": begins.float().sum((1, 2)),
            "flicker": mass.std(1) / mass.mean(1)}


# --- handwriting: clips of one digit ------------------------------------------------------------------

def handwriting(video, size):
    """The digit of each clip of one digit: its frames, each shifted so that the ink's centre is in
    the middle, averaged: (B,size,size) in [0,1]."""
    ink = ink_of(video)
    B, T, H, W = ink.shape
    centre = centre_of(ink).flatten(0, 1)                           # (B·T,2)
    offset = torch.arange(size) - (size - 1) / 2
    y, x = centre[:, :1] + offset, centre[:, 1:] + offset           # (B·T,size): where to look
    y, x = (2 * y + 1) / H - 1, (2 * x + 1) / W - 1                 # in the unit of grid_sample
    where = torch.stack([x[:, None].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)
    digits = nnf.grid_sample(ink.flatten(0, 1)[:, None], where, align_corners=False)
    return digits.view(B, T, size, size).mean(1)


def distance(a, b):
    """Root mean squared difference of handwriting a and b, (B,size,size) each: (B,)."""
    return (a - b).square().mean((1, 2)).sqrt()


def distances(a, b):
    """The same between each of (n,size,size) and each of (m,size,size): (n,m)."""
    exact_mode = "donot_use_mm_for_euclid_dist"                     # else equal digits are not at 0
    return torch.cdist(a.flatten(1), b.flatten(1), compute_mode=exact_mode) / a.shape[-1]


def nearest(digits, training):
    """For each of digits (B,size,size): how far the nearest of training (n,size,size) is, and which."""
    return distances(digits, training).min(dim=1)


def variety(far, caption):
    """Mean distance of the handwriting of two clips that share a caption; nan if no two do. far
    (n,n): from `distances`; caption (n,words). A model that draws every 3 alike has no variety."""
    same = (caption[:, None] == caption).all(-1).fill_diagonal_(False)
    return far[same].mean()


# --- permanence ---------------------------------------------------------------------------------------

def separation(ink, size):
    """How many pixels two digits of `size` pixels stand apart in each frame of ink (B,T,H,W): (B,T).

    From the spread of their ink about its centre, which for two points at distance d is d^2 / 4,
    plus that of a digit itself: on average 46 square pixels at 28 pixels. It errs by a few pixels,
    and cannot say which digit is which."""
    H, W = ink.shape[2:]
    centre = centre_of(ink)[..., None, None]                        # (B,T,2,1,1)
    y, x = torch.arange(H)[:, None], torch.arange(W)
    squared = (y - centre[:, :, 0]) ** 2 + (x - centre[:, :, 1]) ** 2           # (B,T,H,W)
    spread = (squared * ink).sum((2, 3)) / ink.sum((2, 3)).clamp(min=1e-6)
    return 2 * (spread - 46 * (size / 28) ** 2).clamp(min=0).sqrt()


def overlaps(ink, size):
    """Whether two digits stand apart in the first and in the last four frames (by 0.6 of their
    size), and meet in some frame between (0.4 of it): (B,) bool."""
    gap = separation(ink, size) / size
    return (gap[:, :4].mean(1) > 0.6) & (gap[:, -4:].mean(1) > 0.6) & (gap.amin(1) < 0.4)


def permanence(readings, ink, size):
    """1 if the referee reads the same digits, right or wrong, at the end of a clip as at its start.

    readings (B,T,n): digits read in each frame; ink (B,T,H,W). Compares the most frequent reading
    of the first four frames with that of the last four: (B,). Clips of two digits in which they do
    not overlap do not count: nan."""
    code = (readings * 10 ** torch.arange(readings.shape[-1])).sum(-1)  # (B,T): a set as a number
    same = (code[:, :4].mode(dim=1).values == code[:, -4:].mode(dim=1).values).float()
    if readings.shape[-1] == 1:
        return same
    return same.masked_fill(~overlaps(ink, size), float("nan"))


# --- distances between two sets of clips --------------------------------------------------------------

def frechet(a, b):
    """Squared Frechet distance of Gaussians with the moments of two sets of features (n,d), (m,d).

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) (Heusel et al. 2017, eq. 6). It is too large, by
    about c / n with n clips (Chong & Forsyth 2020): compare only what was measured with equally
    many clips."""
    A, B = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(A)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T       # A^(1/2); A B has the
    cross = torch.linalg.eigvalsh(root @ B @ root).clamp(min=0).sqrt().sum()    # same eigenvalues
    return (a.mean(0) - b.mean(0)).square().sum() + A.trace() + B.trace() - 2 * cross


def kernel_distance(reference, features):
    """1000 x the squared maximum mean discrepancy of features (n,d) from reference features (m,d):
    (value, low, high).

    It compares averages over pairs of different clips (Gretton et al. 2012, eq. 3; Binkowski et al.
    2018), so unlike the Frechet distance it is right on average for any n: clips of the same kind
    have 0, half of them less. Likeness of two clips is a Gaussian of their distance (as in
    Jayasumana et al. 2024), as wide as the median distance of reference clips. The interval is for
    the given reference."""
    n, m = len(features), len(reference)
    if n < 4:
        return NOTHING
    width = torch.pdist(reference).median()

    def likeness(x, y):
        return torch.exp(-torch.cdist(x, y).square() / (2 * width ** 2))

    inside = likeness(reference, reference).fill_diagonal_(0).sum() / (m * (m - 1))
    across = likeness(features, reference).mean(1)                  # (n,)
    h = likeness(features, features) - across[:, None] - across + inside
    h = 1000 * h.fill_diagonal_(0)                                  # (n,n): a number for each pair
    value = h.sum() / (n * (n - 1))
    # A pair's number is the value + a part of each clip + a rest (Hoeffding 1948). Both vary: in
    # the mean over pairs a clip's part comes 2 / n times, a pair's rest 2 / (n (n - 1)) times.
    part = (h.sum(1) - (n - 1) * value) / (n - 2)                   # (n,)
    rest = (h - value - part[:, None] - part).fill_diagonal_(0)
    rest_variance = rest.square().sum() / (n * (n - 3))
    part_variance = (part.var() - rest_variance / (n - 2)).clamp(min=0)
    half = Z * (4 * part_variance / n + 2 * rest_variance / (n * (n - 1))).sqrt()
    return value.item(), (value - half).item(), (value + half).item()
