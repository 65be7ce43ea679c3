"""From the figures of the pages to PDF, SVG and PNG files for a paper, without a browser."""
