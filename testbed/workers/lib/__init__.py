"""What ranks offer to workloads and users' scripts: modelled computation, collectives in stages."""
