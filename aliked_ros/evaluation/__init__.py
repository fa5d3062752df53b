"""How good the front-end is, measured against ground truth and against other front-ends."""
