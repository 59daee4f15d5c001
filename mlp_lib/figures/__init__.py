"""Tables to matplotlib Figures."""

from mlp_lib.figures.curves import attempt_curves, coordinate_sizes, learning_curves, loss_curve, trial_curve
from mlp_lib.figures.effects import architecture_intervals, effect_table_html, heatmap, pair_matrix
from mlp_lib.figures.images import mistakes, sample_images
from mlp_lib.figures.losses import loss_distribution, quotient_intervals, speeds, transfer_losses
from mlp_lib.figures.over_searches import regret_by_budget, tuning_cost, tuning_curves, variance_components
from mlp_lib.figures.search import (
    expected_best_curves,
    importance_bars,
    lr_sensitivity_curves,
    parallel_coordinates,
    search_overview,
)
from mlp_lib.figures.widths import grid_maps, loss_by_width

__all__ = [
    "architecture_intervals",
    "attempt_curves",
    "coordinate_sizes",
    "effect_table_html",
    "expected_best_curves",
    "grid_maps",
    "heatmap",
    "importance_bars",
    "learning_curves",
    "loss_by_width",
    "loss_curve",
    "loss_distribution",
    "lr_sensitivity_curves",
    "mistakes",
    "pair_matrix",
    "parallel_coordinates",
    "quotient_intervals",
    "regret_by_budget",
    "sample_images",
    "search_overview",
    "speeds",
    "transfer_losses",
    "trial_curve",
    "tuning_cost",
    "tuning_curves",
    "variance_components",
]
