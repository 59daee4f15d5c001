"""Search, retraining and transfer: which trainings are missing on disk, and what is written when they are done."""

import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mlp_lib.core.errors import TrainingError
from mlp_lib.core.network import to_sequential
from mlp_lib.core.streams import Stream, sequence
from mlp_lib.core.training import COMPLETED
from mlp_lib.core.values import CLASSES, HYPERPARAMETERS, Architecture, Hyperparameters
from mlp_lib.evidence import summaries
from mlp_lib.figures import curves as curve_figures
from mlp_lib.figures import effects as effect_figures
from mlp_lib.figures import losses as loss_figures
from mlp_lib.run.claim import claim
from mlp_lib.run.files import (
    ArchitectureFiles,
    RunFiles,
    read_table,
    read_yaml,
    write_bytes,
    write_figure,
    write_table,
    write_yaml,
)
from mlp_lib.run.parameters import RetrainSettings, SearchSettings, TransferSettings
from mlp_lib.study.draws import draw_trials, rung_epochs, survivors
from mlp_lib.study.sources import Sources, read_best, read_sources
from mlp_lib.study.study import RESULT, Study, extended
from mlp_lib.workers.units import Result, Unit

# --- search ---------------------------------------------------------------------------------------------------------


def search(study: Study) -> pd.DataFrame:
    """Train the trials that are not on disk; all of them, a row a trial (search_results.csv with `architecture`).

    Raises TrainingError if every trial of an architecture diverged.
    """
    top, rungs = 0, _rungs(study.settings)
    with claim(study.files.root, "search"):
        for rung, epochs in enumerate(rungs):
            shorter = replace(study, settings=study.settings.model_copy(update={"max_epochs": epochs}))
            what = f"search, rung {rung + 1} of {len(rungs)}" if len(rungs) > 1 else "search"
            more = rung + 1 < len(rungs)
            for unit, result in shorter.train(missing_trials(study, rung), what, to_be_continued=more):
                _record_trials(study.files.architecture(unit.architecture), unit, result, max(1, top))
        if len(rungs) > 1:
            _record_rungs(study, rungs)
        winners = reevaluate(study, top) if top else {}
        tables = [_finish_search(study.files.architecture(a), a, winners.get(a)) for a in study.architectures]
    return pd.concat(tables, ignore_index=True)


def missing_trials(study: Study, rung: int = 0) -> list[Unit]:
    """The trials of the settings that are not on disk, as units; of a later rung those that go on and have yet to."""
    settings: SearchSettings = study.settings
    units = []
    for architecture in study.architectures:
        key = None if settings.same_trials_for_all_architectures else architecture
        sobol = settings.search_method == "sobol"
        draws = draw_trials(settings.search_space, settings.num_trials, settings.search_seed, key, sobol)
        trials = _trials_to_train(study, architecture, rung)
        hyperparameters = [draws[trial] for trial in trials]
        seeds = [settings.training_seed] * len(trials)
        units += study.split(architecture, hyperparameters, seeds, trials)
    return units


def _trials_to_train(study: Study, architecture: Architecture, rung: int) -> list[int]:
    settings, files = study.settings, study.files.architecture(architecture)
    if rung == 0:
        done = set(read_table(files.results)["trial"]) if files.results.exists() else set()
        return [trial for trial in range(settings.num_trials) if trial not in done]
    results, epochs = read_table(files.results), _rungs(settings)
    going_on = results["trial"].isin(survivors(results, read_table(files.curves), epochs)[rung])
    cut = results["epochs_trained"] == epochs[rung - 1]  # else it stopped by itself, or has gone on already
    stale = results["epochs_trained"] - results["best_epoch"] >= settings.patience * settings.val_interval
    unfinished = going_on & cut & ~stale.astype(bool) & (results["status"] == COMPLETED)
    return results.loc[unfinished, "trial"].tolist() if epochs[rung] > epochs[rung - 1] else []


def _rungs(settings: SearchSettings) -> list[int]:
    """The most epochs of a trial by rung; one rung where nothing is halved."""
    if settings.search_method != "successive_halving":
        return [settings.max_epochs]
    return rung_epochs(settings.num_trials, settings.max_epochs, settings.val_interval)


def _record_rungs(study: Study, epochs: list[int]) -> None:
    """Write into search_results.csv the last rung (from 0) that each trial took part in."""
    for architecture in study.architectures:
        files = study.files.architecture(architecture)
        results = read_table(files.results)
        rungs = survivors(results, read_table(files.curves), epochs)
        last = {trial: rung for rung, trials in enumerate(rungs) for trial in trials}
        write_table(files.results, results.assign(rung=results["trial"].map(last)))


def _record_trials(files: ArchitectureFiles, unit: Unit, result: Result, candidates: int) -> None:
    """Add the unit's trials to the tables; search_results.csv, which says what is done, comes last."""
    draws = pd.DataFrame([h.model_dump() for h in unit.hyperparameters])
    rows = pd.concat([pd.Series(unit.labels, name="trial"), draws, result.rows], axis=1)
    rows = rows[["trial", *HYPERPARAMETERS, *RESULT]]
    curves = result.history.assign(trial=[unit.labels[member] for member in result.history["member"]])
    checks = curves[curves["val_loss"].notna()][["trial", "epoch", "train_loss", "val_loss"]]
    results = extended(files.results, rows, ["trial"])
    keep_candidates(files, results, curves, candidates)
    write_table(files.curves, extended(files.curves, checks, ["trial", "epoch"]))
    write_table(files.results, results)


def _finish_search(files: ArchitectureFiles, architecture: Architecture, winner: int | None) -> pd.DataFrame:
    """Name the winner: the trial of lowest validation loss, or the one that reevaluation found."""
    results = read_table(files.results)
    best = summaries.best_trial(results if winner is None else results[results["trial"] == winner])
    if best is None:
        raise TrainingError(
            f"all {len(results)} trials of {architecture.name} diverged: no hyperparameters to choose; "
            "lower the learning rates in search_space or add trials"
        )
    candidate = files.candidate(int(best["trial"]))
    if candidate.exists():
        write_bytes(files.metrics, candidate.read_bytes())
        if winner is None:  # nothing but the metrics of the best trial is kept then
            candidate.unlink()
    write_figure(files.loss_curve, curve_figures.loss_curve(read_table(files.metrics)))
    chosen = {name: float(best[name]) for name in HYPERPARAMETERS}
    found = {name: float(best[name]) for name in ("val_loss", "val_accuracy", "test_loss", "test_accuracy")}
    write_yaml(
        files.best,
        {
            "architecture": list(architecture.widths),
            "trial": int(best["trial"]),
            "num_trials": len(results),
            "hyperparameters": chosen,
            "best_epoch": int(best["best_epoch"]),
            **found,
        },
    )
    results = results.assign(chosen=results["trial"] == best["trial"], architecture=architecture.name)
    return results[["architecture", *results.columns.drop("architecture")]]


def read_curves(study: Study) -> pd.DataFrame:
    """learning_curves.csv of all architectures with the column `architecture`."""
    tables = [read_table(study.files.architecture(a).curves).assign(architecture=a.name) for a in study.architectures]
    return pd.concat(tables, ignore_index=True)


# --- retraining -----------------------------------------------------------------------------------------------------


def retrain(study: Study) -> pd.DataFrame:
    """Train the chosen hyperparameters with the retrain seeds that are not on disk; a row a training.

    Columns: architecture, seed, status, test_loss, test_accuracy, val_loss, best_epoch.
    """
    settings: RetrainSettings = study.settings
    with claim(study.files.root, "retraining"):
        for unit, result in study.train(missing_seeds(study), "retraining", keep_weights=settings.save_checkpoints):
            for member in range(len(unit.labels)):
                _record_training(study, unit, result, member)
        tables = [_finish_retraining(study, architecture) for architecture in study.architectures]
        write_summaries(study.files, study.architectures, study.inputs)
    return pd.concat(tables, ignore_index=True)


def missing_seeds(study: Study) -> list[Unit]:
    """The retrainings of the settings that are not on disk, as units."""
    settings: RetrainSettings = study.settings
    units = []
    for architecture in study.architectures:
        files = study.files.architecture(architecture)
        best = read_best(files)
        seeds = [seed for seed in settings.retrain_seeds if _read_training(files.config(seed), best) is None]
        units += study.split(architecture, [best] * len(seeds), seeds, seeds)
    return units


def _read_training(path: Path, hyperparameters: Hyperparameters) -> dict[str, Any] | None:
    """A retraining's config, if it is on disk and was made with these hyperparameters."""
    config = read_yaml(path) if path.exists() else None
    return config if config and config["hyperparameters"] == hyperparameters.model_dump() else None


def _record_training(study: Study, unit: Unit, result: Result, member: int) -> None:
    """Write a retraining's checkpoint, then its config, which says that it is done."""
    files, seed = study.files.architecture(unit.architecture), unit.seeds[member]
    hyperparameters = unit.hyperparameters[member]
    row = result.rows.iloc[member]
    files.model(seed).unlink(missing_ok=True)  # of other hyperparameters, if there is one
    if result.weights is not None and row["status"] == COMPLETED:
        weights = [torch.from_numpy(weight[member]) for weight in result.weights]
        buffer = io.BytesIO()
        torch.save(to_sequential(unit.architecture, weights, hyperparameters).state_dict(), buffer)
        write_bytes(files.model(seed), buffer.getvalue())
    config = {
        "architecture": list(unit.architecture.widths),
        "hyperparameters": hyperparameters.model_dump(),
        "seed": seed,
        **study.context(),
        "result": {name: _plain(row[name]) for name in RESULT},
    }
    write_yaml(files.config(seed), config)


def _plain(value: Any) -> Any:
    """A table's cell as YAML knows it; missing is null."""
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _finish_retraining(study: Study, architecture: Architecture) -> pd.DataFrame:
    settings: RetrainSettings = study.settings
    files = study.files.architecture(architecture)
    results = [read_yaml(files.config(seed))["result"] for seed in sorted(settings.retrain_seeds)]
    table = pd.DataFrame(results).assign(seed=sorted(settings.retrain_seeds))
    table = table.astype({"test_loss": float, "test_accuracy": float, "val_loss": float, "best_epoch": "Int64"})
    table = table[["seed", "status", "test_loss", "test_accuracy", "val_loss", "best_epoch"]]
    write_table(files.seed_losses, table)
    return table.assign(architecture=architecture.name)[["architecture", *table.columns]]


def write_summaries(files: RunFiles, architectures: Iterable[Architecture], inputs: int) -> None:
    """The tables and the figure over all architectures, from each one's seed_losses.csv."""
    tables, summary = [], {}
    for architecture in architectures:
        table = read_table(files.architecture(architecture).seed_losses)
        tables.append(table.assign(architecture=architecture.name))
    losses = pd.concat(tables)[["architecture", "seed", "test_loss", "test_accuracy"]]
    stats = summaries.summarize(losses, ["architecture"])
    for architecture, row in zip(architectures, stats.to_dict("records"), strict=True):
        entry = {name: _plain(row[name]) for name in ("n", "mean", "var", "min", "max", "mean_accuracy")}
        write_yaml(files.architecture(architecture).summary, {"test_loss": entry})
        best = read_yaml(files.architecture(architecture).best)
        summary[architecture.name] = {
            "parameters": architecture.count_parameters(inputs, CLASSES),
            "best_trial": best["trial"],
            "hyperparameters": best["hyperparameters"],
            "test_loss": entry,
        }
    counts = [architecture.count_parameters(inputs, CLASSES) for architecture in architectures]
    stats.insert(1, "parameters", counts)
    write_yaml(files.summary, summary)
    write_table(files.seed_losses, losses)
    write_table(files.stats, stats)
    write_figure(files.distribution, loss_figures.loss_distribution(losses))


# --- transfer -------------------------------------------------------------------------------------------------------


def transfer(study: Study, source_files: RunFiles) -> pd.DataFrame:
    """Train every target with every source's hyperparameters (see read_sources); a row a (target, source, seed).

    Columns: target, source, seed, status, test_loss, test_accuracy, reused. Sources with equal hyperparameters share
    their trainings; a retraining of this run that is the same training is reused.
    """
    sources = read_sources(study, source_files)
    with claim(study.files.root, "transfer"):
        reusable = _reusable_retrainings(study)
        for unit, result in study.train(missing_pairs(study, sources, reusable), "transfer"):
            _record_pairs(study, unit, result)
        _drop_unused(study, sources, reusable)
        losses = _transfer_losses(study, sources, reusable)
        rows = [{"target": t, "source": s, **h.model_dump()} for t, row in sources.items() for s, h in row.items()]
        write_table(study.files.sources, pd.DataFrame(rows))
        _write_transfer(study.files, losses)
    return losses


def missing_pairs(study: Study, sources: Sources, reusable: pd.DataFrame) -> list[Unit]:
    """The trainings (target, hyperparameters, seed) that are neither on disk nor reusable, as units.

    On a CPU those of one seed, whose draws serve all members; a CUDA device is fed best by all seeds together.
    """
    settings: TransferSettings = study.settings
    done = set(_keys(_read_trainings(study))) | set(_keys(reusable))
    together = [settings.transfer_seeds] if study.device == "cuda" else [[seed] for seed in settings.transfer_seeds]
    units = []
    for target in study.architectures:
        vectors = list(dict.fromkeys(sources[target.name].values()))
        for seeds in together:
            pairs = [(h, s) for s in seeds for h in vectors if (target.name, s, *h.model_dump().values()) not in done]
            units += study.split(target, [h for h, _ in pairs], [s for _, s in pairs], list(range(len(pairs))))
    return units


def _keys(trainings: pd.DataFrame) -> list[tuple]:
    return list(trainings[["target", "seed", *HYPERPARAMETERS]].itertuples(index=False, name=None))


def _read_trainings(study: Study) -> pd.DataFrame:
    """trainings.csv: a row a distinct training of the transfer."""
    if study.files.trainings.exists():
        return read_table(study.files.trainings)
    return pd.DataFrame(columns=["target", "seed", *HYPERPARAMETERS, *RESULT])


def _record_pairs(study: Study, unit: Unit, result: Result) -> None:
    coordinates = pd.DataFrame([h.model_dump() for h in unit.hyperparameters])
    coordinates.insert(0, "seed", list(unit.seeds))
    coordinates.insert(0, "target", unit.architecture.name)
    rows = pd.concat([coordinates, result.rows], axis=1)
    rows = rows[["target", "seed", *HYPERPARAMETERS, *RESULT]]
    write_table(study.files.trainings, extended(study.files.trainings, rows, ["target", "seed", *HYPERPARAMETERS]))


def _drop_unused(study: Study, sources: Sources, reusable: pd.DataFrame) -> None:
    """Leave in trainings.csv what this transfer uses: a run that grew may have chosen or retrained anew."""
    trainings = _read_trainings(study)
    wanted = {(target, *h.model_dump().values()) for target, row in sources.items() for h in row.values()}
    retrained = set(_keys(reusable))
    used = [(key[0], *key[2:]) in wanted and key not in retrained for key in _keys(trainings)]
    if not all(used):
        write_table(study.files.trainings, trainings[used])


def _reusable_retrainings(study: Study) -> pd.DataFrame:
    """This run's retrainings made under the same context, as rows of trainings.csv."""
    context, rows = study.context(), []
    if study.settings.mixed_devices:
        del context["device"], context["torch"]
    for architecture in study.architectures:
        files = study.files.architecture(architecture)
        for seed in study.settings.transfer_seeds:
            path = files.config(seed)
            config = read_yaml(path) if path.exists() else None
            if config and all(config[name] == value for name, value in context.items()):
                rows.append(
                    {"target": architecture.name, "seed": seed, **config["hyperparameters"], **config["result"]}
                )
    return pd.DataFrame(rows, columns=["target", "seed", *HYPERPARAMETERS, *RESULT])


def _transfer_losses(study: Study, sources: Sources, reusable: pd.DataFrame) -> pd.DataFrame:
    trainings = pd.concat(
        [table for table in (reusable.assign(reused=True), _read_trainings(study).assign(reused=False)) if len(table)]
    ).drop_duplicates(["target", "seed", *HYPERPARAMETERS])
    pairs = pd.DataFrame(
        {"target": target.name, "source": source, "seed": seed, **h.model_dump()}
        for target in study.architectures
        for source, h in sources[target.name].items()
        for seed in sorted(study.settings.transfer_seeds)
    )
    trainings = trainings.astype({"seed": "int64", "test_loss": float, "test_accuracy": float})
    losses = pairs.merge(trainings, on=["target", "seed", *HYPERPARAMETERS], how="left", validate="many_to_one")
    return losses[["target", "source", "seed", "status", "test_loss", "test_accuracy", "reused"]]


def _write_transfer(files: RunFiles, losses: pd.DataFrame) -> None:
    regret, relative = summaries.regret_matrix(losses), summaries.relative_regret_matrix(losses)
    write_table(files.transfer_losses, losses)
    write_table(files.transfer_results, summaries.summarize(losses, ["target", "source"]))
    write_table(files.regret, regret, index=True)
    write_table(files.relative_regret, relative, index=True)
    write_figure(files.transfer_figure, loss_figures.transfer_losses(losses))
    title = "Regret of using another architecture's hyperparameters"
    write_figure(files.regret_figure, effect_figures.heatmap(regret, title, 0.0, "regret (nats an example)"))
    title = "Test loss with another architecture's hyperparameters, relative to the target's own"
    write_figure(files.relative_regret_figure, effect_figures.heatmap(relative, title, 1.0, "transferred / own"))


_SEEDS = 3  # fresh run seeds a candidate
_METRICS = ["epoch", "train_loss", "val_loss", "val_accuracy"]
_COLUMNS = ["trial", "seed", "status", "best_epoch", "epochs_trained", "val_loss", "val_accuracy"]


def fresh_seeds(search_seed: int) -> list[int]:
    """Run seeds that no one gave: 32-bit words of the search seed's own stream."""
    return [int(word) for word in sequence(search_seed, Stream.REEVALUATION).generate_state(_SEEDS)]


def best_trials(results: pd.DataFrame, number: int) -> list[int]:
    """The completed trials of lowest validation loss, the best first (ties: the lowest number)."""
    finite = results[results["status"] == COMPLETED].sort_values(["val_loss", "trial"])
    return [int(trial) for trial in finite["trial"].head(number)]


def keep_candidates(files: ArchitectureFiles, results: pd.DataFrame, curves: pd.DataFrame, number: int) -> None:
    """Write the metrics of each epoch for the candidates among `curves` (trial and the columns of metrics.csv)."""
    candidates = best_trials(results, number)
    for trial in set(candidates) & set(curves["trial"]):
        write_table(files.candidate(trial), curves.loc[curves["trial"] == trial, _METRICS])
    for path in files.candidates():
        if path not in [files.candidate(trial) for trial in candidates]:
            path.unlink()


def reevaluate(study: Study, number: int) -> dict[Architecture, int]:
    """The winner of each architecture: of its `number` best trials the one of lowest mean validation loss over fresh
    run seeds (ties: the lowest number). An architecture whose candidates all diverge in some seed has none.
    """
    settings: SearchSettings = study.settings
    seeds = fresh_seeds(settings.search_seed)
    units = [unit for architecture in study.architectures for unit in _missing(study, architecture, number, seeds)]
    for unit, result in study.train(units, "reevaluation"):
        rows = result.rows.assign(trial=unit.labels, seed=unit.seeds)[_COLUMNS]
        path = study.files.architecture(unit.architecture).reevaluation
        write_table(path, extended(path, rows, ["trial", "seed"]))
    winners = {}
    for architecture in study.architectures:
        files = study.files.architecture(architecture)
        table = read_table(files.reevaluation)
        table = table[table["trial"].isin(best_trials(read_table(files.results), number))]
        means = table.groupby("trial")["val_loss"].agg(["mean", "count"]).query(f"count == {_SEEDS}")["mean"]
        if len(means):
            winners[architecture] = int(means.idxmin())
    return winners


def _missing(study: Study, architecture: Architecture, number: int, seeds: list[int]) -> list[Unit]:
    files = study.files.architecture(architecture)
    results = read_table(files.results).set_index("trial")
    done = set()
    if files.reevaluation.exists():
        done = set(read_table(files.reevaluation)[["trial", "seed"]].itertuples(index=False, name=None))
    units = []
    for seed in seeds:
        trials = [t for t in best_trials(results.reset_index(), number) if (t, seed) not in done]
        vectors = [Hyperparameters(**{h: float(results.loc[t, h]) for h in HYPERPARAMETERS}) for t in trials]
        units += study.split(architecture, vectors, [seed] * len(trials), trials)
    return units
