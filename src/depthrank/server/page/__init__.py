"""The page at ``/``: one HTML file, its style and its scripts, and the charting library of the plotly package."""
