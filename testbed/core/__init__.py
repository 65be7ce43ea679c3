"""Basic parts that every package uses: errors, units, geography, paths and system calls."""
