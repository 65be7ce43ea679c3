"""Library for workloads and users' scripts: modelled computation, collectives in stages."""
