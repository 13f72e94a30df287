"""The course's copies: what is in them, and what grade and reveal make of them, whatever stands there."""
import os
import re
import subprocess
import sys

import pytest

from data.course import copies, grading
from data.course.__main__ import main
from data.course.blanks import fill, original, pieces
from data.course.parts import PARTS
from data.course.wrong import WRONG, apply
from data.tests.conftest import ROOT, call, complaint

TEXT = original()


@pytest.fixture
def copy(tmp_path):
    """A student's copy, as `make` writes it."""
    folder = tmp_path / "copy"
    copies.make(folder)
    return folder


def answers(folder, changes):
    """Puts texts in the places of parts: {part: text, for all of its places}."""
    text = copies.read_student(folder)
    for part, new in changes.items():
        text = fill(text, part, [new] * len(pieces(text, part)))
    (folder / "sora.py").write_text(text)


def test_a_copy_holds_no_answers(copy):
    names = {path.relative_to(copy).as_posix() for path in copy.rglob("*")}
    assert {"sora.py", "train.py", "sample.py", "data/course/README.md", "data/weights/tiny.pt"} <= names
    staff = [name for name in names if re.search("wrong|hunt|measurements|STAFF", name)]
    assert not staff, f"a student's copy: expected none of the staff's files, got {staff}"
    for part in PARTS:
        assert all(piece.strip().startswith("raise") for piece in pieces(copies.read_student(copy), part))


@pytest.fixture
def graded(capsys):
    """What `grade` of a folder prints, each part in a process."""
    def graded(folder, *flags):
        capsys.readouterr()
        call(main, "grade", folder, *flags)
        return capsys.readouterr().out
    return graded


def fill_in(folder):
    """Writes the original into every part."""
    text = copies.read_student(folder)
    for part in PARTS:
        text = fill(text, part, pieces(TEXT, part))
    (folder / "sora.py").write_text(text)


def test_an_untouched_copy_has_no_points(copy, graded):
    """Each part says that it is still to be written."""
    said = graded(copy)
    assert said.count(" 0.0 of ") == len(PARTS) + 1 and "Traceback" not in said, said
    assert said.count("is yours to write") == len(PARTS), f"expected a reason for each part, got {said}"


def test_the_original_has_all_points(copy, graded):
    """And a note for each part that nobody writes word for word."""
    fill_in(copy)
    said = graded(copy)
    most = sum(part.points for part in PARTS.values())
    assert f"{most:.1f} of {most}" in said, f"filled with the original: got {said}"
    notes = [line for line in said.splitlines() if line.startswith("note")]
    told = [part for part in PARTS if part not in (8, 10)]          # these are of few lines, which many write alike
    assert notes == [f"note: part {part} is the solution, word for word" for part in told], notes


def test_a_harm_stays_in_its_part(copy, graded):
    """A different one in each of six parts, and in the checks themselves: the others keep their points."""
    fill_in(copy)
    answers(copy, {1: "    return latent +",                        # does not even parse
                   5: "        import os; os._exit(3)",
                   6: "        print('hello'); raise SystemExit",
                   8: "        torch.set_default_dtype(torch.float64)\n" + pieces(TEXT, 8)[0]})
    text = copies.read_student(copy).replace("def rotate(", "def turn(", 1)
    wrong = next(wrong for wrong in WRONG[9] if "s - t is negative" in wrong.says)
    text = fill(text, 9, pieces(apply(TEXT, 9, wrong), 9))          # Euler's sign, one check of five
    first = re.search(r"^ *# >>> part 3\n", text, re.MULTILINE)[0]
    (copy / "sora.py").write_text(text.replace(first, "", 1))
    (copy / "data/course/checks.py").write_text("def expect(*args): pass\n")
    said = graded(copy)
    for words in ("4.0 of 5", "s - t is negative", "SyntaxError", "ended (code 3)", "SystemExit",
                  "printed 'hello |", "default dtype", "put the marks back", "def turn(",
                  "checks.py differs from the staff's"):
        assert words in said, f"expected {words!r} in what the student is told, got {said}"
    fine = [part for part in PARTS if part not in (1, 3, 5, 6, 8, 9)]
    for part in fine:
        points = f"{PARTS[part].points:.1f} of {PARTS[part].points}"
        line = re.search(rf"^part +{part} .*", said, re.MULTILINE)[0]
        assert line.endswith(points), f"part {part} is right: expected {points}, got {line}"


def test_an_answer_without_end_is_stopped(copy, graded):
    """After the seconds of --limit."""
    answers(copy, {4: "        while True: pass"})
    said = graded(copy, "--part", 4, "--limit", 2)
    assert "0.0 of 6" in said and "stopped after 2 seconds" in said, said


def test_a_copy_grades_and_reveals_itself(tmp_path):
    """With its own graders, although its sora.py does not even parse."""
    folder = tmp_path / "copy"
    copies.make(folder)
    answers(folder, {2: "    return ("})
    for command in (["reveal", ".", "8"], ["grade", ".", "--part", "2", "8"]):
        done = subprocess.run([sys.executable, "-m", "data.course", *command], cwd=folder, text=True,
                              capture_output=True, timeout=300)
        assert done.returncode == 0, f"{command} in a copy: {done.stderr}"
    assert "4.0 of 10" in done.stdout, f"expected all points of part 8 only, got {done.stdout}"
    assert done.stdout.endswith("note: part 8 was revealed: part8.mine.txt is there\n"), done.stdout
    assert pieces(copies.read_student(folder), 8) == pieces(TEXT, 8)
    assert "yours to write" in (folder / "part8.mine.txt").read_text()
    copies.reveal(folder, 8)
    assert "yours to write" in (folder / "part8.mine.txt").read_text(), "revealed twice, and what was kept is lost"


def test_parts_may_print(tmp_path):
    """In any alphabet, whatever the terminal knows; and without an end, which fills neither memory nor disk."""
    folder = tmp_path / "copy"
    copies.make(folder)
    answers(folder, {4: "        while True:\n            print('x' * 10 ** 6)",
                     8: '        print("\u03b1")\n' + pieces(TEXT, 8)[0]})
    command = [sys.executable, "-m", "data.course", "grade", str(folder), "--part", "4", "8", "--limit", "100"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=80,
                          env=dict(os.environ, PYTHONIOENCODING="ascii"))
    assert "stopped after it had printed 10 MB" in done.stdout and "printed 'xxx" in done.stdout, done
    assert "4.0 of 10" in done.stdout, f"part 8 is right, and prints: expected its points, got {done.stdout}"


def test_of_what_is_printed_the_ends_are_read(tmp_path):
    path = tmp_path / "printed"
    assert grading.ends_of(path) == ""
    path.write_text("first\n" + 10 ** 5 * "between\n" + "last\n")
    said = grading.ends_of(path)
    assert said.startswith("'first | between") and said.endswith("between | last'") and len(said) < 200, said


def test_bad_input_is_one_line(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    assert "not an empty folder" in complaint(capsys, main, "make", tmp_path / "full")
    assert (tmp_path / "full" / "mine.txt").read_text() == "precious"
    assert "no such file" in complaint(capsys, main, "grade", tmp_path / "none")
    assert "--part 99" in complaint(capsys, main, "grade", ROOT, "--part", 99)
    call(main, "grade", ROOT, "--part", "cache")                    # by name, alone
    assert "nothing in" in capsys.readouterr().out, "an open part that was not handed in: expected to be told so"
    assert "part 99" in complaint(capsys, main, "part", 99)
    assert "part 99" in complaint(capsys, main, "reveal", ROOT, 99)
    assert "hunt 99" in complaint(capsys, main, "hunt", tmp_path / "new", 99)
    assert "no such file" in complaint(capsys, main, "expose", tmp_path)
