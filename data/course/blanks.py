"""The places of sora.py that students write: found by their marks, blanked, and filled again.

A place begins after a line `# >>> part 3` and ends before the next line `# <<<`. All work on text, line
by line, so that a mistake of syntax in one part leaves the others readable.
"""
import gzip
import re
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKED = HERE / "original.gz"                                       # in a student's copy only
BEGIN, END = re.compile(r"( *)# >>> part (\d+)\s*"), re.compile(r" *# <<<\s*")


def original():
    """The text of the complete sora.py: the repository's, or what a student's copy keeps packed."""
    if PACKED.exists():
        return gzip.decompress(PACKED.read_bytes()).decode()
    return (ROOT / "sora.py").read_text(encoding="utf-8")


def find(text):
    """{part: [(first, end), ...]}: the lines between the marks, counted from 0, `end` not included.
    A mark without its partner marks nothing."""
    places, begun = {}, None
    for i, line in enumerate(text.split("\n")):
        begin = BEGIN.fullmatch(line)
        if begin:
            begun = int(begin[2]), i + 1
        elif END.fullmatch(line) and begun:
            part, first = begun
            places.setdefault(part, []).append((first, i))
            begun = None
    return places


def pieces(text, part):
    """What stands in the places of a part: a list of texts."""
    lines = text.split("\n")
    return ["\n".join(lines[first:end]) for first, end in find(text).get(part, [])]


def fill(text, part, new):
    """The text with the places of a part filled by `new`, a list of as many texts."""
    lines, places = text.split("\n"), find(text).get(part, [])
    if len(places) != len(new):
        raise ValueError(f"part {part}: {len(new)} texts for {len(places)} marked places")
    for (first, end), piece in reversed(list(zip(places, new))):    # from the end: numbers stay valid
        lines[first:end] = piece.split("\n")
    return "\n".join(lines)


def blank(text, part):
    """The text with the places of a part empty: whoever runs one is told so."""
    empty = []
    for piece in pieces(text, part):
        indent = re.match(" *", piece)[0]
        words = f"part {part} is yours to write: python3 -m data.course part {part}"
        empty.append(f'{indent}raise NotImplementedError("{words}")')
    return fill(text, part, empty)


def without_marks(text):
    """The text with what stands in the places, but without the marks."""
    lines = text.split("\n")
    return "\n".join(line for line in lines if not BEGIN.fullmatch(line) and not END.fullmatch(line))


def frame_of(text):
    """The lines outside the places, marks included: what no part may change."""
    lines = text.split("\n")
    for part, places in find(text).items():
        for first, end in places:
            lines[first:end] = [None] * (end - first)
    return [line for line in lines if line is not None]


def module_of(text, name="sora", path=None):
    """Runs the text of a module. Nothing is imported by this name; tracebacks call it `name`.py.
    path: where the module thinks it lies."""
    module = ModuleType(name)
    module.__file__ = str(path or f"{name}.py")
    exec(compile(text, f"{name}.py", "exec"), module.__dict__)
    return module
