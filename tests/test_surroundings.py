"""The real command in bad surroundings: it goes on, keeps what is finished, says one true line.

The surroundings that do no harm are tried on `analysis`: a kernel, thirty figures and the pages, without a training.
"""

import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import nbformat
import pytest
from study import ROOT, differing, environment, line_of, start, statuses, succeed, wait_for

from mlp_lib.run.files import NOTEBOOKS

ANALYSIS = NOTEBOOKS["analysis"]
# what a user may have set for figures of his own
MATPLOTLIBRC = """
backend: TkAgg
text.usetex: True
font.family: serif
mathtext.fontset: cm
axes.unicode_minus: False
axes.facecolor: black
figure.facecolor: black
image.interpolation: bilinear
lines.linewidth: 7
savefig.bbox: tight
savefig.dpi: 30
savefig.facecolor: black
savefig.format: pdf
savefig.transparent: True
no.such.key: 1
"""
PROFILE = """
get_config().InlineBackend.figure_formats = {"svg"}
get_config().InteractiveShellApp.exec_lines = ["import pandas; pandas.set_option('display.precision', 2)"]
"""
NO_KERNEL = """{"argv": ["no-such-python", "{connection_file}"], "display_name": "another", "language": "python"}"""
NO_LOCKS = """
import errno, fcntl, os
def flock(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = flock
"""
WINDOWS = """
import sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
"""


def site(folder: Path, code: str) -> dict[str, str]:
    """The environment of a Python that runs the code when it starts, as do all that it starts."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


def files(folder: Path, **texts: str) -> Path:
    """A folder with the files; __ in a name is a folder's end."""
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def shell(text: str, *arguments: object, **more: str) -> subprocess.CompletedProcess:
    """A line of bash in which $LINE is the command, in a changed environment; its exit code is the command's."""
    line = shlex.join(line_of("mlp_lib", *arguments))
    told = f"{text.replace('$LINE', line)}\nexit ${{PIPESTATUS[0]}}"
    own = {name: value for name, value in (environment() | more).items() if value is not None}
    return subprocess.run(["bash", "-c", told], capture_output=True, text=True, timeout=900, env=own)


def check_analysis(run_dir: Path, base: Path) -> None:
    """The analysis was made again, to the bit, and the log says so; its notebook holds nothing of the surroundings."""
    log = (run_dir / "log.txt").read_text(encoding="utf-8").splitlines()
    began = max(number for number, line in enumerate(log) if line.endswith(f"{ANALYSIS}: running"))
    assert f"{ANALYSIS}: done in" in log[-2]
    assert "report: " in log[-1]
    assert began >= 4  # after those of the run
    assert differing(run_dir, base) == []
    for figure in (base / "analysis").glob("*.png"):
        assert (run_dir / "analysis" / figure.name).read_bytes() == figure.read_bytes(), figure.name
    assert shown(run_dir) == shown(base)
    assert (run_dir / f"{ANALYSIS}.html").stat().st_mtime > (base / f"{ANALYSIS}.html").stat().st_mtime


def shown(run_dir: Path) -> list[tuple]:
    """What the cells of the analysis left; nothing is lost in metadata or on stderr."""
    notebook = nbformat.read(run_dir / f"{ANALYSIS}.ipynb", as_version=4)
    assert "widgets" not in notebook.metadata
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    streams = [output.text for output in outputs if output.output_type == "stream"]
    assert not streams
    return [tuple(sorted(output.data.items())) for output in outputs]


# --- what does no harm ----------------------------------------------------------------------------------------------

OUTPUTS = {
    "its first line is read": "$LINE | head -1",
    "stdout is closed": "$LINE >&-",
    "all are closed": "$LINE <&- >&- 2>&-",
    "the disk is full": "$LINE >/dev/full 2>/dev/full",
}
SURROUNDINGS: dict[str, Mapping[str, str | None]] = {
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "the output in ASCII": {"PYTHONIOENCODING": "ascii"},
    "no home": {"HOME": None, "XDG_CONFIG_HOME": None, "XDG_CACHE_HOME": None, "MPLCONFIGDIR": None},
    "a home that can't be written": {"HOME": "/proc", "XDG_CONFIG_HOME": "/proc", "XDG_CACHE_HOME": "/proc"},
    "no folder for temporary files": {"TMPDIR": "/proc", "TEMP": "/proc", "TMP": "/proc"},
    "far east": {"TZ": "Pacific/Kiritimati"},
    "no such zone": {"TZ": "Nowhere/Nothing"},
    "another backend": {"MPLBACKEND": "TkAgg"},
    "warnings are errors": {"PYTHONWARNINGS": "error"},
    "a dumb terminal": {"TERM": "dumb", "COLUMNS": "0", "LINES": "0"},
    "asserts are off": {"PYTHONOPTIMIZE": "2"},
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The rc files of a user who has much of his own, and another environment's kernel."""
    folder = tmp_path_factory.mktemp("hostile")
    own = {"ipython__profile_default__ipython_config.py": PROFILE, "kernels__python3__kernel.json": NO_KERNEL}
    files(folder, matplotlibrc=MATPLOTLIBRC, startup="import pandas\npandas.set_option('display.max_rows', 1)", **own)
    return {
        "MATPLOTLIBRC": str(folder / "matplotlibrc"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_PATH": str(folder),
        "PYTHONSTARTUP": str(folder / "startup"),
    }


def test_the_users_files_decide_nothing_and_nobody_need_listen(
    copy: Path, base: Path, hostile: Mapping[str, str]
) -> None:
    run_dir = copy.rename(copy.with_name("{x} {}"))  # which papermill formats
    done = shell("$LINE | true", "analysis", "--run-dir", run_dir, **hostile)
    assert (done.returncode, done.stderr) == (0, "")
    check_analysis(run_dir, base)
    assert "no.such.key" in (run_dir / "log.txt").read_text()  # what a library said is kept there alone


@pytest.mark.slow
@pytest.mark.parametrize("what", OUTPUTS)
def test_trouble_with_the_output_is_no_error(what: str, copy: Path, base: Path) -> None:
    done = shell(OUTPUTS[what], "analysis", "--run-dir", copy)
    assert (done.returncode, done.stderr) == (0, "")
    check_analysis(copy, base)


@pytest.mark.slow
@pytest.mark.parametrize("what", SURROUNDINGS)
def test_the_environment_does_no_harm(what: str, copy: Path, base: Path) -> None:
    run_dir = copy if what == "ASCII" else copy.rename(copy.with_name("Läufe ≤ 3"))
    done = shell("$LINE", "analysis", "--run-dir", run_dir, **SURROUNDINGS[what])
    assert (done.returncode, done.stderr) == (0, "")
    check_analysis(run_dir, base)


def test_a_reader_that_leaves_ends_no_command(copy: Path) -> None:
    """Also of those that only say something, and of a mistake: with their exit codes, and nothing about a pipe."""
    for arguments, code in (
        (("--help",), 0),
        (("status", copy), 0),
        (("run", "--run-dir", copy, "-p", "patience", 0), 2),
    ):
        done = shell("$LINE 2>&1 | true", *arguments)
        assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.slow
def test_a_terminal_that_goes_away_stops_nothing(copy: Path, base: Path) -> None:
    """As after `disown`: the terminal is gone, and nobody says so by a signal."""
    ours, its = pty.openpty()
    process = start("analysis", "--run-dir", copy, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    assert b"running" in os.read(ours, 1000)
    os.close(ours)
    assert process.wait(timeout=600) == 0
    check_analysis(copy, base)


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True], ids=["", "under nohup"])
def test_a_hang_up_is_an_interrupt(ignored: bool, copy: Path, base: Path) -> None:
    undo = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    process = start("analysis", "--run-dir", copy, stderr=subprocess.PIPE)
    signal.signal(signal.SIGHUP, undo)
    wait_for(lambda: statuses(copy)["analysis"] == "running", process)
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=600)
    assert process.returncode == (0 if ignored else 130)
    assert statuses(copy)["analysis"] == ("done" if ignored else "interrupted")
    assert ("interrupted" in (copy / "log.txt").read_text().splitlines()[-1]) != ignored
    assert len(said.split("\n\n")) == 1


# --- what is refused or fails ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $LINE --run-dir ü", 2, "no text in this locale (ascii)"),
        ("$LINE --run-dir $'a\\xff'", 2, "no text in this locale (utf-8): set PYTHONUTF8=1, or rename it"),
        ("mkdir gone && cd gone && rmdir ../gone && $LINE", 1, "the working directory is gone"),
        ("$LINE --runs-root /proc/runs --profile quick", 1, "can't make a run directory in /proc/runs"),
    ],
    ids=["ASCII", "no UTF-8", "no folder", "no place"],
)
def test_what_cant_be_is_told_in_a_line(text: str, code: int, told: str, tmp_path: Path) -> None:
    done = shell(f"cd {tmp_path}; {text}", "run")
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    assert told in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_kernel_that_cant_start_says_why_in_the_log(copy: Path, base: Path) -> None:
    done = shell("$LINE", "analysis", "--run-dir", copy, MPLBACKEND="nonsense")  # with which nothing imports matplotlib
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert f"{ANALYSIS}: its kernel died (" in done.stderr
    assert f"it was of {sys.executable}" in done.stderr
    assert "'nonsense' is not a valid value" in (copy / "log.txt").read_text()
    assert differing(copy, base) == []


def test_a_page_that_cant_be_rendered_is_told_and_its_notebook_kept(copy: Path, base: Path, tmp_path: Path) -> None:
    for kind in ("ipynb", "html"):
        (copy / f"{ANALYSIS}.{kind}").unlink()
    unfit = "import mistune\nmistune.BlockParser.SPECIFICATION = {'no_such_rule': ''}"  # as of another version
    done = shell("$LINE", "run", "--run-dir", copy, **site(tmp_path / "site", unfit))
    assert done.returncode == 1
    assert done.stderr.startswith(f"mlp_lib: {ANALYSIS}.ipynb: kept, but can't be rendered (")
    assert len(done.stderr.splitlines()) == 1
    assert shown(copy) == shown(base)
    assert not (copy / f"{ANALYSIS}.html").exists()
    before = (copy / f"{ANALYSIS}.ipynb").stat().st_mtime_ns
    assert "done before" in succeed("run", "--run-dir", copy)
    assert (copy / f"{ANALYSIS}.html").exists()
    assert (copy / f"{ANALYSIS}.ipynb").stat().st_mtime_ns == before  # it was only rendered


def test_a_notebook_refuses_the_library_of_another_clone(tmp_path: Path) -> None:
    """papermill takes whatever kernel has the name; this one has the mlp_lib of these tests."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "notebooks", clone / "notebooks")
    shutil.copytree(ROOT / "mlp_lib", clone / "mlp_lib")
    notebook, out = clone / "notebooks" / f"{ANALYSIS}.ipynb", tmp_path / "out.ipynb"
    line = line_of("papermill", notebook, out, "-p", "run_dir", tmp_path / "run")
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, env=environment(), cwd=tmp_path)
    assert done.returncode == 1
    refusal = f"this notebook is of {clone}, but its kernel ({sys.executable}) has the mlp_lib of {ROOT}: "
    assert refusal in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_library_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    """Not only that its process died, which it does where the server of all kernels loads it."""
    said = "operator torchvision::nms does not exist"
    package = tmp_path / "site" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise RuntimeError({said!r})")
    one = ("-p", "num_trials", 1, "-p", "max_epochs", 1, "-p", "architectures", "{list: [[4]]}")
    done = shell("$LINE", "search", *one, "--runs-root", tmp_path / "runs", **site(tmp_path / "site", ""))
    assert done.returncode == 1
    assert done.stderr.startswith(f"mlp_lib: 01_search: RuntimeError: {said} (see ")


def test_what_windows_lacks_is_not_needed_to_read_a_run(base: Path, tmp_path: Path) -> None:
    """Every module but the cluster's and jax's, whose own packages ask for more; a network of the run."""
    code = """
import importlib, pkgutil, sys
import mlp_lib
for module in pkgutil.walk_packages(mlp_lib.__path__, "mlp_lib."):
    if module.name not in ("mlp_lib.__main__", "mlp_lib.workers.cluster", "mlp_lib.lab.jax_peer"):
        importlib.import_module(module.name)
print(mlp_lib.load_model(sys.argv[1], "mlp_4", 1)[-1].out_features, sys.modules["fcntl"])
"""
    own = environment() | site(tmp_path / "site", WINDOWS)
    done = subprocess.run([sys.executable, "-c", code, str(base)], capture_output=True, text=True, env=own)
    assert done.stdout == "10 None\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("code", [WINDOWS, NO_LOCKS], ids=["what Windows lacks", "locks"])
def test_what_a_system_lacks_is_not_needed(code: str, copy: Path, base: Path, tmp_path: Path) -> None:
    done = shell("$LINE", "analysis", "--run-dir", copy, **site(tmp_path / "site", code))
    assert done.returncode == 0, done.stderr
    check_analysis(copy, base)


@pytest.mark.slow
def test_a_limit_to_the_size_of_files(copy: Path, base: Path) -> None:
    """One line, and what was there stays as it was."""
    full = shell("ulimit -f 100; $LINE", "analysis", "--run-dir", copy)  # blocks of 1,024 bytes; the page is larger
    assert (full.returncode, len(full.stderr.splitlines())) == (1, 1), full.stderr
    assert str(copy) in full.stderr
    assert differing(copy, base) == []


def test_two_starts_meet_where_the_file_system_has_no_locks(tmp_path: Path) -> None:
    """The first holds the claim, the second is told by whom; a holder that was killed is no obstacle."""
    hold = "import sys, time; from pathlib import Path; from mlp_lib.run.claim import claim\n"
    hold += "with claim(Path(sys.argv[1]), 'the first'):\n    print('held', flush=True)\n    time.sleep(600)"
    own = environment() | site(tmp_path / "site", NO_LOCKS)
    (run_dir := tmp_path / "run").mkdir()
    line = [sys.executable, "-c", hold, str(run_dir)]
    first = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=own)
    assert first.stdout.readline() == "held\n"
    second = subprocess.run(line, capture_output=True, text=True, env=own)
    refusal = f"{run_dir} is in use: the first by process {first.pid} on "
    assert refusal in second.stderr
    assert f"or delete {run_dir / '.lock_marker'} if it is gone" in second.stderr
    first.kill()
    first.wait()
    third = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=own)
    assert third.stdout.readline() == "held\n"
    third.terminate()
    third.wait()
