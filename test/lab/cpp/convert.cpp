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
// examples/cpp does, and writes the result to standard output: N, columns of descriptors and bytes of
// each element, x y score of each keypoint, ids, descriptors, the numbers of normalized, right_x,
// depth, detection_age, covariances and object_ids, these, and recovered (bytes).
#include <cstdint>
#include <cstdio>
#include <exception>
#include <vector>

#include "aliked_examples/feature_frame.hpp"
#include "frame_file.hpp"

template<typename T>
void write(const T * values, std::size_t count)
{
  std::fwrite(values, sizeof(T), count, stdout);
}

int main(int, char ** argv)
{
  try {
    auto features = aliked_examples::from_message(read_frame(argv[1]));
    const auto & descriptors = features.descriptors;
    const std::uint64_t sizes[] = {
      features.keypoints.size(), static_cast<std::uint64_t>(descriptors.cols),
      descriptors.rows == 0 ? 1 : descriptors.elemSize()};
    write(sizes, 3);
    for (const auto & keypoint : features.keypoints) {
      const float values[] = {keypoint.pt.x, keypoint.pt.y, keypoint.response};
      write(values, 3);
    }
    write(features.track_ids.data(), features.track_ids.size());
    if (descriptors.rows != 0) {
      write(descriptors.ptr<std::uint8_t>(), sizes[0] * sizes[1] * sizes[2]);
    }
    const std::uint64_t optional[] = {
      features.normalized.size(), features.right_x.size(), features.depth.size(),
      features.detection_age.size(), features.covariances.size(), features.object_ids.size()};
    write(optional, 6);
    for (const auto & ray : features.normalized) {
      const float values[] = {ray.x, ray.y};
      write(values, 2);
    }
    write(features.right_x.data(), features.right_x.size());
    write(features.depth.data(), features.depth.size());
    write(features.detection_age.data(), features.detection_age.size());
    write(features.covariances.data(), features.covariances.size());
    write(features.object_ids.data(), features.object_ids.size());
    for (const bool recovered : features.recovered) {
      std::fputc(recovered, stdout);
    }
  } catch (const std::exception & error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
