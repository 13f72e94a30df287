"""Graders of parts 10 and 12: guidance, and `extend` with a network that counts frames."""
from itertools import islice

import torch

from data.course.checks import Missed, expect, noise, require
from data.course.grade_diffusion import each


# --- 10. guidance -------------------------------------------------------------------------------------

def answer(x, t, caption, positions=None):
    """A network whose answer depends on each clip's x, level and caption."""
    words = caption.reshape(len(caption), -1).float().sum(1)
    channels = torch.arange(1, x.shape[1] + 1).view(1, -1, 1, 1, 1)
    return x.square() + each(t) + words.view(-1, 1, 1, 1, 1) * channels * x.cos()


def two_clips():
    """x (B,C,F,h,w), t (B,F), caption (B,words)."""
    return noise(2, 4, 3, 2, 2), torch.rand(2, 3), torch.tensor([[3], [5]])


def check_guided(s):
    """Ho & Salimans, eq. 6."""
    x, t, caption = two_clips()
    given, without = answer(x, t, caption), answer(x, t, 0 * caption)
    right = without + 2.5 * (given - without)
    mistakes = {
        "`scale` is taken for the paper's w; it is 1 + w, so the difference counts scale - 1 times on top":
            without + 3.5 * (given - without),
        "the predictions with and without caption are swapped": given + 2.5 * (without - given),
        "both predictions have the caption: word 0 is no word": given}
    got = s.guided(answer, 2.5)(x, t, caption)
    if isinstance(got, torch.Tensor) and got.shape == x.shape:
        guided = [i for i in range(4) if torch.allclose(got[:, i], right[:, i], atol=1e-4)]
        if 0 < len(guided) < 4:
            raise Missed(f"guided: expected guidance on all 4 channels, got it on {guided} only: a bug "
                         "that DiT shipped")
    expect(got, right, "guided with scale 2.5", mistakes)


def check_scale_of_one(s):
    """At scale 1 the model is called as it is."""
    x, t, caption = two_clips()
    expect(s.guided(answer, 1)(x, t, caption), answer(x, t, caption), "guided with scale 1, no guidance")
    expect(s.guided(answer, 0)(x, t, caption), answer(x, t, 0 * caption), "guided with scale 0, no caption")


def check_captions_of_frames(s):
    """Captions for each latent frame are dropped, too."""
    x, t, _ = two_clips()
    caption = torch.tensor([[[1], [2], [0]], [[4], [4], [5]]])
    given, without = answer(x, t, caption), answer(x, t, 0 * caption)
    expect(s.guided(answer, 2)(x, t, caption), 2 * given - without, "guided with captions of frames "
                               "(B,F,words)")


def check_batch(s):
    """Both halves of the batch are given the same x and t."""
    check_guided(s)                                                  # else to do nothing would be right
    x, t, caption = two_clips()
    together = s.guided(answer, 2)(x, t, caption)
    alone = []
    for i in (0, 1):
        one = slice(i, i + 1)
        alone.append(s.guided(answer, 2)(x[one], t[one], caption[one]))
    expect(together, torch.cat(alone), "guided, two clips at once and one by one: chunk before mixing")


# --- 12. extend ---------------------------------------------------------------------------------------

class Counter:
    """In the place of `generate`: each unknown frame is one more than the last known one.

    It notes what every window was shown: the frames (as numbers), their positions and captions."""

    def __init__(self):
        self.windows = []

    def __call__(self, model, process, latent, known, caption, positions=None, **sampling):
        require((model, process) == ("model", "process"), "extend: expected `generate` to get `model` and "
                "`process`, got others")
        numbers = latent[0, 0, :, 0, 0]
        if positions is None:                                       # as in `generate`
            positions = torch.arange(len(known))
        require(known.dtype == torch.bool, "extend: expected `known` as a mask of bool, got "
                f"{str(known.dtype).replace('torch.', '')}")
        n = int(known.sum())
        require(bool(known[:n].all()), "extend: expected the known frames at the start of "
                "the window, backward too")
        last = numbers[n - 1] if n else torch.tensor(-1.0)
        new = last + 1 + torch.arange(len(known) - n)
        filled = torch.cat([numbers[:n], new]).view(1, 1, -1, 1, 1)
        self.windows.append((numbers[:n].tolist(), positions.tolist(), caption, sampling))
        return filled.expand_as(latent).clone()


def rolled(s, frames, count, window, context, caption=None, **more):
    """Runs `extend` with a Counter: (frames yielded, the windows). frames: how many there are."""
    numbers = torch.arange(float(frames))
    past = numbers.view(1, 1, -1, 1, 1).expand(1, 2, -1, 2, 2)
    if more.get("backward"):
        past = past.flip(2)                                         # the video's last frame is number 0
    before, counter = s.generate, Counter()
    s.generate = counter
    try:
        caption = torch.ones(1, 1).long() if caption is None else caption
        pieces = s.extend("model", "process", past, caption, window, context, **more)
        require(hasattr(pieces, "__next__"), "extend: expected a generator (with `yield`), got "
                f"{type(pieces).__name__}")
        pieces = list(islice(pieces, count))
    finally:
        s.generate = before
    return [piece[0, 0, :, 0, 0].tolist() for piece in pieces], counter.windows


def integers(numbers):
    """As whole numbers."""
    return [int(number) for number in numbers]


def check_new_frames(s):
    """What is yielded is what is new, window after window."""
    got, windows = rolled(s, 5, 3, window=4, context=2)
    if windows[0][0] == [0, 1]:
        raise Missed("extend: expected a window to see the newest frames, [3, 4], got the oldest, [0, 1]")
    require(windows[0][0] == [3, 4], "extend: expected the first window to see frames [3, 4], got "
            f"{integers(windows[0][0])}")
    require(got[0] != [3, 4, 5, 6], "extend: expected only new frames, [5, 6], got the whole window "
            "[3, 4, 5, 6]")
    require(got == [[5, 6], [7, 8], [9, 10]], f"extend: expected frames [5, 6], [7, 8], [9, 10], got {got}")
    for seen, positions, _, _ in windows:
        require(positions == [0, 1, 2, 3], "extend without anchor: expected positions 0 1 2 3 in "
                f"every window, as in training, got {positions}")


def check_from_nothing(s):
    """A past without frames."""
    got, windows = rolled(s, 0, 2, window=4, context=2)
    require(got == [[0, 1, 2, 3], [4, 5]], "extend from nothing: expected frames 0 to 3, then 4 and "
            f"5, got {got}")
    got, windows = rolled(s, 3, 2, window=4, context=0)
    require([w[0] for w in windows] == [[], []], "extend with context 0: expected windows without "
            f"known frames, got {windows[0][0]}. Beware of [-0:], which is everything")


def check_sampling(s):
    """Options go on to `generate`."""
    caption = torch.tensor([[3, 5]])
    _, windows = rolled(s, 3, 1, window=4, context=2, caption=caption, steps=7, guidance=2.0)
    words, given = windows[0][2:]
    same = words.shape == (1, 4, 2) and torch.equal(words, caption.expand(1, 4, 2))      # for each frame: is right
    require(same or torch.equal(words, caption), "extend: expected a caption (B,words) to reach `generate` as it is")
    require(given == {"steps": 7, "guidance": 2.0}, "extend: expected **sampling, {'steps': 7, "
            f"'guidance': 2.0}}, to be handed to `generate`, got {given}")


def check_anchor(s):
    """Which frames a window shows, and the positions it is told, with an anchor."""
    _, windows = rolled(s, 2, 3, window=4, context=2, anchor=9)
    require(windows[0][0] == [0, 1] and windows[0][1] == [0, 1, 2, 3], "extend with anchor: expected "
            "no anchor while the context still has the first frame, got frames "
            f"{integers(windows[0][0])} at {windows[0][1]}")
    seen, positions = windows[1][:2]
    if seen == [2, 3]:
        raise Missed("extend with anchor: expected windows to begin with the video's first frame, got none")
    require(seen == [0, 2, 3], f"extend with anchor: expected frames [0, 2, 3], got {integers(seen)}")
    require(positions[0] != 0, "extend with anchor: expected the anchor at position -anchor, as in "
            "training, got 0")
    require(positions == [-9, 1, 2, 3], "extend with anchor: expected positions [-9, 1, 2, 3], got "
            f"{positions}")
    require(windows[2][0] == [0, 3, 4], "extend with anchor: expected frames [0, 3, 4] in the third "
            f"window, got {integers(windows[2][0])}: one frame a window is new, and the anchor is the "
            "video's first")
    check_anchor_of_a_past(s)
    check_anchor_from_nothing(s)


def check_anchor_of_a_past(s):
    """The anchor is the first frame of what is given."""
    _, windows = rolled(s, 5, 1, window=4, context=2, anchor=9)
    seen = windows[0][0]
    require(seen != [3, 4], "extend with anchor: expected a past of 5 frames to show [0, 3, 4], got "
            "[3, 4]: the anchor is needed from the first window on, if the context lacks it")
    require(seen == [0, 3, 4], "extend with anchor: expected a past of 5 frames to show [0, 3, 4], got "
            f"{integers(seen)}: `first` is the first of the whole past, not of the newest frames")


def check_anchor_from_nothing(s):
    """The anchor is the first frame that was made."""
    _, windows = rolled(s, 0, 3, window=4, context=1, anchor=9)
    require(windows[1][0] == [0, 3], "extend with anchor, from nothing: expected the second window to "
            f"see [0, 3], got {integers(windows[1][0])}. `first` is the first frame of the video, "
            "whoever made it")
    _, windows = rolled(s, 0, 2, window=3, context=0, anchor=9)
    require(windows[1][0] == [0], "extend with anchor and context 0: expected the second window to see "
            f"the anchor alone, [0], got {integers(windows[1][0])}")


def check_backward(s):
    """Time runs backward: positions fall, frames come in reverse."""
    caption = torch.arange(10, 17).view(1, 7, 1)                    # of frame i, from the video's end: 10 + i
    got, windows = rolled(s, 3, 2, window=4, context=2, caption=caption, backward=True)
    seen, positions, words, _ = windows[0]
    hint = ". Flip `past` once" if seen == [1, 0] else ""           # the window's, had it not been flipped
    require(seen == [1, 2], "extend backward: expected the window to see the frames next to the new "
            f"ones, [1, 2], got {integers(seen)}{hint}")
    require(positions != [0, 1, 2, 3], "extend backward: expected negated positions, [0, -1, -2, -3], "
            f"got {positions}: time runs the other way")
    require(positions == [0, -1, -2, -3], "extend backward: expected positions [0, -1, -2, -3], got "
            f"{positions}")
    require(got[0] != [4, 3], "extend backward: expected new frames in reverse order, [3, 4], got "
            "[4, 3]: do not flip what you yield")
    require(got == [[3, 4], [5, 6]], f"extend backward: expected frames [3, 4], [5, 6], got {got}")
    words = words[0, :, 0].tolist()
    require(words == [11, 12, 13, 14], "extend backward with captions of frames: expected words 11 to "
            f"14, got {words}. Captions are in the order of making, also backward: count them as forward")
    got, windows = rolled(s, 3, 2, window=4, context=2, anchor=9, backward=True)
    seen, positions = windows[0][:2]
    require(seen == [0, 1, 2], "extend backward with anchor: expected frames [0, 1, 2], got "
            f"{integers(seen)}: the anchor is the video's last frame, the first of the flipped past")
    require(positions == [9, -1, -2, -3], "extend backward with anchor: expected positions [9, -1, -2, "
            f"-3], got {positions}")
    require(got == [[3], [4]], f"extend backward with anchor: expected frames [3], [4], got {got}")


def check_captions(s):
    """Each frame is told the words of its place in the video."""
    caption = torch.arange(10, 17).view(1, 7, 1)                    # frame i has word 10 + i
    _, windows = rolled(s, 3, 3, window=4, context=2, caption=caption)
    words = [w[2][0, :, 0].tolist() for w in windows]
    require(words[0] != [10, 11, 12, 13], "extend with captions of frames: expected those of the "
            "frames shown, got the first four: count from the video's start, not from the window's")
    require(words[0] == [11, 12, 13, 14], "extend with captions of frames: expected words 11 to 14, "
            f"got {words[0]}")
    require(words[2] == [15, 16, 16, 16], "extend with captions of frames: expected the last one to "
            f"hold for all that follow, [15, 16, 16, 16], got {words[2]}")
    _, windows = rolled(s, 3, 2, window=4, context=2, caption=caption, anchor=9)
    words = windows[1][2][0, :, 0].tolist()
    require(words == [10, 12, 13, 14], "extend with captions of frames and an anchor: expected the "
            f"anchor's caption first, [10, 12, 13, 14], got {words}")


CHECKS = {10: [check_guided, check_scale_of_one, check_captions_of_frames, check_batch],
          12: [check_new_frames, check_from_nothing, check_sampling, check_anchor, check_backward,
               check_captions]}
