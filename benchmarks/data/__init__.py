"""The data stages beside their peers, on the same input in the same run."""
