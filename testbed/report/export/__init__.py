"""Write what a run measured in the formats of other tools."""
