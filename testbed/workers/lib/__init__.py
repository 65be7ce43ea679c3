"""Give workloads and users' scripts modelled computation and collectives in stages."""
