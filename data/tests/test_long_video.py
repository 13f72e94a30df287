"""How long videos are measured: their windows, captions, stretches and motion."""
import csv
from dataclasses import replace

import pytest
import torch

from data.evaluation import judge, long_video
from data.runtime.checkpoints import load_models
from data.runtime.config import ClipConfig
from data.tests.conftest import call

TWO_DIGITS = ClipConfig(height=64, width=64, frames=20, digits=2, digit_size=28)


def test_long_video_writes_both_arms(ckpt, few_references, tmp_path):
    pytest.importorskip("matplotlib")
    short = "--ckpt", ckpt, "--n", 6, "--frames", 40, "--steps", 1, "--device", "cpu"
    table = tmp_path / "d.csv"
    call(long_video.main, *short, "--out", table)
    call(long_video.main, "--ckpt", ckpt, "--n", 2, "--frames", 16, "--steps", 1, "--out", table, "--append",
         "--arms", "first", "--no-anchor", "--label", "plain, ", "--device", "cpu")
    rows = list(csv.DictReader(table.open()))
    arms = list(dict.fromkeys(row["clips"] for row in rows))
    expected = ["held out", "held out, VAE's copy", *long_video.ARMS.values(),
                "plain, caption for the first window"]
    assert arms == expected, f"expected {expected}, got {arms}"
    for arm in arms[2:4]:
        own = {row["first_frame"]: float(row["value"]) for row in rows
               if (row["clips"], row["metric"]) == (arm, "own")}
        assert list(own) == ["1", "17", "25"], (
            f"expected stretches at 1, 17 and 25 (the last 16), got {list(own)}")
        assert own["1"] == 0 < own["25"], f"expected to begin at distance 0 from its own start, got {own}"
    first, again = ([row["value"] for row in rows if (row["clips"], row["first_frame"]) == (arm, "1")]
                    for arm in arms[2:4])
    assert first == again, f"expected the same first window in both arms, got {first} and {again}"
    assert (tmp_path / "d.png").exists(), "expected a plot beside the table"


def test_the_anchor_and_the_caption_reach_the_window(ckpt, monkeypatch):
    """Throughout: every call is told the caption, guided. First window: later calls see no word, unguided.
    With an anchor a later window begins `anchor` before 0, without one at 0."""
    models, calls = load_models(ckpt), []

    class Spy(torch.nn.Module):
        def forward(self, x, t, caption, positions):
            calls.append((len(x), caption.any().item(), positions.min().item()))
            return models.dit(x, t, caption, positions)

    spied, caption = models._replace(dit=Spy()), torch.tensor([[3], [4]])
    settings = dict(window=4, context=1, sampling=dict(steps=1, guidance=2.0))
    for arm, anchor, expected in (("throughout", 24, (4, True, -24)), ("first", 0, (2, False, 0))):
        calls.clear()
        clips = long_video.long_clips(spied, caption, 0, arm=arm, anchor=anchor, **settings)
        pieces = [next(clips) for _ in range(3)]
        assert calls[0] == (4, True, 0), f"expected a first window with caption and guidance, got {calls[0]}"
        assert calls[-1] == expected, (
            f"{arm}: expected (clips, caption, position) {expected}, got {calls[-1]}")
        assert [piece.shape[2] for piece in pieces][0] == 16, "the first window is 16 frames"


def test_captions_are_drawn_as_the_data_draws_them(ckpt, monkeypatch):
    """Two digits: hardly any doubles; the old order 0 0, 1 1, ... had ten in ten clips."""
    models = load_models(ckpt)
    seen = []

    def no_clips(models, caption, *rest, **more):
        seen.append(caption)
        return iter(())

    monkeypatch.setattr(long_video, "long_clips", no_clips)
    models = models._replace(config=replace(TWO_DIGITS))
    with pytest.raises((StopIteration, RuntimeError)):              # no clips come
        next(long_video.drift(None, models, 40, 20, 0, "first", "", {}))
    doubles = (seen[0][:, 0] == seen[0][:, 1]).float().mean().item()
    assert seen[0].shape == (40, 2) and doubles < 0.35, (
        f"expected about a tenth of doubles, got {doubles:.2f}")


def test_stretches_lose_no_frame():
    pieces = ((0, 10), (10, 3), (13, 7), (20, 20))                  # first frame, how many
    stream = (torch.arange(first, first + n).float().view(1, 1, n, 1, 1) for first, n in pieces)
    at = long_video.starts(33, 6)
    assert at == [0, 6, 12, 18, 24, 27], (
        f"expected stretches one behind the other, the last at the end, got {at}")
    for start, piece in zip(at, long_video.stretches(stream, 6, at), strict=True):
        expected = list(range(start, start + 6))
        got = piece.flatten().tolist()
        assert got == expected, f"expected frames {expected}, got {got}"
    assert long_video.starts(32, 16) == [0, 16], "a clip of two lengths has two stretches"
    partners = long_video.partner(torch.tensor([[3], [4], [3], [5], [3]])).tolist()
    assert partners == [2, 1, 4, 3, 0], f"expected the next clip with the same caption, got {partners}"


def test_usual_motion_is_that_of_real_clips():
    config = ClipConfig()
    video, _ = judge.real_clips(config, "heldout", 200, seed=5)
    usual, still = long_video.usual_motion(config, video).mean().item(), video[:, :, :1].expand_as(video)
    assert usual > 0.85, f"expected nine real clips in ten to move as usual, got {usual:.2f}"
    assert long_video.usual_motion(config, still).sum() == 0, "clips that stand still do not move as usual"
