"""Turn a kernel source into a booted User-Mode Linux guest that runs a command on its clock."""
