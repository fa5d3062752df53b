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

// The flat arrays of an aliked_msgs/FeatureFrame, read with nothing but the standard library.
//
// Templates over the message type: they take aliked_msgs::msg::FeatureFrame, and whatever else has
// its fields. The host is taken to be little-endian, as the descriptors are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace aliked_examples
{

/// An IEEE 754 half-precision number, given by its bits, as a float; exact.
inline float float_from_half(std::uint16_t half)
{
  const std::uint32_t sign = (half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fu;
  const std::uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {  // zero, or a subnormal: mantissa · 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  // Infinity and NaN keep an exponent of ones; others change its bias from 15 to 127.
  const std::uint32_t wide = exponent == 0x1fu ? 0xffu : exponent + (127 - 15);
  const std::uint32_t bits = sign | wide << 23 | mantissa << 13;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// Bytes of one descriptor, 0 when there are none. Throws std::invalid_argument for an encoding that
/// is not known.
template<typename FeatureFrame>
std::size_t descriptor_bytes(const FeatureFrame & frame)
{
  switch (frame.descriptor_encoding) {
    case FeatureFrame::FLOAT32: return frame.descriptor_dim * 4;
    case FeatureFrame::FLOAT16: return frame.descriptor_dim * 2;
    case FeatureFrame::BINARY256: return frame.descriptor_dim / 8;
    default: throw std::invalid_argument(
              "descriptor_encoding " + std::to_string(frame.descriptor_encoding) + " is not known");
  }
}

/// Number of keypoints. Throws std::invalid_argument for arrays whose lengths contradict each other.
template<typename FeatureFrame>
std::size_t feature_count(const FeatureFrame & frame)
{
  const std::size_t count = frame.scores.size();
  const auto check = [count](const char * name, std::size_t size, std::size_t expected) {
      if (size != expected) {
        throw std::invalid_argument(
                "a FeatureFrame of " + std::to_string(count) + " scores has " +
                std::to_string(size) + " " + name);
      }
    };
  const auto check_optional = [&check](const char * name, std::size_t size, std::size_t expected) {
      check(name, size, size == 0 ? 0 : expected);
    };
  check("coordinates", frame.keypoints.size(), 2 * count);
  check("ids", frame.track_ids.size(), count);
  check("recovered", frame.recovered.size(), count);
  check("descriptor bytes", frame.descriptors.size(), count * descriptor_bytes(frame));
  check_optional("normalized coordinates", frame.normalized.size(), 2 * count);
  check_optional("right_x", frame.right_x.size(), count);
  check_optional("depths", frame.depth.size(), count);
  check_optional("detection ages", frame.detection_age.size(), count);
  check_optional("covariances", frame.covariances.size(), 3 * count);
  check_optional("object_ids", frame.object_ids.size(), count);
  return count;
}

/// Write the N×D descriptors, row by row, from FLOAT32 or FLOAT16. The frame must be consistent.
template<typename FeatureFrame>
void copy_descriptors(const FeatureFrame & frame, float * rows)
{
  const std::uint8_t * bytes = frame.descriptors.data();
  const std::size_t size = frame.descriptors.size();
  if (frame.descriptor_encoding != FeatureFrame::FLOAT16) {
    if (size != 0) {
      std::memcpy(rows, bytes, size);
    }
    return;
  }
  for (std::size_t i = 0; i < size; i += 2) {
    *rows++ = float_from_half(static_cast<std::uint16_t>(bytes[i] | bytes[i + 1] << 8));
  }
}

}  // namespace aliked_examples
