"""Replay of recorded samples: what a rule would have spent and answered, with intervals."""
