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

// An aliked_msgs/FeatureFrame in the types of ORB-SLAM-style code: cv::KeyPoint and cv::Mat.
//
// Descriptors are floats of unit length: compare them by cv::NORM_L2, or by their dot product, not
// by the Hamming distance of ORB's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <opencv2/core.hpp>

#include "aliked_examples/feature_arrays.hpp"

namespace aliked_examples
{

/// One row per keypoint in each, best score first; those that may be empty are said so.
struct Features
{
  std::vector<cv::KeyPoint> keypoints;   // pixels of the image; response = score, octave = 0
  cv::Mat descriptors;                   // N×D CV_32F; empty when they are not published
  std::vector<std::uint64_t> track_ids;  // unique within frame.epoch; 0 = untracked
  std::vector<bool> recovered;           // whether the track had been lost and came back here
  std::vector<cv::Point2f> normalized;   // undistorted, on z = 1; empty without CameraInfo
  std::vector<float> right_x;            // pixels, NaN = none; empty unless stereo
  std::vector<float> depth;              // metres, NaN = none; empty without stereo and depth
};

/// Throws std::invalid_argument for a frame whose arrays contradict each other.
template<typename FeatureFrame>
Features from_message(const FeatureFrame & frame)
{
  // The diameter of what a descriptor sees varies by keypoint; this one is for drawing.
  constexpr float kSize = 8.0f;
  const std::size_t count = feature_count(frame);
  Features features;
  features.keypoints.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    features.keypoints.emplace_back(
      frame.keypoints[2 * i], frame.keypoints[2 * i + 1], kSize, -1.0f, frame.scores[i], 0);
  }
  if (frame.descriptor_dim != 0 && count != 0) {
    features.descriptors.create(
      static_cast<int>(count), static_cast<int>(frame.descriptor_dim), CV_32F);
    copy_descriptors(frame, features.descriptors.template ptr<float>());
  }
  features.track_ids.assign(frame.track_ids.begin(), frame.track_ids.end());
  features.recovered.assign(frame.recovered.begin(), frame.recovered.end());
  features.normalized.reserve(frame.normalized.size() / 2);
  for (std::size_t i = 0; i < frame.normalized.size(); i += 2) {
    features.normalized.push_back({frame.normalized[i], frame.normalized[i + 1]});
  }
  features.right_x.assign(frame.right_x.begin(), frame.right_x.end());
  features.depth.assign(frame.depth.begin(), frame.depth.end());
  return features;
}

}  // namespace aliked_examples
