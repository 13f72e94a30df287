"""The uses of sample.py: text, longer clips, connected ones, loops, pictures, edits."""
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import sora
from data.clips import files
from data.runtime.checkpoints import load_models
from data.tests.conftest import assert_near, read_clip, spy
from sora import TIME


def assert_decoded(made, vae):
    """The file shows the latents, decoded, from where it was said to begin."""
    with torch.no_grad():
        video = files.to_pixels(vae.decode(made.latent).clamp(-1, 1)[0]).astype(int)
    assert_near(made.video, video[made.skip:made.skip + len(made.video)], "the file against its latents")


@pytest.fixture
def copies(trained, clip):
    """Of the clip of 20 frames: its latent, and what the VAE makes of it, (T,H,W,3)."""
    vae, video = load_models(trained / "sora.pt").vae, read_clip(clip)[None]
    with torch.no_grad():
        latent = vae.encode(video)
        copy = files.to_pixels(vae.decode(latent)[0]).astype(int)
    assert copy.std() > 5, "the VAE of the fixture makes nothing but grey: these tests would prove nothing"
    return SimpleNamespace(latent=latent, video=copy, vae=vae)


def test_text_makes_as_many_frames_as_asked_for(make, copies):
    for flags, frames in (([], 16), (["--frames", 6], 6), (["--frames", 50], 50)):
        made = make("--prompt", 3, *flags)
        assert len(made.video) == frames, f"{flags}: expected {frames} frames, got {len(made.video)}"
        assert_decoded(made, copies.vae)


def test_an_extended_clip_begins_with_the_clip(make, copies, clip):
    made = make("--extend", clip, "--frames", 38)
    assert len(made.video) == 38, f"expected 38 frames in all, got {len(made.video)}"
    assert torch.equal(made.latent[:, :, :5], copies.latent), "the first 5 latents are not those of the clip"
    assert_near(made.video[:20], copies.video, "the first 20 frames against the VAE's copy of the clip")
    assert_decoded(made, copies.vae)
    assert len(make("--extend", clip).video) == 84, "without --frames: expected 64 more than the clip's 20"


def test_a_clip_extended_backward_ends_with_the_clip(make, copies, clip, monkeypatch):
    windows = spy(monkeypatch, sora, "generate")
    for frames in (38, 40):                                         # 38: not a multiple of 4
        windows.clear()
        made = make("--extend-backward", clip, "--frames", frames)
        assert len(made.video) == frames, f"expected {frames} frames in all, got {len(made.video)}"
        assert torch.equal(made.latent[:, :, -5:], copies.latent), (
            "the last 5 latents are not those of the clip")
        assert made.skip + frames == 4 * made.latent.shape[2], (
            f"expected the clip to end the video, got {made.skip} frames left out and {frames} shown of "
            f"{4 * made.latent.shape[2]}")
        first = windows[0][2][:, :, windows[0][0][3].sum()]         # the first new one of the first window
        assert torch.equal(made.latent[:, :, -6], first), (
            "the latent before the clip is not the first one made: are new frames in reverse order?")
        assert_near(made.video[-8:], copies.video[-8:], "the last frames against the VAE's copy of the clip")
        assert_decoded(made, copies.vae)


@torch.no_grad()
def test_two_clips_are_connected(make, copies, clip, tmp_path):
    made = make("--connect", clip, clip, "--frames", 57)
    assert len(made.video) == 60 and "57 frames become 60" in made.printed, (
        f"57 frames between two fixed ends: expected 60 and a note, got {len(made.video)}, {made.printed!r}")
    for where, latent in (("first", made.latent[:, :, :5]), ("last", made.latent[:, :, -5:])):
        assert torch.equal(latent, copies.latent), f"the {where} 5 latents are not those of the clip"
    assert_near(made.video[:20], copies.video, "the first 20 frames against the VAE's copy")
    assert_near(made.video[-8:], copies.video[-8:], "the last 8 frames against the VAE's copy")
    assert_decoded(made, copies.vae)
    plain = make("--connect", clip, clip)                           # a window of 4, of which 1 + 1 are known
    assert len(plain.video) == 48, f"without --frames: expected 20 + 8 + 20 frames, got {len(plain.video)}"
    frames = np.load(clip)[:18]
    np.save(tmp_path / "18.npy", frames)
    cut = make("--connect", tmp_path / "18.npy", tmp_path / "18.npy")
    for latent, part in ((cut.latent[:, :, :4], frames[2:]), (cut.latent[:, :, -4:], frames[:16])):
        expected = copies.vae.encode(torch.from_numpy(part[..., 0])[None, None].float() / 127.5 - 1)
        assert torch.allclose(latent, expected, atol=1e-5), "18 frames: two are cut off where they do not meet the gap"
    one_frame = make("--connect", clip, clip, "--frames", 41)
    assert len(one_frame.video) == 44, (
        f"a gap of 1 frame: expected a latent frame, 44, got {len(one_frame.video)}")


def test_a_loop_ends_where_it_began(make, copies, monkeypatch):
    """Its last window knows the loop's end and its start; decoded round and round it stays the same."""
    windows = spy(monkeypatch, sora, "generate")
    made = make("--loop", "--frames", 40)
    assert len(made.video) == 40 and made.latent.shape[2] == 20 and made.skip == 40, (
        f"expected 40 frames, shown from the second round on, got {len(made.video)}, {made.skip} left out")
    circle = made.latent[:, :, :10]
    assert torch.equal(circle, made.latent[:, :, 10:]), "the second round is not the first"
    args, _, result = windows[-1]
    known, gap = args[3], (~args[3]).sum().item()
    side = known.tolist().index(False)
    end = known[side + gap:].sum().item()
    assert side and end and side + gap + end == len(known), (
        f"expected a gap with something known on either side: {known}")
    assert torch.equal(result[:, :, ~known], circle[:, :, -gap:]), "the last window does not end the loop"
    assert torch.equal(args[2][:, :, -end:], circle[:, :, :end]), (
        "what follows on the end is not the loop's start")
    assert torch.equal(args[2][:, :, :side], circle[:, :, -gap - side:-gap]), (
        "the last window does not follow on")
    with torch.no_grad():
        rounds = copies.vae.decode(torch.cat([circle] * 3, dim=2)).clamp(-1, 1)
    third = files.to_pixels(rounds[0, :, 80:]).astype(int)
    assert_near(made.video, third, "the loop against its third round")


def test_a_picture_is_shown_once_and_first(make, copies, clip, tmp_path):
    frame = read_clip(clip)[:, :1]
    iio.imwrite(tmp_path / "still.png", files.to_pixels(frame)[0])
    made = make("--image", tmp_path / "still.png", "--frames", 9)
    with torch.no_grad():
        latent = copies.vae.encode(frame[None].expand(-1, -1, TIME, -1, -1))
        still = files.to_pixels(copies.vae.decode(latent)[0]).astype(int)
    assert len(made.video) == 9 and made.skip == 3, (
        f"expected 9 frames, with three of four copies left out, got {len(made.video)}, {made.skip} left out")
    assert torch.equal(made.latent[:, :, :1], latent), (
        "the first latent is not that of the picture, four times")
    assert_near(made.video[:1], still[3:], "the first frame against the VAE's copy of the picture")
    assert_decoded(made, copies.vae)
    from_clip = make("--image", clip, "--frames", 9)                # the first frame of a clip will do
    assert np.array_equal(from_clip.video, made.video), (
        "--image CLIP is not --image of the clip's first frame")
    assert len(make("--image", clip).video) == 13, (
        "without --frames: expected the window less three frames, 13")


def test_an_edited_clip_is_the_clip_if_there_is_no_noise(make, copies, clip):
    made = make("--edit", clip, "--strength", "0.001")
    assert len(made.video) == 16, f"expected a window of 16 of 20 frames, got {len(made.video)}"
    assert "note: only the first 16 frames are edited" in made.printed, (
        f"the clip is longer than a window: expected a note, got {made.printed!r}")
    near = abs(made.video - copies.video[:16]).mean()
    assert near < 2, f"strength 0.001: expected next to no change, got {near:.1f} grey levels"
    far = make("--edit", clip, "--strength", 1, "--window", 20)
    assert len(far.video) == 20 and "note: the first" not in far.printed, "--window 20 takes the whole clip"
    assert abs(far.video - copies.video).mean() > 2 * near, "strength 1 changes no more than strength 0.001"
    few, many = make("--edit", clip, "--frames", 6), make("--edit", clip, "--frames", 200, "--window", 40)
    assert len(few.video) == 6 and "only" not in few.printed, f"--edit --frames 6: got {few.printed!r}"
    assert len(many.video) == 20 and "only the first 20 frames" in many.printed, f"200 of 20: got {many.printed!r}"


def test_strength_0_6_is_the_default_of_edit(make, clip):
    one, two = make("--edit", clip), make("--edit", clip, "--strength", 0.6)
    assert np.array_equal(one.video, two.video), "--edit alone is not --edit --strength 0.6, as --help says"


@pytest.mark.parametrize("ending", ["gif", "mp4", "npy", "folder"])
def test_given_clips_may_be_of_any_kind(make, copies, clip, tmp_path, ending):
    video, path = read_clip(clip)[None, :, :12], tmp_path / f"given.{ending}"
    if ending == "folder":
        path.mkdir()
        for i, frame in enumerate(files.to_pixels(video[0])):
            iio.imwrite(path / f"{i:03d}.png", frame)
    else:
        files.write_clip(path, video)
    read = read_clip(path)
    assert read.shape == video[0].shape, (
        f"{ending}: expected {tuple(video[0].shape)}, got {tuple(read.shape)}")
    off = (read - video[0]).abs().mean()
    assert off < (0.05 if ending == "mp4" else 0.005), f"{ending}: pixels came back off by {off} on average"
    made = make("--extend", path, "--frames", 16)
    with torch.no_grad():
        expected = copies.vae.encode(read[None])
    assert torch.equal(made.latent[:, :, :3], expected), (
        f"{ending}: the first latents are not those of the clip")


def test_clips_of_another_size_are_resized_if_asked(make, clip):
    made = make("--extend", clip, "--resize", "--size", "48x40", "--frames", 24)
    assert made.video.shape == (24, 48, 40, 3), f"expected 24 frames of 48x40, got {made.video.shape}"
