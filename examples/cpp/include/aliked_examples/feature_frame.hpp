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
// Float descriptors have unit length: compare them by cv::NORM_L2, or by their dot product. With the
// front-end's descriptor_encoding binary256 they are 32 bytes, for cv::NORM_HAMMING, as ORB's are.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include <opencv2/core.hpp>

#include "aliked_examples/feature_arrays.hpp"

namespace aliked_examples
{

/// One row per keypoint in each, best score first; those that may be empty are said so.
struct Features
{
  std::vector<cv::KeyPoint> keypoints;   // pixels of the image; response = score, octave = 0
  cv::Mat descriptors;                   // N×D CV_32F or N×32 CV_8U; empty if not published
  std::vector<std::uint64_t> track_ids;  // unique within frame.epoch; 0 = untracked
  std::vector<bool> recovered;           // whether the track had been lost and came back here
  std::vector<cv::Point2f> normalized;   // undistorted, on z = 1; empty without CameraInfo
  std::vector<float> right_x;            // pixels, NaN = none; empty unless stereo
  std::vector<float> depth;              // metres, NaN = none; empty without stereo and depth
  // Only where optical flow follows the tracks between detections, else empty:
  std::vector<std::uint32_t> detection_age;        // images since it was detected, 0 = in this one
  std::vector<std::array<float, 3>> covariances;   // xx, xy, yy in pixels²
  // Only where the image has moving objects (parameter moving_objects: flag), else empty:
  std::vector<std::uint32_t> object_ids;           // 0 = at rest; leave the others out of a map
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
  const int rows = static_cast<int>(count);
  if (frame.descriptors.size() != 0 && frame.descriptor_encoding == FeatureFrame::BINARY256) {
    features.descriptors.create(rows, static_cast<int>(descriptor_bytes(frame)), CV_8U);
    std::memcpy(
      features.descriptors.template ptr<std::uint8_t>(), frame.descriptors.data(),
      frame.descriptors.size());
  } else if (frame.descriptors.size() != 0) {
    features.descriptors.create(rows, static_cast<int>(frame.descriptor_dim), CV_32F);
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
  features.detection_age.assign(frame.detection_age.begin(), frame.detection_age.end());
  features.object_ids.assign(frame.object_ids.begin(), frame.object_ids.end());
  for (std::size_t i = 0; i < frame.covariances.size(); i += 3) {
    features.covariances.push_back(
      {frame.covariances[i], frame.covariances[i + 1], frame.covariances[i + 2]});
  }
  return features;
}

/// Some of the rows of each array, in the order given.
inline Features select(const Features & features, const std::vector<std::size_t> & rows)
{
  const auto take = [&rows](const auto & from, auto & to) {
      to.reserve(rows.size());
      for (std::size_t i = 0; i < rows.size() && !from.empty(); ++i) {
        to.push_back(from[rows[i]]);
      }
    };
  Features some;
  take(features.keypoints, some.keypoints);
  take(features.track_ids, some.track_ids);
  take(features.recovered, some.recovered);
  take(features.normalized, some.normalized);
  take(features.right_x, some.right_x);
  take(features.depth, some.depth);
  take(features.detection_age, some.detection_age);
  take(features.covariances, some.covariances);
  take(features.object_ids, some.object_ids);
  const cv::Mat & all = features.descriptors;
  if (all.rows != 0 && !rows.empty()) {
    some.descriptors.create(static_cast<int>(rows.size()), all.cols, all.type());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::memcpy(
        some.descriptors.ptr<std::uint8_t>(static_cast<int>(i)),
        all.ptr<std::uint8_t>(static_cast<int>(rows[i])), all.cols * all.elemSize());
    }
  }
  return some;
}

}  // namespace aliked_examples
