"""What a notebook begins and ends with, the pieces of the analysis, and the pages that are kept."""
