"""What can be measured of clips of moving MNIST. Videos are (B,1,T,H,W) in [-1,1]; most functions give a value a clip.

Nothing here has a meaning of its own: read every number beside the same number for real clips (score.py prints both).
"""
import torch
import torch.nn.functional as nnf

EXACT = torch.autocast("cpu", enabled=False)  # in float32, even where the model is run in bfloat16


def squared_error(a, b):
    """Mean squared difference of two videos for each clip, pixel range 1: (B,)."""
    return ((a - b) / 2).square().mean((1, 2, 3, 4))


def psnr(squared_errors):
    """Decibels of squared errors (B,), pooled: -10 log10 of their mean."""
    return -10 * squared_errors.mean().log10()


def change(video):
    """Mean absolute difference between neighbouring frames, pixel range 1: (B,)."""
    return video.diff(dim=2).abs().mean((1, 2, 3, 4)) / 2


@EXACT
def ssim(a, b):
    """Structural similarity of two videos, averaged over frames: (B,), 1 is equal (Wang et al. 2004, eq. 13).

    Pixel range 1, Gaussian window of deviation 1.5 over 11 pixels (or the canvas, if that is smaller).
    """
    size = min(11, *a.shape[3:])
    taps = torch.exp(-(torch.arange(size) - (size - 1) / 2).square() / (2 * 1.5 ** 2))
    taps = taps / taps.sum()
    frames = lambda video: (video.transpose(1, 2).flatten(0, 2)[:, None].float() + 1) / 2   # (B·T·c,1,H,W)
    local = lambda x: nnf.conv2d(nnf.conv2d(x, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))
    x, y = frames(a), frames(b)
    mx, my = local(x), local(y)
    var_x, var_y, cov = local(x * x) - mx ** 2, local(y * y) - my ** 2, local(x * y) - mx * my
    index = (2 * mx * my + 0.01 ** 2) * (2 * cov + 0.03 ** 2)
    index = index / ((mx ** 2 + my ** 2 + 0.01 ** 2) * (var_x + var_y + 0.03 ** 2))
    return index.mean((1, 2, 3)).view(len(a), -1).mean(1)


def ink_of(video):
    """How bright each pixel is, (B,T,H,W) in [0,1]; what is nearly black counts as black."""
    ink = (video[:, 0].float().cpu() + 1) / 2
    return ink * (ink > 0.1)


def centre_of(ink):
    """Centre of the ink, y and x in pixels: (B,T,2)."""
    H, W = ink.shape[2:]
    y, x = (ink.sum(3) * torch.arange(H)).sum(2), (ink.sum(2) * torch.arange(W)).sum(2)
    return torch.stack([y, x], dim=-1) / ink.sum((2, 3)).clamp(min=1e-6)[..., None]


def motion(video):
    """Of the centre of all ink, a digit's own if there is one: {speed, wobble, turns, flicker}, (B,) each.

    speed: pixels a frame. wobble: how much the speed along an axis, averaged over two frames, changes from frame to
    frame; bounces add to it, and even a straight path has some, because positions are whole pixels. turns: changes of
    direction a clip. flicker: deviation of the amount of ink over a clip, relative to its mean.
    """
    ink = ink_of(video)
    mass = ink.sum((2, 3)).clamp(min=1e-6)
    step = centre_of(ink).diff(dim=1)                                          # (B,T-1,2)
    smooth = (step[:, 1:] + step[:, :-1]) / 2                                  # over two frames: whole pixels even out
    wobble = smooth.abs().diff(dim=1).abs().mean((1, 2))
    turned = (smooth[:, 2:] * smooth[:, :-2] < 0) & (smooth[:, 2:].abs() > 0.3) & (smooth[:, :-2].abs() > 0.3)
    turns = (turned[:, 1:] & ~turned[:, :-1]).float().sum((1, 2)) + turned[:, 0].float().sum(1)
    return dict(speed=step.norm(dim=-1).mean(1), wobble=wobble, turns=turns, flicker=mass.std(1) / mass.mean(1))


def handwriting(video, size):
    """The digit of each single-digit clip: its frames, each shifted so that the ink's centre is in the middle,
    averaged: (B,size,size) in [0,1]."""
    ink = ink_of(video)
    B, T, H, W = ink.shape
    shift = centre_of(ink).flatten(0, 1)                                       # (B·T,2)
    offset = torch.arange(size) - (size - 1) / 2
    y, x = shift[:, :1] + offset, shift[:, 1:] + offset                        # (B·T,size): where to look
    where = torch.stack([(x * 2 + 1)[:, None].expand(-1, size, -1) / W - 1,
                         (y * 2 + 1)[:, :, None].expand(-1, -1, size) / H - 1], dim=-1)
    digits = nnf.grid_sample(ink.flatten(0, 1)[:, None], where, align_corners=False)
    return digits.view(B, T, size, size).mean(1)


def distance(a, b):
    """Root mean squared difference of the handwriting in a and b, (B,size,size) each: (B,)."""
    return (a - b).square().mean((1, 2)).sqrt()


def nearest(digits, training):
    """For each of digits (B,size,size), the distance to the nearest of training (n,size,size) and which it is."""
    far = torch.cdist(digits.flatten(1), training.flatten(1)) / digits.shape[-1]
    return far.min(dim=1)


def separation(ink, size):
    """How far apart two digits of `size` pixels stand in each frame, in pixels: (B,T).

    From the spread of their ink about its centre, which for two points at distance d is d^2 / 4, plus that of a digit
    itself: on average 46 square pixels at 28 pixels. Off by one pixel on average, and blind to who is who.
    """
    H, W = ink.shape[2:]
    centre = centre_of(ink)[..., None, None]                                   # (B,T,2,1,1)
    far = (torch.arange(H)[:, None] - centre[:, :, 0]) ** 2 + (torch.arange(W) - centre[:, :, 1]) ** 2  # (B,T,H,W)
    spread = (far * ink).sum((2, 3)) / ink.sum((2, 3)).clamp(min=1e-6)
    return 2 * (spread - 46 * (size / 28) ** 2).clamp(min=0).sqrt()


def permanence(readings, ink, size):
    """1 if the referee reads the same digits at the end of a clip as at the start, right or wrong, 0 if not: (B,).

    readings (B,T,n) digits read in each frame, ink (B,T,H,W). The first four frames against the last four, by their
    most frequent reading. With two digits a clip counts only if they overlap in between: apart at both ends by 0.6 of
    their size, in some frame between nearer than 0.4 of it. Where it does not count: nan.
    """
    code = (readings * 10 ** torch.arange(readings.shape[-1])).sum(-1)         # (B,T), one number a set of digits
    same = (code[:, :4].mode(dim=1).values == code[:, -4:].mode(dim=1).values).float()
    if readings.shape[-1] == 1:
        return same
    gap = separation(ink, size) / size
    counts = (gap[:, :4].mean(1) > 0.6) & (gap[:, -4:].mean(1) > 0.6) & (gap.amin(1) < 0.4)
    return same.masked_fill(~counts, float("nan"))


def frechet(a, b):
    """Squared Frechet distance between the Gaussians with the moments of two sets of features (n,d), (m,d): a number.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) (Heusel et al. 2017, eq. 6). Not 0 for two sets of real clips, and
    the larger the fewer they are: compare only what was measured with the same number of clips.
    """
    A, B = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(A)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T                  # A^(1/2); tr (A B)^(1/2) is that of
    cross = torch.linalg.eigvalsh(root @ B @ root).clamp(min=0).sqrt().sum()   # (A^(1/2) B A^(1/2))^(1/2)
    return (a.mean(0) - b.mean(0)).square().sum() + A.trace() + B.trace() - 2 * cross


def interval(values, statistic=None, draws=500):
    """The mean of values (n,), or a `statistic` of values (n,...), and its 95 % bootstrap interval: (value, low, high).

    nan values do not count. A statistic's interval is shifted so that the draws' mean is the value: sets redrawn with
    repetition have a larger Frechet distance. What bias the value itself has at this n, it keeps.
    """
    if statistic is None:
        values = values[~values.isnan()]
    if len(values) < 2:
        return (float("nan"),) * 3
    pick = torch.randint(len(values), (draws, len(values)), generator=torch.Generator().manual_seed(0))
    redrawn = torch.stack([statistic(values[i]) if statistic else values[i].mean() for i in pick]).double()
    value = (statistic(values) if statistic else values.mean()).double()
    low, high = redrawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    shift = value - redrawn.mean() if statistic else 0
    return value.item(), (low + shift).item(), (high + shift).item()
