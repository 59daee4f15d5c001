"""Both answers over searches in plain words."""

import math

import pandas as pd

from mlp_lib.evidence.intervals import basis_text, count_text, greater_first, plain_answer
from mlp_lib.evidence.searches import OverSearches
from mlp_lib.evidence.summaries import no_trial, short_name
from mlp_lib.evidence.verdicts import MOST, ONE_ARCHITECTURE, VERDICTS, architecture_end, interval_kind, transfer_end

QUESTIONS = {
    "hyperparameter_transfer": "Do tuned hyperparameters transfer",
    "architecture_sensitivity": "Once tuned, does the architecture matter",
}
NAMED = 3  # so many pairs are named in a sentence
FEW = 12  # trials; with no more an interval of 95 % held the mean cost in 77 to 92 % of simulated studies


def answers_over_searches(result: OverSearches) -> dict[str, dict]:
    """The two answers as plain values: verdict, effect, interval, confidence, margin, n, sentence and more.

    n is the budget n*, trials of a search; trials: T, seeds: k. hyperparameter_transfer: the effect is the mean change
    of the loss over the pairs that are not broken, with `pairs` their numbers: all, costly, broken, within.
    architecture_sensitivity: the effect is the quotient less 1 of the two tuned losses, the greater first, that differ
    most (of the pairs with the answer's verdict, where there are), with the interval of their test; `pair` names them,
    and `pairs` counts a verdict. What can't be said is None.
    """
    return {"hyperparameter_transfer": _transfer(result), "architecture_sensitivity": _architecture(result)}


def _transfer(result: OverSearches) -> dict:
    verdict, pairs, mean = result.answers["hyperparameter_transfer"], result.pairs, result.regret_by_budget
    mean = mean[mean["n"] == result.budget]
    known = len(mean) > 0 and not result.untrained
    estimate = tuple(math.expm1(mean[name].iloc[0]) if known else math.nan for name in ("regret", "low", "high"))
    marks = {"costly": result.costly, "broken": result.broken, "within": result.within}
    counts = {"all": len(pairs)} | {name: int(of.sum()) for name, of in marks.items()}
    claim, kind = "", f"{100 * result.confidence:g}% interval"
    if not math.isnan(estimate[0]) and result.budget > 1:  # of one trial the cost is 0 by itself
        searches = f"searches of {count_text(result.budget, 'trial')}"
        claim = (
            f"Using another architecture's hyperparameters changes the test loss by {estimate[0]:+.2%} on average over"
            f" {searches} {_basis(result, estimate, len(pairs) - counts['broken'], kind)}: "
        )
    sentence = claim + _transfer_end(result, verdict, estimate)
    sentence = sentence[0].upper() + sentence[1:]
    if counts["costly"]:
        costly = pairs.assign(broken=result.broken)[result.costly]
        named = costly.sort_values(["broken", "regret"], ascending=False, kind="stable")
        words = [_cost(row) for row in named.head(NAMED).to_dict("records")]
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        number = f"{len(named)} of {count_text(len(pairs), 'pair')}, " * (verdict != "depends_on_the_pair")
        sentence += f" Costly beyond the margin: {number}{', '.join(words)}{more}."
    if verdict == "transfers":
        sentence += f" {counts['within']} of the {len(pairs)} pairs are each shown to lie within it."
    if claim and math.isfinite(estimate[1]) and result.trials <= FEW:
        sentence += f" An interval of {FEW} trials or fewer is too narrow."
    sentence += _own_diverges(result)
    more = {"trials": result.trials, "seeds": result.seeds, "pairs": counts}
    return plain_answer(verdict, estimate, result.confidence, result.margin, result.budget, sentence) | more


def _transfer_end(result: OverSearches, verdict: str, estimate: tuple[float, ...]) -> str:
    if verdict == "undetermined":
        if result.trials < 2 or result.pairs.empty or result.untrained:
            return f"{_nothing(result)}, so whether hyperparameters transfer cannot be said."
        if result.budget == 1:
            return "a search of one trial chooses that one, so whether hyperparameters transfer cannot be said."
        if math.isnan(estimate[1]):
            why = "without finite losses" if math.isnan(estimate[0]) else "where one trial is all of a pair"
            return f"{why} whether hyperparameters transfer cannot be said."
    return transfer_end(verdict, result.costly, result.within, bool(result.broken.any()), estimate[2], result.margin)


def _architecture(result: OverSearches) -> dict:
    verdict, pairs = result.answers["architecture_sensitivity"], result.decided
    counts = {name: int((pairs["verdict"] == name).sum()) for name in VERDICTS}
    more = {"trials": result.trials, "seeds": result.seeds, "pairs": counts, "pair": None}
    known = greater_first(pairs).dropna(subset="difference")[: 0 if result.untrained else None]
    if known.empty:
        sentence = f"{_nothing(result)}, so whether the architecture matters cannot be said."
        estimate = (math.nan,) * 3
    else:
        with_verdict = known[known["verdict"] == verdict]
        among = with_verdict if len(with_verdict) else known
        shown = among.loc[among["difference"].idxmax()]
        estimate = tuple(map(math.expm1, shown[["difference", "low", "high"]]))
        more["pair"] = shown[["upper", "lower"]].to_dict()
        end = architecture_end(verdict, counts, result.margin)
        if result.seeds == 1:
            end = "one run seed gives no interval, so whether the architecture matters cannot be said."
        above = " above ".join(map(short_name, more["pair"].values()))
        which = "The largest" if shown["difference"] == known["difference"].max() else "A"
        sentence = (
            f"{which} difference of tuned test loss between two of {len(result.tuned)} architectures over searches of "
            f"{count_text(result.budget, 'trial')}, {above}, is {estimate[0]:.2%}"
            f" {_basis(result, estimate, len(pairs), interval_kind(shown['verdict'], result.confidence))}: {end}"
        )
    sentence += _own_diverges(result)
    return plain_answer(verdict, estimate, result.confidence, result.margin, result.budget, sentence) | more


def _own_diverges(result: OverSearches) -> str:
    names = ", ".join(map(short_name, result.own_diverges))
    return f" Does not train with its own hyperparameters: {names}." if names else ""


def _nothing(result: OverSearches) -> str:
    if result.trials < 2:
        return "One trial is no search"
    if result.untrained:
        return no_trial(result.untrained)
    return ONE_ARCHITECTURE if len(result.tuned) == 1 else "There are no finite losses"


def _basis(result: OverSearches, estimate: tuple[float, ...], pairs: int, kind: str) -> str:
    return basis_text(estimate[1:], kind, (pairs, "pair"), (result.trials, "trial"), (result.seeds, "run seed"))


def _cost(pair: dict) -> str:
    cost = f"{math.expm1(pair['regret']):+.1%}"
    if pd.isna(pair["p_beyond"]):  # it is broken
        cost = "does not train" if pair["diverged"] > MOST else "its own does not train"
    return f"{short_name(pair['target'])} with {short_name(pair['source'])}'s ({cost})"


def in_plain_words(name: str, answer: dict) -> str:
    """An answer's first line, in words without terms; name: its key in answers.yaml, answer: what stands there."""
    effect, ends = answer["effect"], answer["interval"]
    if effect is None or None in ends or (name == "hyperparameter_transfer" and answer["n"] == 1):  # nothing measured
        unsaid = f"{QUESTIONS[name]}: this cannot be said from this run."
        return unsaid if answer["verdict"] == "undetermined" else answer["sentence"]
    say = _transfer_words if name == "hyperparameter_transfer" else _architecture_words
    words = say(effect, *ends, answer).replace("%", " %")
    return words if "trials" in answer else f"For the hyperparameters that this one search chose: {words}"


def _transfer_words(effect: float, low: float, high: float, answer: dict) -> str:
    pairs, bound = answer["pairs"], f"{100 * answer['margin']:g}%"
    number, costly = pairs.get("all", pairs.get("pairs")), pairs.get("costly", pairs.get("costs_beyond_margin"))
    if not number:
        return "All architectures share their hyperparameters, so nothing is lost by another's."
    basis = f"({effect:+.1%}; {100 * answer['confidence']:g}% interval {low:+.1%} to {high:+.1%})"
    if low > 0 or high < 0:
        moves = "raise" if low > 0 else "lower"
        words = f"On average another architecture's hyperparameters {moves} the test loss {basis}"
    elif high < answer["margin"] and answer["verdict"] != "undetermined":
        words = f"On average nothing is shown to be lost by another architecture's hyperparameters {basis}"
    else:
        words = f"Whether another architecture's hyperparameters cost anything on average is open {basis}"
    words += f"; {costly or 'none'} of {number} pairs {'are' if costly > 1 else 'is'} shown to lose more than {bound}"
    words += " or not to train." if pairs.get("broken") else "."
    if high < 0:
        words += (
            " A negative cost: the borrowed ones did better than the choice of the own search, which is partly luck."
        )
    return words


def _architecture_words(effect: float, low: float, high: float, answer: dict) -> str:
    pairs, bound = answer["pairs"], f"{100 * answer['margin']:g}%"
    counted, names = count_text(sum(pairs.values()), "pair"), answer["pair"]
    beyond, shown = pairs["different_beyond_margin"], pairs["different_beyond_margin"] + pairs["different"]
    upper, lower = short_name(names["upper"]), short_name(names["lower"])
    example = f"{upper} ends {effect:.1%} above {lower} ({low:+.1%} to {high:+.1%})"
    if answer["verdict"] == "equivalent":
        return (
            f"Once tuned, the architecture makes less than {bound} of difference: so for all of {counted}; {example}."
        )
    if shown:
        counts = f"{shown} of {counted} {'differs' if shown == 1 else 'differ'}, {beyond} by more than {bound}"
        return f"Once tuned, the architecture matters: {counts}; {example}."
    return (
        f"Once tuned, whether the architecture matters is open: of {counted} none is shown to differ and "
        f"{pairs['equivalent'] or 'none'} to lie within {bound}; {example}."
    )
