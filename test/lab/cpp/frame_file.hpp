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

// A serialized FeatureFrame, read from a file with the installed messages.
#pragma once

#include <cstdint>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include <aliked_msgs/msg/feature_frame.hpp>
#include <rmw/rmw.h>
#include <rosidl_typesupport_cpp/message_type_support.hpp>

inline aliked_msgs::msg::FeatureFrame read_frame(const std::string & path)
{
  using aliked_msgs::msg::FeatureFrame;
  std::ifstream file(path, std::ios::binary);
  std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  rmw_serialized_message_t serialized = rmw_get_zero_initialized_serialized_message();
  serialized.buffer = reinterpret_cast<std::uint8_t *>(bytes.data());
  serialized.buffer_length = serialized.buffer_capacity = bytes.size();
  FeatureFrame frame;
  const auto * type = rosidl_typesupport_cpp::get_message_type_support_handle<FeatureFrame>();
  if (rmw_deserialize(&serialized, type, &frame) != RMW_RET_OK) {
    throw std::runtime_error("cannot deserialize " + path);
  }
  return frame;
}
