"""Ranks: the layout a run is spread over, and the only place that knows about it."""
