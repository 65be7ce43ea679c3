"""Provide foundations of all packages: errors, units, geography, paths and system calls."""
