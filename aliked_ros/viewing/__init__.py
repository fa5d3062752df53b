"""What people look at: a live page in the browser, and reports. Needs no ROS."""
