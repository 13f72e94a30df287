"""The course: blanks cut from sora.py, graders that the original passes and wrong answers do not, copies."""
import os
import re
import subprocess
import sys

import pytest
import torch

from data.course import copies, grading
from data.course.__main__ import main
from data.course.blanks import blank, fill, find, frame_of, original, pieces
from data.course.hunts import HUNTS
from data.course.parts import OPEN, PARTS
from data.course.wrong import WRONG, apply
from data.tests.conftest import ROOT, call, complaint

TEXT = original()
CHANGES = [(part, number) for part, changes in WRONG.items() for number in range(len(changes))]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A student's copy, as `make` writes it."""
    folder = tmp_path_factory.mktemp("course") / "copy"
    copies.make(folder)
    return folder


def answers(folder, changes):
    """Puts texts in the places of parts: {part: text, for all of its places}."""
    text = copies.read_student(folder)
    for part, new in changes.items():
        text = fill(text, part, [new] * len(pieces(text, part)))
    (folder / "sora.py").write_text(text)


# --- the marks ----------------------------------------------------------------------------------------

def test_every_part_has_its_marks():
    """In sora.py itself, and nothing but marks was added to it."""
    assert find(TEXT).keys() == PARTS.keys(), (
        f"expected marks of parts {list(PARTS)}, got {list(find(TEXT))}: a mark lost its partner?")
    marks = re.findall(r"^ *# (?:>>>|<<<).*\n", TEXT, re.MULTILINE)
    places = sum(len(each) for each in find(TEXT).values())
    assert len(marks) == 2 * places, f"expected a mark before and after {places} places, got {len(marks)}"
    lines = TEXT.count("\n") - len(marks)
    assert lines <= 800, f"sora.py without its marks: expected at most 800 lines, got {lines}"


def test_blanks_are_cut_and_filled_without_a_trace():
    for part in PARTS:
        empty = blank(TEXT, part)
        assert all("raise NotImplementedError" in piece for piece in pieces(empty, part))
        assert frame_of(empty) == frame_of(TEXT), f"part {part}: lines outside its places have changed"
        assert fill(empty, part, pieces(TEXT, part)) == TEXT, f"part {part}: not what it was before blanking"


def test_sections_are_where_the_readme_says():
    """The table of README.md, line by line of sora.py."""
    lines = TEXT.splitlines()
    begins = [i for i, line in enumerate(lines, 1) if re.match(r"# \d\. ", line)]
    ends = [begin - 2 for begin in begins[1:]] + [len(lines)]       # a rule stands above each title
    rows = re.findall(r"^\| \d [^|]*\| (\d+)-(\d+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    expected = [(str(begin), str(end)) for begin, end in zip(begins, ends)]
    assert rows == expected, f"README.md, lines of the sections: expected {expected}, got {rows}"


# --- the graders --------------------------------------------------------------------------------------

@pytest.mark.parametrize("part", PARTS)
def test_original_passes_and_blank_fails(part):
    reasons = grading.check_part(TEXT, part)
    assert reasons == [None] * len(reasons), f"part {part}: the original is told {reasons}"
    assert PARTS[part].points % len(reasons) == 0, "expected points that the checks can share evenly"
    reasons = grading.check_part(blank(TEXT, part), part)
    assert all(f"part {part} is yours" in reason for reason in reasons), (
        f"part {part}, blank: expected every check to fail and say so, got {reasons}")


@pytest.mark.parametrize("part, number", CHANGES)
def test_wrong_answers_are_told_what_is_wrong(part, number):
    wrong = WRONG[part][number]
    reasons = [reason for reason in grading.check_part(apply(TEXT, part, wrong), part) if reason]
    assert reasons, f"part {part}, {wrong.new!r} instead of {wrong.old!r}: passed"
    told = [reason for reason in reasons if wrong.says in reason]
    assert told, f"part {part}, {wrong.new!r}: expected {wrong.says!r} in what is said, got {reasons}"
    assert all("\n" not in reason for reason in reasons), "expected one line for each reason"


def test_wrong_answers_are_three_or_more_a_part_and_have_their_own_messages():
    for part in PARTS:
        says = [wrong.says for wrong in WRONG[part]]
        assert len(says) >= 3, f"part {part}: expected three wrong answers or more, got {len(says)}"
        assert len(set(says)) == len(says), f"part {part}: two wrong answers have one message: {says}"


def test_wrong_answers_that_no_longer_fit_are_an_error():
    with pytest.raises(ValueError, match="stands 0 times"):
        apply(TEXT.replace("signal * eps", "noise_free * eps"), 6, WRONG[6][0])


# --- copies -------------------------------------------------------------------------------------------

def test_a_copy_holds_no_answers(copy):
    names = {path.relative_to(copy).as_posix() for path in copy.rglob("*")}
    assert {"sora.py", "train.py", "sample.py", "data/course/README.md", "data/weights/tiny.pt"} <= names
    staff = [name for name in names if re.search("wrong|hunt|measurements|STAFF", name)]
    assert not staff, f"a student's copy: expected none of the staff's files, got {staff}"
    for part in PARTS:
        assert all(piece.strip().startswith("raise") for piece in pieces(copies.read_student(copy), part))


def test_untouched_filled_in_and_everything_between(copy, capsys):
    """`grade` of a copy, each part in a process: nothing, all, and a different harm in each part."""
    def graded(folder, *flags):
        capsys.readouterr()
        call(main, "grade", folder, *flags)
        return capsys.readouterr().out

    said = graded(copy)
    assert said.count(" 0.0 of ") == len(PARTS) + 1 and "Traceback" not in said, said
    assert said.count("is yours to write") == len(PARTS), f"expected a reason for each part, got {said}"

    text = copies.read_student(copy)
    for part in PARTS:
        text = fill(text, part, pieces(TEXT, part))
    (copy / "sora.py").write_text(text)
    said = graded(copy)
    most = sum(part.points for part in PARTS.values())
    assert f"{most:.1f} of {most}" in said, f"filled with the original: got {said}"
    notes = [line for line in said.splitlines() if line.startswith("note")]
    assert notes == [f"note: part {part} is the solution, word for word" for part in PARTS], notes

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
    assert "part 99" in complaint(capsys, main, "part", 99)
    assert "part 99" in complaint(capsys, main, "reveal", ROOT, 99)
    assert "hunt 99" in complaint(capsys, main, "hunt", tmp_path / "new", 99)
    assert "no such file" in complaint(capsys, main, "expose", tmp_path)


def test_the_sheet_lists_what_there_is(capsys):
    """Titles and points of README.md are those of parts.py, and every part can be shown."""
    sheet = (ROOT / "data/course/README.md").read_text()
    for number, part in PARTS.items():
        row = f"| {number} | {part.title} | {part.minutes} | {part.points} |"
        assert row in sheet, f"data/course/README.md: expected the row {row!r}"
        call(main, "part", number)
        assert part.title in capsys.readouterr().out
    for name, part in OPEN.items():
        assert f"`{name}`" in sheet and part.title in sheet, f"data/course/README.md: nothing on {name}"
    assert len(sheet.splitlines()) <= 200
    staff = (ROOT / "data/course/STAFF.md").read_text()
    answers = staff.partition("## The ten questions")[2].partition("##")[0]
    questions = sheet.partition("Questions to answer")[2].partition("Budget")[0]
    numbers = re.findall(r"^\d+\.", questions, re.MULTILINE)
    assert len(numbers) == 10 and re.findall(r"^\d+\.", answers, re.MULTILINE) == numbers
    mistakes = staff.partition("## The mistakes")[2].partition("##")[0]
    rows = re.findall(r"^\| (\d) ", mistakes, re.MULTILINE)
    assert [int(row) for row in rows] == list(HUNTS), f"STAFF.md: expected a row for each hunt, got {rows}"


def test_code_that_raises_is_shown_its_line():
    """And code that returns nothing is told so."""
    reasons = grading.check_part(fill(TEXT, 8, ["        x0 = self.nothing(model)\n        return x0"]), 8)
    assert "AttributeError" in reasons[0] and "at `x0 = self.nothing(model)`" in reasons[0], reasons
    reasons = grading.check_part(fill(TEXT, 8, [pieces(blank(TEXT, 8), 8)[0] + "\n" + pieces(TEXT, 8)[0]]), 8)
    assert "delete the line `raise NotImplementedError`" in reasons[0], reasons
    reasons = grading.check_part(fill(TEXT, 8, ["        pass"]), 8)
    assert "got NoneType. Is there a `return`?" in reasons[0], reasons
    reasons = grading.check_part(fill(TEXT, 7, ["        pass"] * 2), 7)
    assert "is there a `return`?" in reasons[0], reasons


def test_errors_show_no_solution_of_another_part():
    """An error that arises in `predict`, part 6, shows the line of part 8 that called it."""
    reasons = grading.check_part(fill(TEXT, 8, [pieces(TEXT, 8)[0].replace("x, t,", "x, t.float(),")]), 8)
    assert "at `x0, eps = self.predict(model, x, t.float(), caption)`" in reasons[0], reasons
    schedule, _, q_sample = pieces(TEXT, 5)
    reasons = grading.check_part(fill(TEXT, 5, [schedule, "        return 1", q_sample]), 5)
    assert "at `signal, noise = self.signal_noise(t)`" in str(reasons), reasons
    reasons = grading.check_part(fill(TEXT, 1, ["    return latent.flatten(2)", pieces(TEXT, 1)[1]]), 1)
    assert all("permute" not in str(reason) for reason in reasons), reasons
    five_lines_more = 5 * "\n" + "    return latent +"             # Python quotes from the complete file
    reasons = grading.check_part(fill(TEXT, 1, [five_lines_more, pieces(TEXT, 1)[1]]), 1)
    assert "at `return latent +`" in reasons[0], reasons


def test_mistakes_with_the_anchor_are_not_told_to_flip():
    for wrong in WRONG[12]:
        reasons = str(grading.check_part(apply(TEXT, 12, wrong), 12))
        assert ("Flip `past`" in reasons) == ("Flip" in wrong.says), f"{wrong.new!r} is told {reasons}"


def test_global_settings_are_put_back():
    text = fill(TEXT, 8, ["        torch.set_grad_enabled(False)\n" + pieces(TEXT, 8)[0]])
    reasons = grading.check_part(text, 8)
    assert all("global settings" in reason for reason in reasons) and torch.is_grad_enabled(), reasons
