"""A reference back-end: visual odometry from feature tracks alone, small enough to be read.

It takes what a ``FeatureFrame`` carries (track ids, normalised coordinates, depth where there is
any) and gives camera poses and a sparse map: the proof that the messages suffice, and an example to
start from. It closes no loops and keeps no global map.
"""

from aliked_ros.odometry.adjustment import Noise
from aliked_ros.odometry.estimator import Estimate, Observation, Odometry

__all__ = ["Estimate", "Noise", "Observation", "Odometry"]
