"""python -m mlp_lib: the command line."""

import argparse
import logging
import signal
import sys
from pathlib import Path
from typing import Any

from mlp_lib import run, status
from mlp_lib.errors import MlpError, SettingsError
from mlp_lib.notebook import ROOT

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
  repeat FILE     the training of one seed again, from its config.yaml; says whether the bits agree (exit code 1: no)
"""
EPILOG = """\
Parameters come from params/*.yaml < --profile < -f < -p. Every parameter is explained there, and by
'papermill --help-notebook notebooks/01_search.ipynb'.

examples:
  python -m mlp_lib run --profile quick                         a small study on embedded data, some 60 s
  python -m mlp_lib run -p num_trials 10 -p device cpu          the default study with fewer trials
  python -m mlp_lib run -p architectures '{list: [[256, 128], [64]]}'
  python -m mlp_lib run --run-dir executed/NAME                 go on where a run was stopped
  python -m mlp_lib run --run-dir executed/NAME -p num_trials 60     ... and add trials

exit codes: 0 done, 1 something failed (one line says what; finished work is kept), 2 wrong parameters, 130 interrupted
"""
ON_A_PATH = ("status", "repeat")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        self.exit(2, f"mlp_lib: {message}; see python -m mlp_lib --help\n")


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "python -m mlp_lib",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    phases = [*run.COMMANDS, *ON_A_PATH]
    parser.add_argument("phase", choices=phases, metavar="PHASE", help=", ".join(phases))
    parser.add_argument("path", nargs="?", metavar="PATH", type=Path, help="of status or repeat")
    parser.add_argument("--profile", metavar="NAME", help="overrides kept in params/NAME.yaml, such as quick")
    parser.add_argument(
        "-f", dest="files", metavar="FILE", action="append", default=[], help="a YAML file of parameters"
    )
    parser.add_argument(
        "-p",
        dest="options",
        metavar=("NAME", "VALUE"),
        nargs=2,
        action="append",
        default=[],
        help="one parameter, as YAML",
    )
    parser.add_argument("--runs-root", metavar="DIR", type=Path, default=ROOT / "executed", help="where runs are kept")
    parser.add_argument("--run-name", metavar="NAME", help="name of the new run; a number is added if it is taken")
    parser.add_argument("--run-dir", metavar="DIR", type=Path, help="an existing run to go on with")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained, and how long it might take")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if (options.path is None) == (options.phase in ON_A_PATH):
        parser.error(f"{options.phase} takes {'a' if options.phase in ON_A_PATH else 'no'} PATH")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if options.phase == "status":
            print(status.describe(options.path))
            return 0
        run.check_run_name(options.run_name)
        merged = run.merge(options.profile, options.files, options.options)
        if options.phase == "repeat":
            return _repeat(options.path, merged)
        if options.dry_run:
            print(run.dry_run(options.phase, merged, options.run_dir))
            return 0
        run_dir = run.execute(options.phase, merged, options.runs_root, options.run_name, options.run_dir)
    except SettingsError as error:
        print(f"mlp_lib: {error}", file=sys.stderr)
        return 2
    except (MlpError, OSError) as error:
        print(f"mlp_lib: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        logging.disable()  # asyncio would tell of the notebook that was given up
        print("\nmlp_lib: interrupted; go on with --run-dir", file=sys.stderr)
        return 130
    print(f"report: {run_dir / 'index.html'}")
    return 0


def _repeat(config: Path, merged: run.Merged) -> int:
    from mlp_lib.repeat import repeat  # loads torch, which takes seconds

    run.check(merged)
    agree, told = repeat(config, merged.values["data_root"], ROOT)
    print(told)
    return 0 if agree else 1


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
