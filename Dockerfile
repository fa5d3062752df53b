# ROS 2 from its image, the Python packages in a virtual environment, the weights. How to build and
# start it: docs/installation.md, "Docker". The dev container is the first stage.
ARG ROS_DISTRO=jazzy

FROM ros:${ROS_DISTRO}-ros-base AS dependencies
WORKDIR /ws
COPY package.xml src/aliked_ros/
COPY aliked_msgs/package.xml src/aliked_ros/aliked_msgs/
RUN apt-get update \
    && rosdep update --rosdistro "$ROS_DISTRO" \
    && rosdep install --from-paths src/aliked_ros src/aliked_ros/aliked_msgs --ignore-src -y \
        --skip-keys rviz2 \
    && rm -rf /var/lib/apt/lists/*
COPY requirements/robot.txt src/aliked_ros/requirements/
RUN python3 -m venv --system-site-packages venv \
    && touch venv/COLCON_IGNORE \
    && venv/bin/pip install --no-cache-dir -r src/aliked_ros/requirements/robot.txt

FROM dependencies
COPY . src/aliked_ros
# Any user may run the image: logs and compiled code go to $HOME, the networks to the cache.
ENV HOME=/tmp ALIKED_ROS_CACHE=/ws/cache
RUN . "/opt/ros/$ROS_DISTRO/setup.sh" \
    && venv/bin/python -m colcon build --base-paths src/aliked_ros src/aliked_ros/aliked_msgs \
    && . install/setup.sh \
    && ros2 run aliked_ros aliked_ros models fetch \
    && chmod -R a+rwX cache
ENTRYPOINT ["bash", "-c", "source /ws/install/setup.bash && exec \"$@\"", "bash"]
CMD ["ros2", "launch", "aliked_ros", "frontend.launch.py"]
