"""The files of a run folder: what happened, as it was written down."""
