"""The command: merge the parameters, drive the notebooks by papermill, render the reports."""

import argparse
import logging
import os
import re
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from mlp_lib.core.errors import MlpError, SettingsError
from mlp_lib.reports import execute, pages
from mlp_lib.reports.voice import Voice, speaking
from mlp_lib.run import meta
from mlp_lib.run.claim import claim
from mlp_lib.run.files import ROOT, RunFiles, from_repository, make_run_directory, name_run, write_yaml
from mlp_lib.run.meta import continue_run, find_search
from mlp_lib.run.parameters import NAME, NAME_RULE, NOTEBOOK_SETTINGS, PHASES, AnalysisSettings, SearchSettings
from mlp_lib.run.parsing import Merged, check_all, check_device, cut, describe_seeds, merge, own, parse_all, parse_own
from mlp_lib.workers.server import allow_open_files

COMMANDS = {
    "run": ("search", "retrain", "transfer", "analysis"),
    "search": ("search", "retrain"),
    "search_report": ("search_report",),
    "transfer": ("transfer",),
    "analysis": ("analysis",),
    "benchmark": ("benchmark",),
}
_MAKE_A_RUN = ("run", "search", "benchmark")
_HERE = ("device", "data_root", "workers", "scheduler")  # what verify takes from here, and not from the run
_TRAIN = ("run", "search", "transfer")  # the trainings of a study


def execute_phases(
    command: str, merged: Merged, runs_root: Path, run_name: str | None, run_dir: Path | None, voice: Voice
) -> Path:
    """Run the command's notebooks in a new or an existing run directory; the directory.

    Raises MlpError with one clear line if a notebook fails; finished work stays.
    """
    parsed = check(command, merged, run_dir)
    allow_open_files()
    if run_dir is None:
        run_dir = make_run_directory(runs_root, run_name or name_run(parsed["project_name"]))
    files = RunFiles(run_dir)
    if command in _TRAIN:
        meta.check_layout(files)
    with claim(run_dir, command):
        voice.log = files.log.absolute()
        if not files.meta.exists():
            phases = {"benchmark": ("benchmark",), "transfer": ("transfer", "analysis")}.get(command, PHASES)
            parameters = {name: parsed[name] for phase in phases for name in NOTEBOOK_SETTINGS[phase].model_fields}
            if command == "transfer":  # whose search is another run's
                parameters["architectures"] = parsed["architectures"]
            write_yaml(files.meta, meta.read_meta(files) | {"parameters": parameters})
        for line in _describe_start(command, parsed, files):
            print(line)
        always, unrendered = len(COMMANDS[command]) == 1, {}
        try:
            for phase in COMMANDS[command]:
                problem = execute.run_phase(phase, _notebook_parameters(phase, parsed, run_dir), files, always, voice)
                unrendered |= {files.notebook(phase).name: problem} if problem else {}
                pages.write_run_index(run_dir)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"; to go on: {meta.go_on(run_dir, command)}") from None
    _end(run_dir, runs_root, unrendered)
    return run_dir


def check(command: str, merged: Merged, run_dir: Path | None) -> dict[str, Any]:
    """The parameters of all phases; SettingsError at the first thing that one of the command's phases would refuse."""
    if run_dir is not None:
        merged = continue_run(run_dir, merged)
    trains = command in (*_TRAIN, "benchmark")
    parsed = (check_all if trains else parse_all)(merged)
    if parsed["parts"] != "all":
        raise SettingsError(f"{merged.where['parts']}: parts = 'search': the command search_report makes that part")
    if trains:
        check_device(parsed, merged.where)
    if run_dir is not None:
        _check_taken(command, merged, meta.read_meta(RunFiles(run_dir))["parameters"], parsed)
    if command == "transfer" and (name := parsed["search_dir"]):
        of_defaults = merged.where["architectures"].startswith("params/")  # else they are the run's
        if of_defaults and "architectures" not in merged.given:
            parsed["architectures"] = meta.read_meta(find_search(name))["parameters"]["architectures"]
    elif run_dir is None and command not in _MAKE_A_RUN:
        raise SettingsError(f"{command}: needs --run-dir, the run whose results it reads")
    meta.check_runs(COMMANDS[command], parsed, merged.where, run_dir)
    return parsed


def _check_taken(command: str, merged: Merged, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """SettingsError for a parameter that would change the run, and that none of the command's phases takes."""
    taken = {n for phase in COMMANDS[command] for n in NOTEBOOK_SETTINGS.get(phase, AnalysisSettings).model_fields}
    for name in sorted(merged.given - taken & stored.keys()):
        if meta.changed({name: stored[name]}, now):
            raise SettingsError(f"{merged.where[name]}: {command} takes no {name}; run --run-dir does")


def _describe_start(command: str, parsed: dict[str, Any], files: RunFiles) -> list[str]:
    """What is to be said of a run and of what is asked of it, before its first phase."""
    seeds = describe_seeds(parsed) if command in _TRAIN else ""
    return [*([seeds] if seeds else []), *meta.describe_losses(files)]


def render(run_dir: Path, runs_root: Path, voice: Voice) -> None:
    """The pages of a run anew: of the notebooks that it keeps, of those that a finished phase lacks, and the indexes.

    A run by hand or by papermill keeps none: they are executed here on what is finished, which trains nothing.
    """
    files, unrendered = RunFiles(run_dir), {}
    meta.read_there(files)
    with claim(run_dir, "render"):
        known = meta.read_meta(files)
        for phase in (*meta.phases_of(known), "search_report"):
            problem = None
            if files.notebook(phase).exists():
                problem = execute.render(files.notebook(phase), files.page(phase))
                print(f"{files.notebook(phase).stem}: {'not ' * bool(problem)}rendered")
            elif phase == "benchmark":
                print("05_benchmark: no notebook is kept, and to execute one would measure again")
            elif phase != "search_report" and meta.is_whole(files, phase, known):
                parsed = parse_all(continue_run(run_dir, merge(None, [], [("scheduler", "null")])))
                problem = execute.run_phase(phase, _notebook_parameters(phase, parsed, run_dir), files, True, voice)
            unrendered |= {files.notebook(phase).name: problem} if problem else {}
        pages.write_run_index(run_dir)
    _end(run_dir, runs_root, unrendered)
    print(f"report: {files.index}")


def _end(run_dir: Path, runs_root: Path, unrendered: dict[str, str]) -> None:
    """Bring the list of runs up to date; MlpError if a notebook could not be rendered."""
    pages.list_run(run_dir, runs_root)
    if unrendered:
        raise MlpError(
            f"{', '.join(unrendered)}: kept, but can't be rendered ({min(unrendered.values())}); "
            f"once that is mended, render {run_dir} does it"
        )


def _notebook_parameters(phase: str, parsed: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """What the phase's notebook is given: the search's report is a part of the analysis; paths are from the root."""
    given = own(NOTEBOOK_SETTINGS.get(phase, AnalysisSettings), parsed)
    part = {"parts": "search"} if phase == "search_report" else {}
    return {**given, **part, "run_dir": from_repository(run_dir)}


def dry_run(command: str, merged: Merged, run_dir: Path | None) -> str:
    """What the command would train: trainings in all, how many are new, and an estimate of the time."""
    parsed = check(command, merged, run_dir)
    if command == "benchmark":
        number = parsed["benchmark_rounds"] * len(parsed["benchmark_cases"]) * len(parsed["benchmark_methods"])
        return f"benchmark: {number} measurements of some three seconds"
    if command not in _TRAIN:
        return "nothing to train"
    from mlp_lib.reports.session import open_study  # these load torch, which takes seconds
    from mlp_lib.study import estimate
    from mlp_lib.workers.units import time_epoch

    files = RunFiles(run_dir or Path("does-not-exist"))
    settings = parse_own(SearchSettings, parsed, "the parameters")
    study, dataset = open_study(settings, files, settings.architectures.architectures)
    timed = partial(time_epoch, dataset=dataset, settings=settings)
    plan = estimate.describe(COMMANDS[command], parsed, study, len(dataset.train.labels), timed)
    return "\n".join([*_describe_start(command, parsed, files), plan])


DESCRIPTION = """\
Do tuned hyperparameters transfer between architectures, and once tuned, does the architecture matter?
Trains multilayer perceptrons and answers with evidence.

phases:
  run             the whole study: search, retraining, transfer, analysis
  search          hyperparameter search (01) and retraining with fresh seeds (02)
  search_report   the analysis' part on the search, from what is on disk; trains nothing
  transfer        every architecture with every other's hyperparameters (03)
  analysis        the two answers (04), from what is on disk; trains nothing
  benchmark       how fast populations train, against what else there is (05), in a directory of its own

and on what there is:
  status RUN      what each phase of a run has come to
  render RUN      its pages: of the notebooks that it keeps, and of finished phases that left none (by hand, papermill)
  repeat FILE     the training of one seed again, from its config.yaml; says whether the bits agree (exit code 1: no)
  verify RUN      --sample trainings of a run again, drawn at random; says whether they agree (exit code 1: not all)
"""
EPILOG = """\
Parameters come from params/*.yaml < --profile < -f < -p. Every parameter is explained there, in
docs/parameters.md, and by 'papermill --help-notebook notebooks/01_search.ipynb'.

examples:
  python -m mlp_lib run --profile quick                         a small study on embedded data, a minute
  python -m mlp_lib run -p num_trials 10 -p device cpu          the default study with fewer trials
  python -m mlp_lib run -p architectures '{list: [[256, 128], [64]]}'
  python -m mlp_lib run --run-dir executed/NAME                 go on where a run was stopped
  python -m mlp_lib run --run-dir executed/NAME -p num_trials 60     ... and add trials

exit codes: 0 done, 1 something failed (one line says what; finished work is kept), 2 wrong parameters, 130 interrupted
"""
ON_A_PATH = ("status", "render", "repeat", "verify")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        self.exit(2, f"mlp_lib: {message}; see python -m mlp_lib --help\n")


def make_parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        "python -m mlp_lib", description=DESCRIPTION, epilog=EPILOG, formatter_class=raw, allow_abbrev=False
    )
    phases = [*COMMANDS, *ON_A_PATH]
    parser.add_argument("phase", choices=phases, metavar="PHASE", help=", ".join(phases))
    parser.add_argument("path", nargs="?", metavar="PATH", type=Path, help="of status, render, repeat or verify")
    parser.add_argument("--profile", metavar="NAME", help="overrides kept in params/NAME.yaml, such as quick")
    many = {"action": "append", "default": []}
    parser.add_argument("-f", dest="files", metavar="FILE", help="a YAML file of parameters", **many)
    parser.add_argument("-p", dest="options", metavar=("NAME", "VALUE"), nargs=2, help="one parameter, as YAML", **many)
    parser.add_argument(
        "--runs-root", metavar="DIR", type=Path, default=ROOT / "executed", help="where runs are kept: executed"
    )
    parser.add_argument("--run-name", metavar="NAME", help="name of the new run; a number is added if it is taken")
    parser.add_argument("--run-dir", metavar="DIR", type=Path, help="an existing run to go on with")
    parser.add_argument("--sample", metavar="N", type=int, default=20, help="how many trainings verify draws (20)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained, and how long it might take")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    with speaking() as voice:
        return _run(arguments, voice)


def _run(arguments: list[str] | None, voice: Voice) -> int:
    parser = make_parser()
    options = parser.parse_args(arguments)
    if (options.path is None) == (options.phase in ON_A_PATH):
        parser.error(f"{options.phase} takes {'a' if options.phase in ON_A_PATH else 'no'} PATH")
    if options.run_name and options.run_dir:
        parser.error("--run-name names a new run, --run-dir an existing one: give one of them")
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows has no hang-up
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a hang-up under nohup
            signal.signal(number, signal.default_int_handler)  # which raises KeyboardInterrupt
    try:
        _check_text(sys.argv[1:] if arguments is None else arguments)
        if options.phase == "status":
            print(pages.describe_status(options.path))
            return 0
        _check_run_name(options.run_name)
        merged = merge(options.profile, options.files, options.options)
        if options.phase in ("repeat", "verify"):
            agree, told = _train_again(options, merged)
            print(told)
            return 0 if agree else 1
        if options.phase == "render":
            render(options.path, options.runs_root, voice)
            return 0
        if options.dry_run:
            print(dry_run(options.phase, merged, options.run_dir))
            return 0
        run_dir = execute_phases(options.phase, merged, options.runs_root, options.run_name, options.run_dir, voice)
    except SettingsError as error:
        print(f"mlp_lib: {error}", file=sys.stderr)
        return 2
    except (MlpError, OSError) as error:
        print(f"mlp_lib: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        logging.disable()  # asyncio would tell of the notebook that was given up
        print(f"\nmlp_lib: interrupted{error}", file=sys.stderr)
        return 130
    print(f"report: {run_dir / 'index.html'}")
    return 0


def _check_run_name(name: str | None) -> None:
    if name is not None and not re.fullmatch(NAME, name):
        raise SettingsError(f"--run-name {cut(repr(name))}: should be {NAME_RULE}")


def _check_text(arguments: list[str]) -> None:
    """MlpError unless what paths may come from is text, which files in UTF-8 can hold."""
    try:
        "".join([os.getcwd(), *arguments]).encode()
    except FileNotFoundError:
        raise MlpError("the working directory is gone: cd to one that is there") from None
    except UnicodeEncodeError:
        raise SettingsError(
            f"an argument or the working directory is no text in this locale ({sys.getfilesystemencoding()}): "
            "set PYTHONUTF8=1, or rename it"
        ) from None


def _train_again(options: argparse.Namespace, merged: Merged) -> tuple[bool, str]:
    """What `repeat` and `verify` come to: whether all agrees, and a report."""
    from mlp_lib.reports.session import open_study  # these load torch, which takes seconds
    from mlp_lib.study.repeat import repeat
    from mlp_lib.study.verify import verify

    if options.sample < 1:
        raise SettingsError(f"--sample {options.sample}: should be 1 or more")
    check_all(merged)
    if options.phase == "repeat":
        return repeat(options.path, merged.values["data_root"])
    files, here = RunFiles(options.path), {name: merged.values[name] for name in _HERE}
    settings = parse_own(SearchSettings, meta.read_there(files)["parameters"] | here, str(files.meta))
    study, _ = open_study(settings, files, meta.read_architectures(files))
    return verify(study, options.sample, merged.values["analysis_seed"])


if __name__ == "__main__":
    sys.exit(main())
