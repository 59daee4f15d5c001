"""Tables to matplotlib Figures."""

from mlp_lib.figures.curves import attempt_curves, coordinate_sizes, learning_curves, loss_curve, trial_curve
from mlp_lib.figures.effects import architecture_intervals, heatmap, pair_matrix
from mlp_lib.figures.images import mistakes, sample_images
from mlp_lib.figures.losses import loss_distribution, quotient_intervals, speeds, transfer_losses
from mlp_lib.figures.over_searches import regret_by_budget, replication, tuning_cost, tuning_curves, variance_components
from mlp_lib.figures.search import expected_best_curves, importance_bars, lr_sensitivity_curves, search_overview
from mlp_lib.figures.widths import grid_maps, loss_by_width
