"""Processes that take turns, so that whatever else a machine does meets all that is compared; tables and plots."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from processing.files import write_json

Row = dict[str, str | int | float]


def report(measured: dict[str, float]) -> bool:
    """In a worker: tell what was measured, and wait for the next turn; False where there is none."""
    print(json.dumps(measured), file=sys.__stdout__, flush=True)
    return bool(sys.stdin.readline())


def take_turns(script: str, names: list[str], rounds: int, what: str, *arguments: str) -> dict[str, list[dict]]:
    """What workers report, by name; first of all, once each is ready, and then of each round.

    Args:
        script: file of the benchmark, which becomes a worker by `--worker NAME`.
        names: of the workers, which are all there at the same time.
        rounds: how many turns each has.
        what: is measured, for the lines that say how far it is.
        arguments: of the workers.
    """
    workers = {
        name: subprocess.Popen(
            [sys.executable, script, "--worker", name, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    }
    reports = {name: [_read(name, worker)] for name, worker in workers.items()}
    for number in range(rounds):
        for name, worker in workers.items():
            worker.stdin.write("go\n")
            worker.stdin.flush()
            reports[name].append(_read(name, worker))
            seconds = reports[name][-1]["seconds"]
            print(f"{what}, round {number + 1} of {rounds}: {name} {seconds:.2f} s", flush=True)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return reports


def _read(name: str, worker: subprocess.Popen) -> dict[str, float]:
    line = worker.stdout.readline()
    if not line:
        sys.exit(f"{name} ended with code {worker.wait()}; its error is above")
    return json.loads(line)


def make_row(name: str, implementation: str, batch_size: int, values: list[float]) -> Row:
    """A row of the benchmark's file: median and range of a measure."""
    spread = {"value": median(values), "low": min(values), "high": max(values)}
    return {"name": name, "implementation": implementation, "batch_size": batch_size, **spread}


def format_rows(rows: list[Row], measures: dict[str, tuple[str, str]]) -> str:
    """A line for each implementation and batch size.

    Args:
        rows: of `make_row`.
        measures: name → title of its column and format of its values; the first is shown with its range.
    """
    cells = {(r["batch_size"], r["implementation"], r["name"]): r for r in rows}
    first = next(iter(measures))
    titles = [f"{title:>14}" for title, _ in measures.values()]
    lines = [f"{'':<38}{'batch':>6}{titles[0]}{'range':>18}{''.join(titles[1:])}"]
    for size, implementation in dict.fromkeys(key[:2] for key in cells):
        line = f"{implementation:<38}{size:>6}"
        for name, (_, form) in measures.items():
            row = cells.get((size, implementation, name))
            line += f"{format(row['value'], form) if row else '':>14}"
            if name == first:
                spread = f"{row['low']:{form}} – {row['high']:{form}}" if row else ""
                line += f"{spread:>18}"
        lines.append(line)
    return "\n".join(lines)


def write(path: str, meta: dict, rows: list[Row], plotted: str, title: str) -> str:
    """Write the benchmark's file, and beside it a PNG of one measure; returns a line that says so.

    Args:
        path: of the JSON file.
        meta, rows: its content.
        plotted: name of the measure.
        title: of the plot.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    write_json(path, {"meta": meta, "rows": rows})
    shown = [row for row in rows if row["name"] == plotted][::-1]
    sizes = list(dict.fromkeys(row["batch_size"] for row in shown))
    figure, axes = pyplot.subplots(figsize=(8, 0.8 + 0.32 * len(shown)), layout="constrained")
    axes.barh(
        [f"{row['implementation']}, batch {row['batch_size']}" for row in shown],
        [row["value"] for row in shown],
        xerr=[[row["value"] - row["low"] for row in shown], [row["high"] - row["value"] for row in shown]],
        color=[f"C{sizes.index(row['batch_size'])}" for row in shown],
    )
    axes.set_xlabel(title)
    axes.set_xlim(left=0)
    picture = Path(path).with_suffix(".png")
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)
    return f"written: {path}, {picture}"
