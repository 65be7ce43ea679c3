"""What every part uses: errors, units, paths, system calls."""
