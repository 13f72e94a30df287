"""How sure a number is: 95 % intervals over clips. A cell of a table is (value, low, high).

Clips are the only thing that varies here. Another training run, another seed of the noise or other
reference clips change a number too, and no interval says by how much.
"""
import torch

NOTHING = (float("nan"),) * 3                                       # a cell for which no clip counts
Z = 1.96                                                            # 95 % of a normal are within +- Z


def present(values):
    """Those of values (n,) that are numbers, in float64: a clip that does not count has nan."""
    values = values.double()
    return values[~values.isnan()]


def interval(values, draws=1000):
    """The mean of values (n,), one for each clip, and its bootstrap interval (Efron 1979): n clips
    are drawn from the n with repetition, `draws` times; the interval holds the middle 95 % of the
    means."""
    values = present(values)
    n = len(values)
    if n < 2:
        return NOTHING
    picks = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(0))
    means = values[picks].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return values.mean().item(), low.item(), high.item()


def share(values):
    """The mean of values (n,) in [0,1], one for each clip, and its Wilson interval (1927, eq. 3).

    With values of 0 and 1 every clip is a trial. With values between them (the share of a clip's
    frames) a clip counts as several: as many trials as would vary as much, p (1 - p) / variance.
    Two imaginary clips, one all right and one all wrong, enter this ratio, or clips that are all
    right (variance 0) would count as infinitely many.
    """
    values = present(values)
    n = len(values)
    if n < 2:
        return NOTHING
    padded = torch.cat([values, values.new_tensor([0.0, 1.0])])
    p = padded.mean()
    trials = n * (p * (1 - p) / padded.var(correction=0)).item()
    p = values.mean().item()
    middle = (p + Z ** 2 / (2 * trials)) / (1 + Z ** 2 / trials)
    half = Z * (p * (1 - p) / trials + (Z / (2 * trials)) ** 2) ** 0.5 / (1 + Z ** 2 / trials)
    return p, max(middle - half, 0.0), min(middle + half, 1.0)


def jackknife(n, statistic, groups=100):
    """A number that many clips have together, and its interval from leaving a few of them out at a
    time (Quenouille 1956, Tukey 1958). statistic(kept): the number of the clips with the indices
    `kept`.

    A bootstrap would not do: clips that are drawn twice look like a lack of variety. Where a
    statistic is near its minimum (the Frechet distance of clips that look real) the interval is
    about one and a half times as wide as it should be, with few clips up to twice.
    """
    index, groups = torch.arange(n), min(groups, n)
    value = float(statistic(index))
    without = torch.tensor([float(statistic(index[index % groups != i])) for i in range(groups)])
    half = Z * ((groups - 1) * without.double().var(correction=0).item()) ** 0.5
    return value, value - half, value + half


def difference(a, b):
    """The mean of a - b and its bootstrap interval. a, b (n,): values under two models of the same
    clips, or of samples with the same captions and noise. What these have in common drops out: two
    models can clearly differ although their own intervals overlap. A clip that does not count for
    one of them (nan) does not count."""
    return interval(a.double() - b.double())
