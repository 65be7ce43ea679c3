"""Turn the figures of the pages into PDF, SVG and PNG files for a paper, without a browser."""
