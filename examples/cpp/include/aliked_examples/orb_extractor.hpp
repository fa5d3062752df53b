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

// A class with the call and the getters of an ORB extractor that answers with ALIKED's features: it
// finds none itself, it waits for the FeatureFrame of the image's stamp.
//
//   aliked_examples::OrbExtractor<aliked_msgs::msg::FeatureFrame> extractor;
//   // in the subscription's callback, in a thread of its own:   extractor.add(message);
//   // where ORB-SLAM makes a frame of an image:
//   extractor.expect(timestamp);
//   extractor(image, mask, keypoints, descriptors, lapping);
//
// Run the front-end with descriptor_encoding binary256: descriptors are then 32 bytes a row, as
// ORB's. Octave and angle are 0 throughout, and the getters describe two levels such that ORB-SLAM's
// checks by scale let every keypoint through: a map point may be seen from 0.4 to 2.4 times its
// first distance, in any level predicted for it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <opencv2/core.hpp>

#include "aliked_examples/feature_frame.hpp"

namespace aliked_examples
{

template<typename FeatureFrame>
class OrbExtractor
{
public:
  /// patience: how long a call waits for its message. capacity: messages kept for later calls.
  explicit OrbExtractor(
    std::chrono::milliseconds patience = std::chrono::milliseconds(500), std::size_t capacity = 64)
  : patience_(patience), capacity_(capacity) {}

  /// Take over a message. From any thread, in the order of stamps, as they are published.
  void add(std::shared_ptr<const FeatureFrame> frame)
  {
    const auto & stamp = frame->header.stamp;
    const std::int64_t time = stamp.sec * std::int64_t{1000000000} + stamp.nanosec;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (time < newest_) {  // a player that starts over, a clock that was set back
        frames_.clear();
      }
      newest_ = time;
      frames_[time] = std::move(frame);
      if (frames_.size() > capacity_) {
        frames_.erase(frames_.begin());
      }
    }
    arrived_.notify_all();
  }

  /// The stamp of the image that the next call is for, in seconds, as ORB-SLAM has it.
  void expect(double seconds) {expected_ = std::llround(seconds * 1e9);}

  /// ORB-SLAM3's call. Keypoints where the mask is 0 or on moving objects are left out. Those with x in lapping[0] to
  /// lapping[1] come last; returns the number of the others. Without a message in time: no keypoints,
  /// returns 0, and missed() grows. Throws std::invalid_argument for an image or mask of another size
  /// than the message's, and for a message that contradicts itself.
  int operator()(
    cv::InputArray image, cv::InputArray mask, std::vector<cv::KeyPoint> & keypoints,
    cv::OutputArray descriptors, std::vector<int> & lapping)
  {
    features_ = Features();
    int outside = 0;
    if (const auto frame = wait()) {
      check_size(image.getMat(), *frame, "image");
      Features all = from_message(*frame);
      std::vector<std::size_t> rows, inside;
      const cv::Mat allowed = mask.getMat();
      if (!allowed.empty()) {
        check_size(allowed, *frame, "mask");
      }
      for (std::size_t i = 0; i < all.keypoints.size(); ++i) {
        if (!all.object_ids.empty() && all.object_ids[i] != 0) {
          continue;
        }
        const cv::Point2f at = all.keypoints[i].pt;
        if (!allowed.empty()) {
          const auto inside_mask = [](float value, int size) {
              return std::clamp(static_cast<int>(std::lround(value)), 0, size - 1);
            };
          const int x = inside_mask(at.x, allowed.cols), y = inside_mask(at.y, allowed.rows);
          if (allowed.ptr<std::uint8_t>(y)[x] == 0) {
            continue;
          }
        }
        const bool laps = lapping.size() >= 2 && at.x >= lapping[0] && at.x <= lapping[1];
        (laps ? inside : rows).push_back(i);
        all.keypoints[i].angle = 0.0f;  // one for all: a histogram of turns keeps every match
      }
      outside = static_cast<int>(rows.size());
      rows.insert(rows.end(), inside.begin(), inside.end());
      features_ = select(all, rows);
    } else {
      ++missed_;
    }
    keypoints = features_.keypoints;
    if (features_.descriptors.rows == 0) {
      descriptors.release();
    } else {
      features_.descriptors.copyTo(descriptors);
    }
    return outside;
  }

  /// ORB-SLAM2's call.
  void operator()(
    cv::InputArray image, cv::InputArray mask, std::vector<cv::KeyPoint> & keypoints,
    cv::OutputArray descriptors)
  {
    std::vector<int> nowhere;
    (*this)(image, mask, keypoints, descriptors, nowhere);
  }

  /// All arrays of the latest call, in the order of its keypoints: right_x, depth, track_ids, ...
  const Features & features() const {return features_;}

  /// Calls that got no message in time.
  std::size_t missed() const {return missed_;}

  // What ORB-SLAM asks its extractor for. It predicts level 0 or 1 for a point, looks there and one
  // level below, allows distances from factor[0] / factor[1] to factor[0] times the first one, and
  // widens its search window by factor[level]. A keypoint's variance does not depend on its level.
  int GetLevels() const {return 2;}
  float GetScaleFactor() const {return kReach;}
  std::vector<float> GetScaleFactors() const {return {kReach, kReach * kReach};}
  std::vector<float> GetInverseScaleFactors() const {return {1 / kReach, 1 / (kReach * kReach)};}
  std::vector<float> GetScaleSigmaSquares() const {return {1.0f, 1.0f};}
  std::vector<float> GetInverseScaleSigmaSquares() const {return {1.0f, 1.0f};}

private:
  static constexpr float kReach = 2.0f;
  static constexpr std::int64_t kTolerance = 1000;  // ns: doubles hold today's dates to 240 ns

  /// The message of the expected stamp; null when it does not come in time, or no more.
  std::shared_ptr<const FeatureFrame> wait()
  {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto find = [this] {
        const auto found = frames_.lower_bound(expected_ - kTolerance);
        return found != frames_.end() && found->first <= expected_ + kTolerance ?
               found->second : nullptr;
      };
    // One with a later stamp says that the front-end has left this image out.
    arrived_.wait_for(
      lock, patience_, [&] {return find() || newest_ > expected_ + kTolerance;});
    return find();
  }

  static void check_size(const cv::Mat & image, const FeatureFrame & frame, const char * name)
  {
    if (image.cols != static_cast<int>(frame.width) || image.rows != static_cast<int>(frame.height)) {
      throw std::invalid_argument(
              "the " + std::string(name) + " has " + std::to_string(image.cols) + "x" +
              std::to_string(image.rows) + " pixels, the front-end's images " +
              std::to_string(frame.width) + "x" + std::to_string(frame.height));
    }
  }

  const std::chrono::milliseconds patience_;
  const std::size_t capacity_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<std::int64_t, std::shared_ptr<const FeatureFrame>> frames_;  // by stamp, nanoseconds
  std::int64_t newest_ = INT64_MIN;
  std::int64_t expected_ = 0;
  Features features_;
  std::size_t missed_ = 0;
};

}  // namespace aliked_examples
