"""The judge: real clips look real to it, and damaged ones the worse, the more they are damaged."""
from dataclasses import replace

import pytest
import torch

from data.evaluation import intervals, judge, metrics, referee
from data.runtime.config import ClipConfig

TWO_DIGITS = ClipConfig(height=64, width=64, frames=20, digits=2, digit_size=28)


@pytest.fixture(scope="module")
def real():
    """Features of held-out clips, 1 digit: (judge with 512 references, features (256,48))."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "REFERENCES", 512)
        judged = judge.Judge(ClipConfig())
    video, caption = judge.real_clips(ClipConfig(), "heldout", 256, seed=1)
    features = judged.project(judged.referee.clip_features(video))
    return judged, video, caption, features


@pytest.mark.parametrize("n", [64, 256])
def test_real_clips_are_at_no_kernel_distance(real, n):
    judged, _, _, features = real
    value, low, high = metrics.kernel_distance(judged.reference, features[:n])
    assert low - (high - low) / 2 < 0 < high, (
        f"expected 0 within the error for {n} real clips, got {value:.2f} [{low:.2f}, {high:.2f}]: is the "
        "mean over pairs of different clips?")
    assert metrics.frechet(judged.reference, features[:n]) > 3, "expected the Frechet distance to be biased"


def shuffled(video, strength):
    """2, 4, 8, 16 frames of each clip change places."""
    video, count = video.clone(), 2 ** strength
    for clip in video:
        which = torch.randperm(video.shape[2])[:count].sort().values
        clip[:, which] = clip[:, which[torch.randperm(count)]]
    return video


def swapped(video, strength):
    """From the middle on, one clip in four (two, three, four) goes on with the digits of another."""
    video, many, half = video.clone(), len(video) * strength // 4, video.shape[2] // 2
    video[:many, :, half:] = video.roll(1, 0)[:many, :, half:]
    return video


def jittered(video, strength):
    """Each frame is moved by up to 1, 2, 3, 4 pixels."""
    video = video.clone()
    for clip in video:
        for t in range(video.shape[2]):
            clip[:, t] = clip[:, t].roll(torch.randint(-strength, strength + 1, (2,)).tolist(), (1, 2))
    return video


def blurred(video, strength):
    """A Gaussian of standard deviation 0.5, 1, 1.5, 2 pixels."""
    taps = torch.exp(-torch.arange(-7, 8) ** 2 / (0.5 * strength ** 2))
    taps = (taps / taps.sum()).view(1, 1, 1, 15)
    frames = video.transpose(1, 2).flatten(0, 1) + 1
    for kernel in (taps, taps.transpose(2, 3)):
        padding = kernel.shape[2] // 2, kernel.shape[3] // 2
        frames = torch.nn.functional.conv2d(frames, kernel, padding=padding)
    return frames.unflatten(0, (len(video), -1)).transpose(1, 2) - 1


def frozen(video, strength):
    """The last 3, 6, 9, 12 frames stand still."""
    last = video.shape[2] - 3 * strength
    still = video[:, :, last - 1:last].expand(-1, -1, 3 * strength, -1, -1)
    return torch.cat([video[:, :, :last], still], dim=2)


@pytest.mark.parametrize("damage,metric,sign", [(shuffled, "wobble", 1), (swapped, "permanence", -1),
                                                (jittered, "wobble", 1), (blurred, "ssim", -1),
                                                (frozen, "speed", -1)])
def test_metrics_rank_every_damage_by_its_strength(real, damage, metric, sign):
    """Each of three strengths is worse than the one before: by the metric meant to catch that damage, and by
    both distances."""
    judged, video, _, _ = real
    video = video[:48]
    rows = []
    for strength in (0, 2, 3, 4):
        bad = damage(video, strength) if strength else video
        features = judged.project(judged.referee.clip_features(bad))
        row = {"frechet": metrics.frechet(judged.reference, features).item(),
               "kernel distance": metrics.kernel_distance(judged.reference, features)[0]}
        if metric == "permanence":
            row[metric] = metrics.permanence(judged.readings(bad), metrics.ink_of(bad), 20).mean().item()
        elif metric == "ssim":
            row[metric] = metrics.ssim(video, bad).mean().item()
        else:
            row[metric] = metrics.motion(bad)[metric].mean().item()
        rows.append(row)
    for name, direction in ((metric, sign), ("frechet", 1), ("kernel distance", 1)):
        values = [row[name] for row in rows]
        ordered = all(direction * a < direction * b for a, b in zip(values, values[1:]))
        assert ordered, f"expected {name} to get worse with every strength of {damage.__name__}, got {values}"


def test_held_out_clips_look_real(real):
    judged, video, caption, _ = real
    values = judged.values(video[:100], caption[:100])
    for metric, least in (("legibility", 0.9), ("permanence", 0.9)):
        got = values[metric].mean().item()
        assert got > least, f"expected {metric} above {least} for real clips, got {got:.3f}"
    readings = judged.readings(video[:100])
    wrong = referee.legible(readings, caption[:100] % 10 + 1).mean().item()
    assert wrong < 0.1, (
        f"expected hardly a frame to read as the wrong caption, got {wrong:.3f}: word id 1 is digit 0")
    training, _ = judge.real_clips(judged.config, "train", 32, seed=2)
    nearest = metrics.nearest(judged.handwriting(training), judged.training)[0].max().item()
    assert nearest < 0.01 < values["nearest"].mean(), (
        f"expected training digits to be found again, got a distance of {nearest:.3f}")
    kind = judge.cells(values)["legibility"]
    assert kind == intervals.share(values["legibility"]), (
        "expected legibility to have the interval of a share")


def test_the_referee_reads_two_digits():
    video, caption = judge.real_clips(replace(TWO_DIGITS, frames=2), "heldout", 48, seed=3)
    got = referee.legibility(referee.load_referee(), video, caption).mean().item()
    assert got > 0.75, (
        f"expected three frames of two digits in four to be read, got {got:.2f}: is the caption sorted?")
