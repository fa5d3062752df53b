// Copyright 2026 aliked_ros maintainers
//
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

// Prints what arrives on `features`: where code that knows ORB-SLAM's frames would take over.
//
//   ros2 run aliked_examples subscriber --ros-args -r features:=/aliked_frontend/features
#include <exception>
#include <memory>

#include <aliked_msgs/msg/feature_frame.hpp>
#include <rclcpp/rclcpp.hpp>

#include "aliked_examples/feature_frame.hpp"

class FeatureSubscriber : public rclcpp::Node
{
public:
  FeatureSubscriber()
  : Node("feature_subscriber")
  {
    subscription_ = create_subscription<aliked_msgs::msg::FeatureFrame>(
      "features", rclcpp::QoS(10),
      [this](const aliked_msgs::msg::FeatureFrame & frame) {on_features(frame);});
  }

private:
  void on_features(const aliked_msgs::msg::FeatureFrame & frame)
  {
    try {
      const auto features = aliked_examples::from_message(frame);
      RCLCPP_INFO(
        get_logger(), "%zu keypoints, descriptors %d x %d", features.keypoints.size(),
        features.descriptors.rows, features.descriptors.cols);
    } catch (const std::exception & error) {
      RCLCPP_WARN(get_logger(), "frame left out: %s", error.what());
    }
  }

  rclcpp::Subscription<aliked_msgs::msg::FeatureFrame>::SharedPtr subscription_;
};

int main(int argc, char ** argv)
{
  rclcpp::init(argc, argv);
  rclcpp::spin(std::make_shared<FeatureSubscriber>());
  rclcpp::shutdown();
  return 0;
}
