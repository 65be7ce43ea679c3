"""Build the emulated network of a plan's `Network`, measure it, change it and remove it again."""
