"""Copies of this repository for students: with blanks, with a part revealed, with a mistake to hunt."""
import gzip
import shutil
from pathlib import Path

from data.course.blanks import HERE, PACKED, ROOT, blank, fill, find, frame_of, original, pieces
from data.course.parts import PARTS
from sora import InputError

TOP = ("sora.py", "train.py", "sample.py", "README.md", "LICENSE")
STAFF = ("STAFF.md", "hunts.py", "measurements.py", "wrong.py", "wrong_*.py", "original.gz")


def new_folder(name):
    """The path of a folder that is to be made. InputError if something is in it."""
    folder = Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: not an empty folder; expected a new name: nothing is overwritten")
    return folder


def copy_to(folder):
    """Copies what students need: the scripts and the rooms, not the tests and not the staff's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOP:
        shutil.copy(ROOT / name, folder / name)
    ignored = shutil.ignore_patterns("__pycache__", ".cache", "tests", *STAFF)
    shutil.copytree(ROOT / "data", folder / "data", ignore=ignored)
    packed = gzip.compress(original().encode(), mtime=0)            # for `grade` and `reveal`
    (folder / "data" / "course" / PACKED.name).write_bytes(packed)
    return folder


def make(name):
    """Writes a student's copy into a new folder: all parts of sora.py are blank."""
    folder = copy_to(new_folder(name))
    text = original()
    for part in PARTS:
        text = blank(text, part)
    (folder / "sora.py").write_text(text, encoding="utf-8")


def read_student(name):
    """The text of a copy's sora.py, whatever bytes are in it. InputError if it has no places to write."""
    path = Path(name) / "sora.py"
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a folder that `make` wrote")
    text = path.read_bytes().decode(errors="replace").replace("\r\n", "\n")
    if not find(text):
        raise InputError(f"{path}: no lines `# >>> part 1` and `# <<<` in it; expected a copy that `make` wrote "
                         "(one with a mistake to hunt has no parts to grade)")
    return text


def reveal(name, part):
    """Puts the staff's solution of a part into a copy. What stood there is kept in a file beside it."""
    if part not in PARTS:
        raise InputError(f"part {part}: expected 1 to {len(PARTS)}")
    text, path = read_student(name), Path(name) / "sora.py"
    mine, theirs = pieces(text, part), pieces(original(), part)
    if len(mine) != len(theirs):
        raise InputError(f"{path}: expected {len(theirs)} places between `# >>> part {part}` and `# "
                         f"<<<`, found {len(mine)}: put the marks back (as in a fresh copy)")
    kept = kept_in(name, part)
    if mine != theirs:                                              # else it was revealed before
        kept.write_text("\n\n".join(mine) + "\n", encoding="utf-8")
    path.write_text(fill(text, part, theirs), encoding="utf-8")
    return kept


def kept_in(name, part):
    """The file in which `reveal` keeps what stood in the places of a part."""
    return Path(name) / f"part{part}.mine.txt"


def notes_on(name, parts=PARTS):
    """What the staff should know about a copy: parts that were revealed, lines outside the places, and graders,
    that were changed."""
    text, staff, notes = read_student(name), original(), []
    for part in parts:
        note = revealed(name, part, pieces(text, part), pieces(staff, part))
        if note:
            notes.append(note)
    before, now = frame_of(staff), frame_of(text)
    for expected, got in zip(before, now):
        if expected != got:
            notes.append("sora.py differs outside the marked places, first where this stood: "
                         f"`{expected.strip()}`, now `{got.strip()}`. Only what is between marks is "
                         "graded")
            break
    else:
        if len(before) != len(now):
            notes.append("sora.py has more or fewer lines outside the marked places: they are not graded")
    course = Path(name) / "data" / "course"
    for path in sorted(HERE.glob("*.py")):
        theirs = course / path.name
        if theirs.exists() and theirs.read_bytes() != path.read_bytes():
            notes.append(f"data/course/{path.name} differs from the staff's, which was used")
    return notes


def revealed(name, part, mine, theirs):
    """What tells that a part was revealed; "" if nothing does. Parts of few lines come out alike by themselves."""
    kept = kept_in(name, part)
    if kept.exists():
        return f"part {part} was revealed: {kept.name} is there"
    short = sum(len(piece.split("\n")) for piece in theirs) < 6
    if not short and [piece.split() for piece in mine] == [piece.split() for piece in theirs]:
        return f"part {part} is the solution, word for word"
    return ""
