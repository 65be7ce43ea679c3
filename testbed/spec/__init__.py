"""What a person writes: topologies and workloads, with units, presets and defaults."""
