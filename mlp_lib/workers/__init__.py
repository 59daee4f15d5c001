"""Who trains: worker processes of this machine, or those of a cluster."""

from typing import TYPE_CHECKING

from mlp_lib.run.parameters import StudySettings

if TYPE_CHECKING:
    from mlp_lib.workers.pool import Workers


def find_workers(settings: StudySettings) -> "Workers":
    """Those of this machine or of a cluster, as the settings say.

    Raises SettingsError for a device or an extra that isn't there, ClusterError for a cluster that doesn't do.
    """
    # these load torch, which the command and the analysis do without; the cluster needs an extra
    if settings.scheduler:
        from mlp_lib.workers.cluster import Cluster

        return Cluster(settings)
    from mlp_lib.workers.processes import Processes

    return Processes(settings)
