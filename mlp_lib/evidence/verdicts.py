"""What pairs and both questions are called, over searches and for the chosen hyperparameters alike."""

from collections.abc import Sequence

import numpy as np

from mlp_lib.evidence.intervals import count_text, half_width, holm, holm_level, p_above

MOST = 0.5  # a pair is broken where a greater share of its trainings diverges
HARMLESS = 0.05  # the share of trainings that may diverge where hyperparameters are said to transfer
ONE_ARCHITECTURE = "There is one architecture"  # why nothing is compared
VERDICTS = ("equivalent", "different_beyond_margin", "different", "undetermined")


def p_within(log: np.ndarray, bound: float, se: np.ndarray, df: np.ndarray) -> np.ndarray:
    """The p of two one-sided tests (Schuirmann 1987) that a log quotient lies within +-bound."""
    return np.maximum(p_above(bound - log, se, df), p_above(log + bound, se, df))


def difference_tests(log: np.ndarray, bound: float, se: np.ndarray, df: np.ndarray) -> dict[str, np.ndarray]:
    """The p values of a difference of logs by the verdict that each gives a pair, in the order of the rule.

    `equivalent` is tested pair by pair, since an answer needs all (an intersection-union test: Berger 1982); the
    others are adjusted for the number of pairs (Holm 1979).
    """
    size = np.abs(log)
    return {
        "equivalent": p_within(log, bound, se, df),
        "different_beyond_margin": holm(p_above(size - bound, se, df)),
        "different": holm(np.minimum(2 * p_above(size, se, df), 1)),
    }


def difference_verdicts(tests: dict[str, np.ndarray], alpha: float) -> np.ndarray:
    """The verdict of each pair: the first whose p is at most alpha, else `undetermined`."""
    return np.select([p <= alpha for p in tests.values()], list(tests), "undetermined")


def deciding_half_width(
    verdicts: np.ndarray, log: np.ndarray, bound: float, se: np.ndarray, df: np.ndarray, alpha: float
) -> np.ndarray:
    """Half of the interval of each pair's difference of logs: that of the test that gave the pair its verdict.

    So an interval and a verdict never disagree: `equivalent` lies within +-bound, `different_beyond_margin` wholly
    beyond it, `different` holds no 0 and `undetermined` does. Adjusted as the tests are.
    """
    size = np.abs(log)
    levels = {
        "equivalent": min(2 * alpha, 1),
        "different_beyond_margin": np.minimum(2 * holm_level(p_above(size - bound, se, df), alpha), 1),
    }
    two_sided = holm_level(np.minimum(2 * p_above(size, se, df), 1), alpha)
    level = np.select([verdicts == name for name in levels], list(levels.values()), two_sided)
    return half_width(se, df, level)


def interval_kind(verdict: str, confidence: float) -> str:
    """What the interval of a pair is called: that of a test on one side at alpha has alpha on the other side too.

    Two one-sided tests are not adjusted for the number of pairs.
    """
    one_sided = verdict in ("equivalent", "different_beyond_margin")
    adjusted = "" if verdict == "equivalent" else "adjusted "
    return f"{adjusted}{100 * (max(2 * confidence - 1, 0) if one_sided else confidence):g}% interval"


def architecture_verdict(pairs: Sequence[str]) -> str:
    """Whether the architecture matters, by the verdicts of all pairs."""
    found = set(pairs)
    if found == {"equivalent"}:
        return "equivalent"
    return next((verdict for verdict in VERDICTS[1:] if verdict in found), "undetermined")


def transfer_verdict(
    costly: np.ndarray, within: np.ndarray, harmless: bool, low: float, high: float, bound: float
) -> str:
    """Whether hyperparameters transfer, the first that holds; low and high: the interval of the mean log quotient.

    costly and within: by pair; harmless: no pair diverges in `HARMLESS` of its trainings or more.
    """
    if len(costly) and costly.all():
        return "does_not_transfer"
    if costly.any() and (within.any() or high < bound):
        return "depends_on_the_pair"
    if low > bound:
        return "does_not_transfer"
    return "transfers" if high < bound and not costly.any() and harmless else "undetermined"


def transfer_end(verdict: str, costly: np.ndarray, within: np.ndarray, broken: bool, high: float, margin: float) -> str:
    """The end of the sentence on transfer, where there is an interval; high: its end as a part of the loss.

    costly and within: by pair; broken: whether one of them doesn't train.
    """
    bound = f"the {100 * margin:g}% margin"
    if verdict == "depends_on_the_pair":
        shown = f"{costly.sum()} of {count_text(len(costly), 'pair')} {'is' if costly.sum() == 1 else 'are'} shown"
        beyond = f"to cost more than {bound}" + " or not to train" * broken
        return f"{shown} {beyond} and {within.sum() or 'none'} to lie within it, so it depends on the pair."
    if verdict == "does_not_transfer" and costly.all():
        beyond = f"costs more than {bound}" + " or does not train" * broken
        return f"every pair {beyond}, so hyperparameters do not transfer."
    if verdict == "undetermined" and high < margin:
        open_ = "single pairs or trainings that diverged or were not trained leave the question open"
        return f"below {bound}, but {open_}."
    if verdict == "undetermined":
        return f"the interval contains {bound}, so the question stays open."
    side, end = ("below", "transfer") if verdict == "transfers" else ("above", "do not transfer")
    return f"{side} {bound}, so they {end}."


def architecture_end(verdict: str, counts: dict[str, int], margin: float) -> str:
    """The end of the sentence on architectures; counts: pairs by verdict."""
    bound, number = f"the {100 * margin:g}% margin", sum(counts.values())
    if verdict == "equivalent":
        return f"every pair is shown to lie within {bound}, so the architectures are equivalent."
    if verdict == "undetermined":
        alone = f"{counts['equivalent']} of {count_text(number, 'pair')}, each tested by itself,"
        verb = "is" if counts["equivalent"] == 1 else "are"
        return f"{alone} {verb} shown to lie within {bound}, so the question stays open."
    end = "matters" if verdict == "different_beyond_margin" else "matters, if perhaps by less than the margin"
    shown = counts["different_beyond_margin"] + counts["different"]
    beyond = f", {counts['different_beyond_margin']} by more than {bound}" if counts["different_beyond_margin"] else ""
    verb = "is" if shown == 1 else "are"
    return f"{shown} of {count_text(number, 'pair')} {verb} shown to differ{beyond}, so the architecture {end}."
