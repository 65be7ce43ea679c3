"""Turn a network into a drawing of its sites and links on a map, as SVG or PNG."""
