"""Programs written by others run unchanged but for their import of multiprocessing, and do what they do with that.

flake8, isort, autopep8 and autoflake work on many files in a `Pool`: with an initializer and `imap_unordered`, with `imap`,
with `map`, with `starmap`. emcee is handed a pool, with whose `map` it samples.
"""

import os
import shutil

import pytest

THIS_DIRECTORY = os.path.dirname(os.path.abspath(__file__))
RUNNER = os.path.join(THIS_DIRECTORY, "run_over_procession.py")

UGLY = """\
import sys, os
import collections
def f( a,b ):
    x=1
    return (a+b )
class  C :
  y = {  'a':1 }
"""


@pytest.fixture
def sources(tmp_path):
    """A directory of ugly Python files."""
    directory = tmp_path / "sources"
    directory.mkdir()
    for number in range(8):
        (directory / f"ugly_{number}.py").write_text(UGLY + f"\n\nz = f( {number},2)\n")
    return directory


PROGRAMS = {
    "flake8": ["--isolated", "--jobs", "2"],
    "isort": ["--jobs", "2"],
    "autopep8": ["--jobs", "2", "--in-place", "--recursive"],
    "autoflake": ["--jobs", "2", "--in-place", "--recursive", "--remove-all-unused-imports"],
}


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_program_does_the_same_over_procession(program, sources, run_python, tmp_path):
    for_theirs = tmp_path / "theirs" / "sources"
    shutil.copytree(sources, for_theirs)
    # Each run sees its files under the same name.
    theirs = run_python("-m", program, *PROGRAMS[program], "sources", cwd=for_theirs.parent)
    ours = run_python(RUNNER, program, program, *PROGRAMS[program], "sources", cwd=tmp_path)
    assert ours.stderr.endswith("used: procession.pool\n"), ours.stderr
    assert ours.returncode == theirs.returncode
    changed = 0
    for path in sorted(for_theirs.glob("*.py")):
        assert (sources / path.name).read_text() == path.read_text()
        changed += UGLY not in path.read_text()
    if program == "flake8":
        assert "E225" in ours.stdout
        assert sorted(ours.stdout.splitlines()) == sorted(theirs.stdout.splitlines())
    else:
        assert changed == 8


EMCEE = """
import sys
sys.path.insert(0, {tests!r})
from run_over_procession import redirect
redirect("emcee", "__main__")

import numpy as np
import emcee
from multiprocessing import Pool

def log_prob(theta):
    return -0.5 * np.sum(theta**2)

if __name__ == "__main__":
    np.random.seed(42)
    initial = np.random.randn(32, 5)
    with Pool(2) as pool:
        sampler = emcee.EnsembleSampler(32, 5, log_prob, pool=pool)
        sampler.run_mcmc(initial, 50)
    print(type(pool).__module__, sampler.get_chain().shape, float(np.mean(sampler.acceptance_fraction)) > 0.2)
"""


def test_emcees_parallel_example_runs_over_procession(run_python, tmp_path):
    script = tmp_path / "sample.py"
    script.write_text(EMCEE.format(tests=THIS_DIRECTORY))
    done = run_python(script)
    assert done.stdout == "procession.pool (50, 32, 5) True\n", done.stderr


def test_the_runner_leaves_other_packages_alone(run_python):
    done = run_python(RUNNER, "nobody", "this", cwd=THIS_DIRECTORY)
    assert done.returncode == 0 and done.stderr == "used:\n", done.stderr
