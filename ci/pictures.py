"""Takes the pictures of docs/pictures: real runs on a terminal that nobody sees, by tmux, written as SVG.

make pictures        takes them anew
"""

import html
import re
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
COMMAND = Path(sys.executable).with_name("procession")
COLUMNS, ROWS = 100, 15

# What is watched: a program with two pools, some failures, a death, and a task that sleeps.
PROGRAM = """
import os, random, signal, time
import procession as mp

def resize(number):
    end = time.perf_counter() + random.uniform(0.001, 0.004)
    while time.perf_counter() < end:
        pass
    if number % 997 == 500:
        raise ValueError("no picture")
    return number

def fetch(number):
    time.sleep(1.5 + number % 3)

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

if __name__ == "__main__":
    with mp.get_context("fork").Pool(3) as pool, mp.get_context("spawn").Pool(2) as other:
        try:
            pool.apply(crash)
        except mp.ProcessError:
            pass
        later = other.map_async(fetch, range(1000))
        pictures = pool.imap_unordered(resize, range(10**9))
        while True:
            try:
                next(pictures)
            except ValueError:
                pass
"""

COLOURS = {"1": "#e06c75", "2": "#98c379", "3": "#e5c07b", "4": "#61afef", "5": "#c678dd", "6": "#56b6c2"}
FOREGROUND, BACKGROUND = "#d7dae0", "#1e2127"
LETTER_WIDTH, LINE_HEIGHT, MARGIN = 8.4, 18, 12


def styled_runs(line: str):
    """The stretches of a captured line that look alike: text, colour, bold, dim, reversed."""
    colour, bold, dim, inverse = FOREGROUND, False, False, False
    for text, codes in re.findall(r"([^\x1b]+)|\x1b\[([\d;]*)m", line):
        if text:
            yield text, colour, bold, dim, inverse
            continue
        # A colour out of 256 is three numbers; the first eight are the ones that are told by one elsewhere.
        for code in re.sub(r"38;5;([0-7])\b", r"3\1", codes or "0").split(";"):
            if code == "0":
                colour, bold, dim, inverse = FOREGROUND, False, False, False
            elif code in ("1", "2", "7"):
                bold, dim, inverse = bold or code == "1", dim or code == "2", inverse or code == "7"
            elif code == "22":
                bold = dim = False
            elif code == "27":
                inverse = False
            elif code == "39":
                colour = FOREGROUND
            elif len(code) == 2 and code[0] == "3" and code[1] in COLOURS:
                colour = COLOURS[code[1]]


def as_svg(captured: str, title: str) -> str:
    """A captured screen as a picture."""
    lines = captured.rstrip("\n").split("\n")
    width, height = COLUMNS * LETTER_WIDTH + 2 * MARGIN, len(lines) * LINE_HEIGHT + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">'
        f"<title>{html.escape(title)}</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>',
        f'<g font-family="ui-monospace,Menlo,Consolas,monospace" font-size="14" fill="{FOREGROUND}">',
    ]
    for row, line in enumerate(lines):
        column = 0
        y = MARGIN + (row + 0.75) * LINE_HEIGHT
        for text, colour, bold, dim, inverse in styled_runs(line):
            x, length = MARGIN + column * LETTER_WIDTH, len(text) * LETTER_WIDTH
            column += len(text)
            if inverse:
                top = MARGIN + row * LINE_HEIGHT
                parts.append(
                    f'<rect x="{x:g}" y="{top:g}" width="{length:g}" height="{LINE_HEIGHT}" fill="{FOREGROUND}"/>'
                )
                colour = BACKGROUND
            if not text.strip():
                continue
            style = "".join(
                [
                    f' fill="{colour}"' if colour != FOREGROUND else "",
                    ' font-weight="bold"' if bold else "",
                    ' opacity="0.6"' if dim else "",
                ]
            )
            parts.append(
                f'<text x="{x:g}" y="{y:g}" textLength="{length:g}" xml:space="preserve"{style}>{html.escape(text)}</text>'
            )
    return "\n".join([*parts, "</g></svg>", ""])


def main() -> None:
    """Takes all pictures."""
    session = f"procession-{uuid.uuid4().hex[:8]}"

    def tmux(*words: str) -> str:
        return subprocess.run(
            ["tmux", "-L", session, *words], capture_output=True, text=True, timeout=30, check=True
        ).stdout

    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "thumbnails.py").write_text(PROGRAM, encoding="utf-8")
        watched = subprocess.Popen([sys.executable, "thumbnails.py"], cwd=directory)
        try:
            time.sleep(4)
            size = ["-x", str(COLUMNS), "-y", str(ROWS)]
            tmux("-f", "/dev/null", "new-session", "-d", "-s", "top", *size, str(COMMAND), "top", "--sort", "cpu")
            time.sleep(3.5)
            screen = tmux("capture-pane", "-e", "-p", "-t", "top")
        finally:
            watched.terminate()
            watched.wait()
            subprocess.run(["tmux", "-L", session, "kill-server"], capture_output=True, check=False)
    PICTURES.mkdir(exist_ok=True)
    screen = screen.replace(str(Path(sys.executable).parent) + "/", "")
    (PICTURES / "top.svg").write_text(as_svg(screen, "procession top watching two pools"), encoding="utf-8")


if __name__ == "__main__":
    main()
