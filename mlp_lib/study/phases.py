"""Search, retraining and transfer: what each wants trained, and the views of the ledger that it writes at its end."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from mlp_lib.core.errors import TrainingError
from mlp_lib.core.network import to_sequential
from mlp_lib.core.values import COMPLETED, DIVERGED, HYPERPARAMETERS, NOT_TRAINED, Architecture
from mlp_lib.evidence import contenders, find_budget, summaries
from mlp_lib.run.claim import claim
from mlp_lib.run.files import (
    ArchitectureFiles,
    RunFiles,
    append_table,
    plain,
    read_image_losses,
    read_of_all,
    read_table,
    read_yaml,
    write_bytes,
    write_table,
    write_yaml,
)
from mlp_lib.run.ledger import RESULT, keys, missing, wanted_of
from mlp_lib.run.meta import read_meta
from mlp_lib.run.parameters import RetrainSettings, SearchSettings
from mlp_lib.run.parsing import no_pool, parse
from mlp_lib.run.recipe import Key, Recipe, Recorded, Wanted
from mlp_lib.study.draws import draw_trials, grid_trials, rung_epochs, survivors
from mlp_lib.study.sources import Chosen, Sources, make_sources, pool_vectors, read_best, read_trials
from mlp_lib.study.study import Study
from mlp_lib.workers.jobs import Result, Unit

# --- search ---------------------------------------------------------------------------------------------------------

_METRICS = ["epoch", "train_loss", "val_loss", "val_accuracy"]


def search(study: Study) -> pd.DataFrame:
    """Train the trials that are not on disk; all of them (see read_trials).

    Raises TrainingError if every trial of an architecture diverged.
    """
    rungs = _rungs(study.settings)
    with claim(study.files.root, "search"):
        for rung, epochs in enumerate(rungs):
            shorter = replace(study, settings=study.settings.model_copy(update={"max_epochs": epochs}))
            what = f"search, rung {rung + 1} of {len(rungs)}" if len(rungs) > 1 else "search"
            wanted = missing_trials(study, rung)
            for unit, result in shorter.train(wanted, what, to_be_continued=rung + 1 < len(rungs)):
                _keep_curves(study, unit, result)
                study.record("search", unit, result)
        rows = study.close("search", wanted_trials(study))
        for architecture in study.architectures:
            _write_results(study, architecture, rows, rungs)
        for architecture in study.architectures:
            _choose(study, architecture)
    return read_trials(study.files, study.architectures)


def wanted_trials(study: Study) -> list[Wanted]:
    """All trials of the settings."""
    settings: SearchSettings = study.settings
    wanted, grid = [], settings.search_method == "grid"
    for architecture in study.architectures:
        if grid:
            draws = grid_trials(settings.search_space, settings.grid_points)
        else:
            key = None if settings.same_trials_for_all_architectures else architecture
            sobol = settings.search_method == "sobol"
            draws = draw_trials(settings.search_space, settings.num_trials, settings.search_seed, key, sobol)
        wanted += [Wanted(architecture, h, seed, i) for seed in settings.trial_seeds for i, h in enumerate(draws)]
    return wanted


def missing_trials(study: Study, rung: int = 0) -> list[Wanted]:
    """The trials that are not on disk with their curves; of a later rung those of its trials that have yet to go on."""
    settings: SearchSettings = study.settings
    wanted, rows, epochs = wanted_trials(study), study.trainings("search"), _rungs(settings)
    if rung:
        of_rung = {a: _rungs_of(study, a, rows, epochs)[rung] for a in study.architectures}
        wanted = [one for one in wanted if one.trial in of_rung[one.architecture]]
    stale = rows["epochs_trained"] - rows["best_epoch"] >= settings.patience * settings.val_interval
    ended = (rows["status"] == DIVERGED) | stale.fillna(False).astype(bool) | (rows["epochs_trained"] >= epochs[rung])
    return missing(wanted, rows[ended & ~_without_curves(study, rows)])


def left_trials(study: Study) -> list[Wanted]:
    """The missing trials of the first rung that isn't whole."""
    return next(filter(None, (missing_trials(study, rung) for rung in range(len(_rungs(study.settings))))), [])


def _without_curves(study: Study, rows: pd.DataFrame) -> pd.Series:
    """Which of the search's rows have to be trained again for their curves, of the best trial also for its metrics."""
    lost, grid = pd.Series(False, rows.index), study.settings.search_method == "grid"  # metrics read off the curves
    for architecture in study.architectures:
        files, own = study.files.architecture(architecture), rows[rows["architecture"] == architecture.name]
        if not files.curves.exists():
            lost[own.index] = True
        elif not grid and not files.metrics.exists() and (best := _best_trial(own, files)) is not None:
            kept = read_table(files.epochs)["trial"] if files.epochs.exists() else []
            lost[best.name] = best["trial"] not in set(kept)
    return lost


def _rungs(settings: SearchSettings) -> list[int]:
    """The most epochs of a trial by rung; one rung where nothing is halved."""
    if settings.search_method != "successive_halving":
        return [settings.max_epochs]
    return rung_epochs(settings.num_trials, settings.max_epochs, settings.val_interval)


def _rungs_of(study: Study, architecture: Architecture, rows: pd.DataFrame, epochs: list[int]) -> list[list[int]]:
    """The trials of each rung; rows: the search's."""
    results = rows[rows["architecture"] == architecture.name].sort_values("trial")
    return survivors(results, read_table(study.files.architecture(architecture).curves), epochs)


def _keep_curves(study: Study, unit: Unit, result: Result) -> None:
    """Add the epochs of a unit's trials to the files; of a trial that comes again the last ones count.

    A grid that grows by seeds may choose a trial of before: all that is kept of one is its learning curve.
    """
    files, members = study.files.architecture(unit.architecture), result.history["member"]
    own = {"trial": [unit.trials[i] for i in members], "seed": [unit.seeds[i] for i in members]}
    epochs = pd.DataFrame(result.history | own)
    checks = epochs[epochs["val_loss"].notna()]
    if study.settings.search_method == "grid":
        append_table(files.curves, checks[["trial", "seed", *_METRICS]])
    else:
        append_table(files.epochs, epochs[["trial", *_METRICS]])
        append_table(files.curves, checks[["trial", *_METRICS[:-1]]])


def _write_results(study: Study, architecture: Architecture, rows: pd.DataFrame, epochs: list[int]) -> None:
    """search_results.csv, with the last rung (from 0) of each trial where there are rungs, and the curves in order."""
    files = study.files.architecture(architecture)
    names = ["trial", "seed"] if study.settings.search_method == "grid" else ["trial"]  # what tells trainings apart
    results = rows.loc[rows["architecture"] == architecture.name, [*names, *HYPERPARAMETERS, *RESULT]]
    curves = read_table(files.curves).drop_duplicates([*names, "epoch"], keep="last")
    curves = curves[curves["trial"].isin(results["trial"])]
    write_table(files.curves, curves.sort_values([*names, "epoch"]))
    if len(epochs) > 1:
        rungs = _rungs_of(study, architecture, rows, epochs)
        last = {trial: rung for rung, trials in enumerate(rungs) for trial in trials}
        results = results.assign(rung=results["trial"].map(last))
    write_table(files.results, results)


def _choose(study: Study, architecture: Architecture) -> None:
    """Name the winner, the trial of lowest validation loss, and keep its metrics."""
    files = study.files.architecture(architecture)
    results = summaries.by_trial(read_table(files.results))
    best = _best_trial(results, files)
    if best is None:
        raise TrainingError(
            f"all {len(results)} trials of {architecture.name} diverged: no hyperparameters to choose; "
            "lower the learning rates in search_space or add trials"
        )
    grid = study.settings.search_method == "grid"
    if grid or files.epochs.exists():
        epochs = read_table(files.curves if grid else files.epochs)
        own = epochs[epochs["trial"] == best["trial"]]
        own = own[own["seed"] == own["seed"].min()] if grid else own.drop_duplicates("epoch", keep="last")
        if len(own):  # else it was the best before
            write_table(files.metrics, own[_METRICS].sort_values("epoch"))
        files.epochs.unlink(missing_ok=True)
    write_yaml(
        files.best,
        {
            "architecture": list(architecture.widths),
            "trial": int(best["trial"]),
            "num_trials": len(results),
            "hyperparameters": {name: float(best[name]) for name in HYPERPARAMETERS},
            "best_epoch": int(best["best_epoch"]),
            **{name: plain(best[name]) for name in ("val_loss", "val_accuracy", "test_loss", "test_accuracy")},
        },
    )


def _best_trial(results: pd.DataFrame, files: ArchitectureFiles) -> pd.Series | None:
    """The trial of lowest validation loss; None if all diverged.

    Where no trial is trained, it is the best of those that did not diverge: its loss is in the curves alone.
    """
    best, untrained = summaries.best_trial(results), results[results["status"] == NOT_TRAINED]
    if best is None and len(untrained):
        losses = read_table(files.curves).groupby("trial")["val_loss"].min()
        best = summaries.best_trial(untrained.assign(val_loss=untrained["trial"].map(losses)))
    return best


def read_curves(study: Study) -> pd.DataFrame:
    """learning_curves.csv of all architectures with the column `architecture`."""
    return read_of_all(study.files, study.architectures, "curves")


# --- retraining -----------------------------------------------------------------------------------------------------


def retrain(study: Study) -> pd.DataFrame:
    """Train the chosen hyperparameters with the retrain seeds that are not on disk; a row a training.

    Columns: architecture, seed, status, test_loss, test_accuracy, val_loss, best_epoch.
    """
    settings: RetrainSettings = study.settings
    wanted = wanted_retrainings(study, {a: read_best(study.files.architecture(a)) for a in study.architectures})
    with claim(study.files.root, "retraining"):
        left = missing(wanted, retrainings(study))
        for unit, result in study.train(left, "retraining", keep_weights=settings.save_checkpoints, keep_images=True):
            _keep_images(study, unit, result)
            for place, one in enumerate(unit.members):
                _keep_training(study, one, result, place)
            study.record("retrain", unit, result)
        rows = study.close("retrain", wanted)
        losses = rows[["architecture", "seed", "status", "test_loss", "test_accuracy", "val_loss", "best_epoch"]]
        losses = losses.astype({"best_epoch": "Int64"})
        for name, table in losses.groupby("architecture"):
            files = study.files.architecture(Architecture.from_name(name))
            write_table(files.seed_losses, table.drop(columns="architecture"))
        _write_summaries(study, losses)
    return losses


def wanted_retrainings(study: Study, chosen: Chosen) -> list[Wanted]:
    """What is chosen for each architecture with every retrain seed."""
    return [Wanted(a, chosen[a], seed) for a in study.architectures for seed in study.settings.retrain_seeds]


def retrainings(study: Study, mixed: bool = True) -> pd.DataFrame:
    """The retrainings in the ledger whose config.yaml and losses of each image are there; a new choice has its own.

    mixed: also those of another device or torch.
    """
    rows, conditions, images, there = study.trainings("retrain"), study.conditions, {}, []
    for one in map(wanted_of, rows.to_dict("records")):
        files = study.files.architecture(one.architecture)
        path = files.config(one.seed)
        if one.architecture not in images:
            images[one.architecture] = read_image_losses(files.image_losses)
        whole = one.seed in images[one.architecture] and path.exists()
        recorded = parse(Recorded, read_yaml(path), str(path)) if whole else None
        there.append(whole and recorded.is_of(Recipe.under(conditions, one), mixed))
    return rows[np.array(there, dtype=bool)]


def _keep_training(study: Study, one: Wanted, result: Result, place: int) -> None:
    """Write the checkpoint and config of a retraining, which a recorded one has, from its place in the result."""
    files, found = study.files.architecture(one.architecture), {n: plain(result.rows[n][place]) for n in RESULT}
    files.model(one.seed).unlink(missing_ok=True)  # of other hyperparameters, if there is one
    if result.weights is not None and found["status"] == COMPLETED:
        weights = [torch.from_numpy(weight[place]) for weight in result.weights]
        buffer = io.BytesIO()
        torch.save(to_sequential(one.architecture, weights, one.hyperparameters).state_dict(), buffer)
        write_bytes(files.model(one.seed), buffer.getvalue())
    write_yaml(files.config(one.seed), Recipe.under(study.conditions, one).describe() | {"result": found})


def _keep_images(study: Study, unit: Unit, result: Result) -> None:
    """Add the unit's losses of each test image to those of the other retrain seeds."""
    path = study.files.architecture(unit.architecture).image_losses
    kept = read_image_losses(path) | dict(zip(unit.seeds, result.image_losses, strict=True))
    seeds = sorted(seed for seed in kept if seed in study.settings.retrain_seeds)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, losses=np.stack([kept[seed] for seed in seeds]), seeds=np.array(seeds))
    write_bytes(path, buffer.getvalue())


def _write_summaries(study: Study, losses: pd.DataFrame) -> None:
    """The summaries of each architecture and of all, from the retrainings' losses."""
    losses = losses[["architecture", "seed", "test_loss", "test_accuracy"]]
    stats, summary = summaries.summarize(losses, ["architecture"]), {}
    counts = [architecture.count_parameters(study.inputs) for architecture in study.architectures]
    for architecture, count, row in zip(study.architectures, counts, stats.to_dict("records"), strict=True):
        files = study.files.architecture(architecture)
        entry = {name: plain(row[name]) for name in ("n", "mean", "var", "min", "max", "mean_accuracy")}
        best = read_yaml(files.best)
        write_yaml(files.summary, {"test_loss": entry})
        summary[architecture.name] = {
            "parameters": count,
            "best_trial": best["trial"],
            "hyperparameters": best["hyperparameters"],
            "test_loss": entry,
        }
    stats.insert(1, "parameters", counts)
    write_yaml(study.files.summary, summary)
    write_table(study.files.seed_losses, losses)
    write_table(study.files.stats, stats)


# --- transfer -------------------------------------------------------------------------------------------------------


def read_sources(study: Study) -> Sources:
    """The chosen hyperparameters of every architecture, and those of `transfer_extra_sources` (see EXTRA)."""
    chosen = {a: read_best(study.searched.architecture(a)) for a in study.architectures}
    names = study.settings.transfer_extra_sources
    trials = read_trials(study.searched, study.architectures) if "consensus" in names else None
    return make_sources(chosen, names, study.inputs, trials)


def read_contenders(study: Study) -> pd.DataFrame:
    """The trials that a search of the budget could have chosen: trial, the seven hyperparameters, then the rank on each
    architecture (from 0, by its name). Empty where there is no pool of them: see `contenders` and no_pool.
    """
    if study.settings.contenders == "chosen" or no_pool(read_meta(study.searched)["parameters"]):
        return pd.DataFrame()
    trials = read_trials(study.searched, study.architectures)
    _, numbers = contenders(trials, find_budget(study.settings.search_budget, trials["trial"].nunique()))
    ranked = trials.sort_values(["val_loss", "trial"])  # those that diverged, without a loss, last
    ranks = ranked.assign(rank=ranked.groupby("architecture").cumcount()).pivot(
        index="trial", columns="architecture", values="rank"
    )
    vectors = trials.drop_duplicates("trial").set_index("trial")[list(HYPERPARAMETERS)]
    table = vectors.join(ranks[[a.name for a in study.architectures]]).loc[numbers]
    return table.reset_index()


def transfer(study: Study) -> pd.DataFrame:
    """Train every target with every source's hyperparameters and every contender's; a row a (target, source, seed).

    Columns: target, source, seed, status, test_loss, test_accuracy, reused; contenders (see read_contenders) have a
    table of their own. Equal hyperparameters share their trainings; a retraining of this run that is the same training
    is reused.
    """
    sources, pool = read_sources(study), read_contenders(study)
    vectors = pool_vectors(pool)
    wanted = wanted_transfers(study, {target: row | vectors for target, row in sources.items()})
    names: dict[Key, str] = {}
    for source, one in wanted:
        names[one.key] = f"{names[one.key]} {source}" if one.key in names else source
    with claim(study.files.root, "transfer"):
        retrained = reusable(study)
        own = missing([one for _, one in wanted], retrained)
        for unit, result in study.train(missing(own, study.trainings("transfer")), "transfer"):
            study.record("transfer", unit, result)
        rows = study.close("transfer", own, names)
        found = pd.concat([part for part in (retrained.assign(reused=True), rows.assign(reused=False)) if len(part)])
        losses = _losses_of(wanted, found)
        judged = losses["source"].isin(vectors)
        _write_pool(study.files, pool, losses[judged])
        losses = losses[~judged].reset_index(drop=True)
        rows = [{"target": t, "source": s, **h.model_dump()} for t, row in sources.items() for s, h in row.items()]
        write_table(study.files.sources, pd.DataFrame(rows))
        write_table(study.files.transfer_losses, losses)
        write_table(study.files.transfer_results, summaries.summarize(losses, ["target", "source"]))
        write_table(study.files.regret, summaries.regret_matrix(losses), index=True)
        write_table(study.files.relative_regret, summaries.relative_regret_matrix(losses), index=True)
    return losses


def _write_pool(files: RunFiles, pool: pd.DataFrame, losses: pd.DataFrame) -> None:
    """The contenders and their losses; where there is no pool of them (any more), no table of it either."""
    if pool.empty:
        files.contenders.unlink(missing_ok=True)
        files.contender_losses.unlink(missing_ok=True)
        return
    trials = losses["source"].map({f"trial_{trial}": trial for trial in pool["trial"]})
    judged = losses.assign(trial=trials)[["target", "trial", "seed", "status", "test_loss", "test_accuracy"]]
    write_table(files.contenders, pool)
    write_table(files.contender_losses, judged)


def wanted_transfers(study: Study, sources: Sources) -> list[tuple[str, Wanted]]:
    """Every target with every source's hyperparameters and every transfer seed, beside the source."""
    return [
        (source, Wanted(target, hyperparameters, seed))
        for target in study.architectures
        for source, hyperparameters in sources[target.name].items()
        for seed in sorted(study.settings.transfer_seeds)
    ]


def reusable(study: Study) -> pd.DataFrame:
    """This run's retrainings with transfer seeds of which everything that decides the result is the same."""
    rows = retrainings(study, study.settings.mixed_devices)
    return rows[rows["seed"].isin(study.settings.transfer_seeds)]


def _losses_of(wanted: list[tuple[str, Wanted]], trainings: pd.DataFrame) -> pd.DataFrame:
    """transfer_seed_losses.csv, of trainings with `reused`."""
    places = {key: place for place, key in enumerate(keys(trainings))}
    found = trainings.iloc[[places[one.key] for _, one in wanted]].reset_index(drop=True)
    found = found.rename(columns={"architecture": "target"}).assign(source=[source for source, _ in wanted])
    return found[["target", "source", "seed", "status", "test_loss", "test_accuracy", "reused"]]
