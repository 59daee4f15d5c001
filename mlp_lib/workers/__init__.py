"""Who trains: worker processes of this machine (processes), or those of a cluster."""
