"""What the documentation shows is true: its programs run, and print what stands below them."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]

# A program, and the text it prints if the page shows it right after.
PROGRAM = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


def programs():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in PROGRAM.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield pytest.param(match[1], match[2], id=f"{page.relative_to(ROOT)}:{line}")


@pytest.mark.parametrize(("source", "output"), programs())
def test_program_runs_and_prints_what_the_page_shows(run_python, tmp_path, source, output):
    program = tmp_path / "program.py"
    program.write_text(source, encoding="utf-8")
    result = run_python(
        program,
        interpreter_options=["-X", "dev", "-W", "error"],
        # Unbuffered, print() would write a line and its end apart, and lines of two processes could mix.
        environment={"PYTHONUNBUFFERED": ""},
    )
    assert (result.returncode, result.stderr) == (0, "")
    if output is not None:
        assert [line.rstrip() for line in result.stdout.splitlines()] == [line.rstrip() for line in output.splitlines()]


def test_there_are_programs_in_the_documentation():
    assert len(list(programs())) >= 5
