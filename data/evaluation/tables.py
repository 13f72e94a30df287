"""Tables of cells (value, low, high): printed, and written as .json."""
import json
import math

from data.runtime.writing import replacing


def show(title, columns):
    """Prints {column: {metric: (value, low, high)}} as a table, a line for each metric."""
    print(f"\n{title:20}" + "".join(f"{name:>27}" for name in columns))
    for metric in dict.fromkeys(metric for column in columns.values() for metric in column):
        found = [column.get(metric) for column in columns.values()]
        places = 1 if max(abs(cell[0]) for cell in found if cell) > 10 else 3
        print(f"{metric:20}" + "".join(f"{as_text(cell, places):>27}" for cell in found))


def as_text(cell, places=3):
    """A cell as text; None: no text."""
    if cell is None:
        return ""
    value, low, high = (f"{number:.{places}f}" for number in cell)
    return f"{value} [{low}, {high}]"


def plain(x):
    """Tensors, tuples and numbers as .json has them: lists, five digits; null if not finite."""
    if hasattr(x, "tolist"):
        x = x.tolist()
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [plain(value) for value in x]
    if isinstance(x, float):
        return float(f"{x:.5g}") if math.isfinite(x) else None
    return x


def write_table(path, table):
    """Writes a dict as .json: a line for each entry, and for each entry of a dict within it."""
    lines = []
    for key, value in plain(table).items():
        text = json.dumps(value)
        if isinstance(value, dict):
            rows = [f"  {json.dumps(row)}: {json.dumps(cell)}" for row, cell in value.items()]
            text = "{\n" + ",\n".join(rows) + "}"
        lines.append(f"{json.dumps(key)}: {text}")
    with replacing(path, "w") as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")
