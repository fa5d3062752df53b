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

// Reads a serialized FeatureFrame from a file with the installed messages, converts it as
// examples/cpp does, and writes the result to standard output: N and D, x y score of each keypoint,
// ids, descriptors, the numbers of normalized, right_x and depth, these, and recovered (bytes).
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <vector>

#include <aliked_msgs/msg/feature_frame.hpp>
#include <rmw/rmw.h>
#include <rosidl_typesupport_cpp/message_type_support.hpp>

#include "aliked_examples/feature_frame.hpp"

template<typename T>
void write(const T * values, std::size_t count)
{
  std::fwrite(values, sizeof(T), count, stdout);
}

int main(int, char ** argv)
{
  using aliked_msgs::msg::FeatureFrame;
  std::ifstream file(argv[1], std::ios::binary);
  std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  rmw_serialized_message_t serialized = rmw_get_zero_initialized_serialized_message();
  serialized.buffer = reinterpret_cast<std::uint8_t *>(bytes.data());
  serialized.buffer_length = serialized.buffer_capacity = bytes.size();
  FeatureFrame frame;
  const auto * type = rosidl_typesupport_cpp::get_message_type_support_handle<FeatureFrame>();
  if (rmw_deserialize(&serialized, type, &frame) != RMW_RET_OK) {
    std::fputs("cannot deserialize\n", stderr);
    return 2;
  }
  try {
    auto features = aliked_examples::from_message(frame);
    const std::uint64_t sizes[] = {
      features.keypoints.size(), static_cast<std::uint64_t>(features.descriptors.cols)};
    write(sizes, 2);
    for (const auto & keypoint : features.keypoints) {
      const float values[] = {keypoint.pt.x, keypoint.pt.y, keypoint.response};
      write(values, 3);
    }
    write(features.track_ids.data(), features.track_ids.size());
    if (features.descriptors.rows != 0) {
      write(features.descriptors.ptr<float>(), sizes[0] * sizes[1]);
    }
    const std::uint64_t optional[] = {
      features.normalized.size(), features.right_x.size(), features.depth.size()};
    write(optional, 3);
    for (const auto & ray : features.normalized) {
      const float values[] = {ray.x, ray.y};
      write(values, 2);
    }
    write(features.right_x.data(), features.right_x.size());
    write(features.depth.data(), features.depth.size());
    for (const bool recovered : features.recovered) {
      std::fputc(recovered, stdout);
    }
  } catch (const std::exception & error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
