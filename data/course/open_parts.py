"""Grades of the open parts: of files in a copy's folder `open`, beside the complete sora.py."""
import sys
from pathlib import Path

from data.course.blanks import module_of, original
from data.course.grading import Grade, in_process
from data.course.parts import OPEN

LIMIT = 120                                                         # seconds
FILES = {"cache": "cache.py", "forcing": "forcing.py", "recipe": "recipe.json"}


def grade(copy, name, limit=LIMIT):
    """The grade of an open part; None if nothing was handed in."""
    most = OPEN[name].points
    if not (Path(copy) / "open" / FILES[name]).is_file():
        return None
    result, problem, _ = in_process(measure, (str(Path(copy).resolve()), name), limit)
    if result is None:
        return Grade(0, most, [problem])
    points, reasons = result
    return Grade(points, most, reasons)


def measure(copy, name):
    """In the other process: (points, reasons). The student's sora.py may have blanks, so it is not used."""
    sys.modules["sora"] = module_of(original())
    from data.course import open_grades  # imports sora, so only now
    return open_grades.graded(Path(copy) / "open", name)
