"""Wrong answers that students really give, as changes of the right one, each with what it has to be told.

They prove the graders, and are not in a student's copy. A change that no longer fits is an error.
"""
from typing import NamedTuple

from data.course.blanks import fill, pieces
from data.course.wrong_diffusion import DIFFUSION
from data.course.wrong_network import NETWORK
from data.course.wrong_sampling import SAMPLING


class Wrong(NamedTuple):
    """`old`, which stands once in the places of a part, becomes `new`; says: a piece of the message."""
    old: str
    new: str
    says: str


WRONG = {part: [Wrong(*change) for change in changes]
         for part, changes in sorted((NETWORK | DIFFUSION | SAMPLING).items())}


def apply(text, part, wrong):
    """The text of sora.py with the wrong answer in it."""
    found = pieces(text, part)
    times = sum(piece.count(wrong.old) for piece in found)
    if times != 1:
        raise ValueError(f"part {part}: {wrong.old!r} stands {times} times in its places, expected "
                         "once: change the wrong answer along with sora.py")
    return fill(text, part, [piece.replace(wrong.old, wrong.new) for piece in found])
