"""Recordings for other programs: COLMAP databases, TUM trajectories. Needs no ROS."""
