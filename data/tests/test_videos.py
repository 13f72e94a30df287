"""Videos and animations are read in their own time, with square pixels, and never all at once."""
import os
import subprocess
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from data.clips.files import write_clip
from data.clips.reading import CLIPS, VIDEOS, in_time, open_clip, resample, to_float
from data.tests.clip_files import FFMPEG, encode, numbers, read, refusal
from data.tests.conftest import counting


# --- time ---------------------------------------------------------------------------------------------

def test_a_list_of_videos_is_no_video(tmp_path):
    """ffmpeg reads texts that name other files, whatever they are called."""
    encode(tmp_path / "one.mp4", counting(8, 16, 16))
    (tmp_path / "x.mp4").write_text("ffconcat version 1.0\nfile one.mp4\n")
    assert "it is text, not a video" in refusal(tmp_path / "x.mp4"), refusal(tmp_path / "x.mp4")
    (tmp_path / "x.mp4").write_bytes(b"")
    assert "it is empty" in refusal(tmp_path / "x.mp4"), refusal(tmp_path / "x.mp4")


def animate(path, delays, numbers=None, **how):
    """Writes an animated picture whose frames count themselves."""
    frames = [Image.fromarray(frame) for frame in counting(99, 16, 16)]
    frames = [frames[i] for i in numbers or range(len(delays))]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=delays, **how)


@pytest.mark.parametrize("name", ["x.gif", "x.apng", "x.png", "x.webp"])
def test_time_is_in_the_delays(tmp_path, name):
    how = {"x.webp": {"lossless": True}, "x.apng": {"format": "PNG"}}.get(name, {})
    animate(tmp_path / name, [80, 240, 80, 160], **how)
    clip = open_clip(tmp_path / name)
    got = numbers(np.stack(list(clip.frames)))
    assert got == [0, 1, 1, 1, 2, 3, 3] and clip.rate == 12.5, (
        f"{name}: expected frame 1 three times and 3 twice at 12.5 a second, got {got} at {clip.rate}")
    if name != "x.webp":                                # which writes no pauses of nothing
        animate(tmp_path / name, [0, 0, 0], **how)
        got = open_clip(tmp_path / name).rate
        assert got == 10, f"{name}: without a delay, browsers show 10 frames a second, got {got}"


def test_delays_that_are_no_multiples_add_up(tmp_path):
    animate(tmp_path / "x.gif", [70, 80, 90, 100, 210, 70])
    got = numbers(read(tmp_path / "x.gif"))
    expected = [0, 1, 2, 3, 3, 4, 4, 4, 5]              # ends at 1, 2.1, 3.4, 4.9, 7.9, 8.9 times 70 ms
    assert got == expected, f"expected {expected}, got {got}"


def test_the_pages_of_a_tiff_have_no_time(tmp_path):
    animate(tmp_path / "x.tif", 80, [0, 1, 2])
    clip = open_clip(tmp_path / "x.tif")
    assert clip.rate is None and numbers(np.stack(list(clip.frames))) == [0, 1, 2], f"got {clip.rate}"


@pytest.mark.parametrize("fps", [12, 30, 50, 7, 0.5])
def test_our_gifs_come_back_with_all_their_frames(tmp_path, fps):
    """Pillow merges equal frames: held in pairs, all held, and a still."""
    pairs, held, still = [0, 0, 5, 5, 7, 7], [3] * 40, [4]
    for shown in ([0, 0, 0, 5, 6, 6, 9], pairs, held, still):
        video = to_float(counting(20, 16, 16)[shown])[None]
        write_clip(tmp_path / "x.gif", video, fps=fps)
        clip = open_clip(tmp_path / "x.gif")
        got = numbers(np.stack(list(clip.frames)))
        assert got == shown, f"{fps} frames a second: expected {shown}, got {got}"
        assert abs(clip.rate - fps) < 0.15 * fps, f"expected about {fps} frames a second, got {clip.rate}"


def test_gifs_of_mixed_modes_are_read_over_black(tmp_path):
    """The first frame is opaque, later ones have holes, and the second is cleared away."""
    red, green, black = [(200, 0, 0)], [(0, 200, 0)], [(0, 0, 0)]
    frames = [Image.new("RGBA", (16, 16), (200, 0, 0, 255))]
    for hole in (4, 8):
        frame = Image.new("RGBA", (16, 16), (0, 200, 0, 255))
        frame.paste((0, 0, 0, 0), (0, 0, hole, 16))
        frames.append(frame)
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2)
    got = read(tmp_path / "x.gif")[:, 8]
    expected = [red * 16, red * 4 + green * 12, black * 8 + green * 8]
    assert np.array_equal(got, expected), f"expected what browsers show, got {got.tolist()}"


@pytest.mark.parametrize("ending", VIDEOS)
def test_every_kind_of_video_is_written_and_read(tmp_path, monkeypatch, ending):
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "x", counting(24, 48, 64), ending=ending).rename(f"-a:b %d{ending.upper()}")
    clip = open_clip(f"-a:b %d{ending.upper()}")        # a colon could be a protocol, %d a number
    got = np.stack(list(clip.frames)).astype(int)
    assert got.shape == (24, 48, 64, 3), f"{ending}: got {got.shape}"
    assert clip.rate == 24, f"{ending}: got {clip.rate} frames a second"
    brightness = got[:, :, 40:, 1].mean((1, 2))
    off = abs(brightness - 2 * np.arange(24)).max()
    assert off < 6, f"{ending}: expected 0 2 4 ..., got {brightness}"
    red = got[:, :, :24, 0]
    assert red.min() > 150, f"{ending}: the left half is not red"


def test_every_ending_is_tested():
    tested = {*VIDEOS, ".gif", ".apng", ".npy"}
    assert set(CLIPS) == tested, f"endings that are read, but have no test: {set(CLIPS) ^ tested}"


def test_pixels_are_made_square_and_videos_upright(tmp_path):
    wide = encode(tmp_path / "wide.mp4", counting(6, 48, 64), 24, "-vf", "setsar=3/2")
    clip = open_clip(wide)
    assert (clip.height, clip.width) == (48, 96) == next(clip.frames).shape[:2], (
        f"64x48 pixels that are 3:2 wide: expected 48x96, got {clip[1:3]}")
    flat, turned = encode(tmp_path / "flat.mp4", counting(6, 48, 64)), tmp_path / "turned.mp4"
    subprocess.run([FFMPEG, "-v", "error", "-display_rotation", "90", "-i", flat, "-c", "copy", turned],
                   check=True)
    clip = open_clip(turned)
    frame = next(clip.frames)
    assert (clip.height, clip.width) == (64, 48) == frame.shape[:2], (
        f"expected 64x48 upright, got {clip[1:3]}")


@pytest.mark.parametrize("rate,wanted,expected", [
    (48, 24, "02468"),
    (24, 24, "0123456789"),
    (5, 10, "00112233445566778899"),
    (30, 12, "0257"),
    (30, 24, "01235678")])
def test_a_rate_is_the_frame_on_screen_at_its_time(rate, wanted, expected):
    got = "".join(map(str, resample(range(10), rate, wanted)))
    assert got == expected, f"{rate} to {wanted} a second: expected {expected}, got {got}"


def test_rate_and_stride_work_on_videos_alone(tmp_path):
    clip = open_clip(encode(tmp_path / "x.mp4", counting(48, 48, 64), 48))
    got = numbers(np.stack(list(in_time(clip, rate=24, stride=2)))[:, 16:32, 32:48])
    assert len(got) == 12, f"a second at 24 a second, every 2nd of them: expected 12, got {got}"
    assert got[1] - got[0] in (3, 4, 5), f"expected every 4th frame, nearly, got {got}"
    np.save(tmp_path / "x.npy", counting(10))
    frames = list(in_time(open_clip(tmp_path / "x.npy"), rate=24))
    assert len(frames) == 10, "an array has no rate of its own"


# --- what must not hang or fill the memory --------------------------------------------------------------

@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "x.mp4")
    for path in (tmp_path / "x.mp4", "/dev/zero"):
        assert "neither a file nor a folder" in refusal(path), f"{path}: it would be read for ever"
    (tmp_path / "a.xyz").write_bytes(b"what?")
    said = refusal(tmp_path / "a.xyz")
    assert "ending '.xyz'; expected" in said and ".mp4" in said, f"expected the endings, got {said!r}"


def test_memory_does_not_grow_with_what_is_cut_off_or_with_length(tmp_path):
    """numpy's memory; Pillow needs a decoded picture once. A frame of 720p is 2.8 MB."""
    encode(tmp_path / "x.mp4", np.zeros((30, 720, 1280, 3), np.uint8), 24, "-preset", "ultrafast")
    np.save(tmp_path / "x.npy", np.full((16, 1, 400_000), 7, np.uint8))
    Image.new("L", (6000, 6000), 9).save(tmp_path / "x.png")
    most_bytes = {"x.mp4": 12e6, "x.npy": 4e6, "x.png": 1e6}
    for name, most in most_bytes.items():
        tracemalloc.start()
        shapes = {frame.shape for frame in open_clip(tmp_path / name, (32, 32)).frames}
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert shapes == {(32, 32, 3)}, f"{name}: expected 32x32, got {shapes}"
        assert peak < most, (
            f"{name}: {peak / 1e6:.1f} MB at once: are all frames kept, or scaled before cropping?")


def test_the_middle_is_cut_out(tmp_path):
    frame = np.zeros((1, 32, 96), np.uint8)
    frame[:, :, 32:64] = 200
    np.save(tmp_path / "x.npy", frame)
    for size in ((32, 32), (16, 16), (64, 64)):
        got = read(tmp_path / "x.npy", size)
        assert got.shape == (1, *size, 3), f"expected {size}, got {got.shape}"
        inside = got[:, :, 1:-1]
        assert (inside == 200).all(), f"{size}: expected the bright middle third alone"


def test_a_video_of_uneven_times_keeps_its_length_and_its_rate(tmp_path):
    """A recording of a screen: ffmpeg says the mean rate, and would give frames at the finest division."""
    uneven = ["-vf", "select='lt(n,8)+not(mod(n,8))',format=yuv420p", "-fps_mode", "vfr"]
    encode(tmp_path / "x.mp4", counting(128, 16, 16), 64, *uneven)        # 2 seconds, 23 frames at most 1/64 apart
    clip = open_clip(tmp_path / "x.mp4")
    seconds = len(list(clip.frames)) / clip.rate
    assert clip.rate < 30 and abs(seconds - 2) < 0.25, (
        f"expected 2 seconds at the mean rate of about 12, got {seconds:.2f} at {clip.rate}")


# --- what a video promises -----------------------------------------------------------------------------

def converted(source, target, *flags):
    """A file that ffmpeg makes of another."""
    subprocess.run([FFMPEG, "-v", "error", "-y", "-i", str(source), *flags, str(target)], check=True)
    return target


def test_transparent_pixels_lie_over_black(tmp_path):
    white = np.full((8, 32, 32, 3), 255, np.uint8)
    source = encode(tmp_path / "x.mp4", white)
    clear = "format=rgba,colorchannelmixer=aa=0.3"
    got = read(converted(source, tmp_path / "x.mov", "-vf", clear, "-c:v", "png"))
    assert abs(got.mean() - 0.3 * 255) < 4, f"white with an opacity of 0.3: expected {0.3 * 255:.0f}, got {got.mean():.0f}"
    converted(source, tmp_path / "x.webm", "-vf", f"{clear},format=yuva420p", "-c:v", "libvpx-vp9")
    assert "transparent pixels" in refusal(tmp_path / "x.webm"), "ffmpeg's decoder would leave the opacity out"


def test_sound_alone_is_no_video(tmp_path):
    made = ["-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", str(tmp_path / "x.mp4")]
    subprocess.run([FFMPEG, "-v", "error", "-y", *made], check=True)
    assert "it has no pictures, only sound" in refusal(tmp_path / "x.mp4"), refusal(tmp_path / "x.mp4")


def test_a_video_that_was_cut_short_is_named(tmp_path, capsys):
    whole = encode(tmp_path / "x.avi", counting(48, 64, 64))
    assert len(read(whole)) == 48 and "note" not in capsys.readouterr().out, "a whole video needs no note"
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[:whole.stat().st_size // 2])
    n, said = len(read(cut)), capsys.readouterr().out
    assert f"cut.avi: {n} frames, its times promise" in said, f"{n} of 48 frames, and it says {said!r}"


def test_the_cover_of_music_has_no_rate(tmp_path):
    """ffmpeg gives it 90,000 frames a second."""
    Image.fromarray(counting(1, 32, 32)[0]).save(tmp_path / "cover.png")
    made = ["-f", "lavfi", "-i", "sine=duration=1", "-i", str(tmp_path / "cover.png"), "-map", "0", "-map", "1",
            "-c:a", "aac", "-c:v", "png", "-disposition:v", "attached_pic", str(tmp_path / "x.mp4")]
    subprocess.run([FFMPEG, "-v", "error", "-y", *made], check=True)
    rate = open_clip(tmp_path / "x.mp4").rate
    assert rate is None, f"expected no rate, got {rate}"
